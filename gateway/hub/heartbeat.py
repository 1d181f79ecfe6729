"""One timer wheel for the heartbeats of all connections (docs/protocol.md#heartbeats)."""

from __future__ import annotations

import math
from enum import Enum, auto
from typing import Protocol

from gateway import defaults
from gateway.clock import Scheduler, Timer
from gateway.hub.pong_deadline import PongDeadline
from gateway.transport.tcp_progress import TcpProgress

MAX_SLOTS = 4096
"""Slots of a wheel, 256 KiB. A session that is due further ahead is checked at the end of the wheel, too."""


class MonitoredSession(Protocol):
    """A session, as far as the heartbeat knows it."""

    last_received_at: float
    """When the client last sent a message, or was last seen to have sent a part of one."""
    ping_sent_at: float
    """When the newest ping was sent; 0.0 before the first one."""
    wheel_slot: int
    """Its slot on the wheel; -1 while it is on none."""
    pong_deadline: PongDeadline | None
    """When an answer is due where that may take longer than the grace; None while no ping needed it."""

    def ping(self) -> int:
        """Write a ping, ahead of what waits in the outbox; return its bytes."""

    def progress(self) -> TcpProgress:
        """Return how far the bytes of the connection have got."""

    def on_heartbeat_timeout(self) -> None:
        """The client has not answered in time: close the connection."""


class HeartbeatAction(Enum):
    """What is due for one session."""

    WAIT = auto()
    PING = auto()
    TIME_OUT = auto()


def next_action(
    now: float, last_received_at: float, ping_sent_at: float, interval: float, grace: float
) -> tuple[HeartbeatAction, float]:
    """Return what is due at *now*, and when to check the session again.

    Anything received proves that the client is there. A dead peer is detected *interval* + *grace* seconds
    after the last thing received from it, unless the ping had to wait behind other bytes (`PongDeadline`).
    """
    if ping_sent_at and last_received_at < ping_sent_at:
        deadline = ping_sent_at + grace
        return (HeartbeatAction.TIME_OUT, now) if now >= deadline else (HeartbeatAction.WAIT, deadline)
    if now - last_received_at >= interval:
        return HeartbeatAction.PING, now + grace
    return HeartbeatAction.WAIT, last_received_at + interval


class Heartbeat:
    """A wheel of slots, each of which holds the sessions to check in one tick.

    One timer for the node instead of two for each connection: a session costs an entry in a dictionary.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        *,
        interval: float,
        grace: float,
        stall_timeout: float = defaults.STALL_TIMEOUT_SECONDS,
    ) -> None:
        """Ping after *interval* seconds of silence; time out *grace* seconds after an unanswered ping.

        Bytes that arrive count, whole messages or not. A ping that waits behind other bytes times out when
        none of them was acknowledged for *stall_timeout* seconds (`PongDeadline`). So does any session,
        whatever it sends, if bytes wait for it and none could be sent for as long.
        """
        self.interval = interval
        self.grace = grace
        self._stall_timeout = stall_timeout
        self._scheduler = scheduler
        self._tick = min(1.0, interval / 10, grace / 10)
        slots = min(MAX_SLOTS, math.ceil(max(interval, grace) / self._tick) + 2)
        self._slots: list[dict[MonitoredSession, None]] = [{} for _ in range(slots)]
        self._current_slot = 0
        self._timer: Timer | None = None
        self._sessions = self._pings = self._extended = self._dead = 0

    def add(self, session: MonitoredSession) -> None:
        """Monitor *session* from now on."""
        session.last_received_at = self._scheduler.time()
        self._sessions += 1
        self._place(session, session.last_received_at + self.interval, session.last_received_at)
        if self._timer is None:
            self._start_timer()

    def remove(self, session: MonitoredSession) -> None:
        """Stop monitoring *session*; does nothing if it is not monitored."""
        if session.wheel_slot >= 0 and self._slots[session.wheel_slot].pop(session, 0) is None:
            session.wheel_slot = -1
            self._sessions -= 1

    def close(self) -> None:
        """Stop the timer."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def statistics(self) -> dict[str, int]:
        """Return how many sessions are monitored, and how many pings were sent, extended and timed out."""
        return {
            "sessions": self._sessions,
            "pings": self._pings,
            "extended": self._extended,
            "dead": self._dead,
        }

    def _start_timer(self) -> None:
        self._timer = self._scheduler.call_later(self._tick, self._on_tick)

    def _on_tick(self) -> None:
        """Check the sessions in the next slot only.

        If the process was suspended, the overdue slots are checked one per tick, so pending input is read
        before any session times out.
        """
        now = self._scheduler.time()
        self._timer = None
        if self._sessions:
            self._start_timer()
        self._current_slot = (self._current_slot + 1) % len(self._slots)
        slot = self._slots[self._current_slot]
        while slot:
            # One by one: closing a session may remove another one from the same slot.
            session, _ = slot.popitem()
            session.wheel_slot = -1
            progress = session.progress()
            action, check_at = self._next_action(session, progress, now)
            if action is HeartbeatAction.TIME_OUT:
                self._sessions -= 1
                self._dead += 1
                session.on_heartbeat_timeout()
                continue
            self._place(session, check_at, now)
            if action is HeartbeatAction.PING:
                self._ping(session, progress, now)

    def _next_action(
        self, session: MonitoredSession, progress: TcpProgress, now: float
    ) -> tuple[HeartbeatAction, float]:
        """Return what is due for *session*, by its messages, or by *progress* where these do not decide."""
        if progress.stalled_seconds >= self._stall_timeout:
            return HeartbeatAction.TIME_OUT, now
        action, check_at = next_action(
            now, session.last_received_at, session.ping_sent_at, self.interval, self.grace
        )
        if action is not HeartbeatAction.TIME_OUT:
            return action, check_at
        received_at = now - progress.seconds_since_received
        if received_at > session.ping_sent_at:
            session.last_received_at = received_at
            return next_action(now, received_at, session.ping_sent_at, self.interval, self.grace)
        if session.pong_deadline is not None:
            deadline = session.pong_deadline.at(
                now, progress, grace=self.grace, stall_timeout=self._stall_timeout
            )
            if deadline > now:
                self._extended += 1
                return HeartbeatAction.WAIT, deadline
        return action, now

    def _ping(self, session: MonitoredSession, progress: TcpProgress, now: float) -> None:
        """Ping *session*, whose bytes have come as far as *progress* says."""
        self._pings += 1
        session.ping_sent_at = now
        size = session.ping()
        if session.pong_deadline is None and PongDeadline.is_needed(progress, self.grace):
            session.pong_deadline = PongDeadline()
        if session.pong_deadline is not None:
            session.pong_deadline.on_ping(now, size, progress)

    def _place(self, session: MonitoredSession, check_at: float, now: float) -> None:
        ticks = min(max(1, math.ceil((check_at - now) / self._tick)), len(self._slots) - 1)
        session.wheel_slot = (self._current_slot + ticks) % len(self._slots)
        self._slots[session.wheel_slot][session] = None

    def __repr__(self) -> str:
        return f"<Heartbeat every {self.interval} s for {self._sessions} sessions>"
