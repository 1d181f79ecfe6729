"""How sessions leave a node that shuts down: `reconnect`, spread over a window, with everything written."""

from __future__ import annotations

import asyncio
import random

from gateway.hub.hub import Hub, LocalSession
from protocol.errors import CloseCode
from protocol.messages import Reconnect

SESSIONS_PER_SECOND = 200.0
"""Sessions closed per second, or more if the window is too short: few sessions need no full window."""

STEP_SECONDS = 0.05
"""Time between two groups of sessions."""


MIN_DELAY_MS, MAX_DELAY_MS = 50, 1_000
"""Delay that clients are told. By the first, the leave of a client has reached the broker, so that a return
to another node cancels it (docs/presence.md)."""


def group_count(sessions: int, window: float) -> int:
    """Return in how many groups *sessions* leave, one every `STEP_SECONDS`, in at most *window* seconds."""
    return max(1, round(min(window, sessions / SESSIONS_PER_SECOND) / STEP_SECONDS))


async def drain(hub: Hub, window: float) -> None:
    """Close every session with `reconnect` and 4000, spread over at most *window* seconds.

    Sessions that are still here are served as before.
    """
    sessions = list(hub.sessions.values())
    random.shuffle(sessions)
    groups = group_count(len(sessions), window)
    for number in range(groups):
        hub.flusher.run()
        for session in sessions[number::groups]:
            close_for_reconnect(session)
        if number < groups - 1:
            await asyncio.sleep(STEP_SECONDS)


def close_for_reconnect(session: LocalSession) -> None:
    """Tell one client to reconnect after a random delay, and close its connection."""
    session.send(Reconnect(random.randint(MIN_DELAY_MS, MAX_DELAY_MS), "drain"))
    session.close(CloseCode.DRAIN)
