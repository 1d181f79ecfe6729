"""How a node's clients leave it: told when to come back, spread over a window, nothing unsent."""

from __future__ import annotations

import asyncio
import random

from gateway.hub.hub import Hub
from gateway.hub.session import Session
from protocol.errors import CloseCode
from protocol.messages import Reconnect

MOST_A_SECOND = 200.0
"""Sessions that are sent away in a second while the window is longer than that takes: few need not wait."""

STEP = 0.05
"""Seconds between two groups."""


def groups(count: int, window: float) -> int:
    """Return in how many groups *count* sessions leave, one every `STEP` seconds of at most *window*."""
    return max(1, round(min(window, count / MOST_A_SECOND) / STEP))


async def drain(hub: Hub, window: float) -> None:
    """Send every session away with `reconnect` and 4000, spread over at most *window* seconds.

    Those that are still here are served as before.
    """
    sessions = list(hub.sessions.values())
    random.shuffle(sessions)
    steps = groups(len(sessions), window)
    for step in range(steps):
        hub.flusher.run()
        for session in sessions[step::steps]:
            send_away(session)
        if step < steps - 1:
            await asyncio.sleep(STEP)


def send_away(session: Session) -> None:
    """Tell one session to reconnect within a second, at a moment of its own, and close it."""
    session.send(Reconnect(random.randint(0, 1_000), "drain"))
    session.end(CloseCode.DRAIN)
