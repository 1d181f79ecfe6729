"""One timer wheel for all connections: who is silent is asked, who does not answer is gone."""

from __future__ import annotations

import math
from enum import Enum, auto
from typing import Protocol

from gateway.clock import Scheduler, Timer


class Beating(Protocol):
    """A session, as far as the heartbeat knows it."""

    seen: float
    """When something came from it."""
    pinged: float
    """When it was asked and has not answered yet; 0.0 while nothing is asked."""
    slot: int
    """Where on the wheel it is; -1 while it is on none."""

    def ping(self) -> None:
        """Ask."""

    def silent(self) -> None:
        """It did not answer in time: disconnect."""


class Beat(Enum):
    """What is due for one session."""

    WAIT = auto()
    PING = auto()
    DEAD = auto()


def due(now: float, seen: float, pinged: float, interval: float, grace: float) -> tuple[Beat, float]:
    """Return what is due at *now*, and when to look again.

    Anything that was received counts as a sign of life. A dead peer is found out *interval* + *grace* after
    its last one.
    """
    if pinged and seen < pinged:
        return (Beat.DEAD, now) if now >= pinged + grace else (Beat.WAIT, pinged + grace)
    if now - seen >= interval:
        return Beat.PING, now + grace
    return Beat.WAIT, seen + interval


class Heartbeat:
    """A wheel of slots, each of which holds the sessions to look at in one tick.

    One timer for the node instead of two for each connection: a session costs an entry in a dictionary.
    """

    def __init__(self, scheduler: Scheduler, *, interval: float, grace: float) -> None:
        """Ask who was silent for *interval* seconds, and give *grace* seconds to answer."""
        self.interval = interval
        self.grace = grace
        self._scheduler = scheduler
        self._tick = min(1.0, interval / 10, grace / 10)
        self._slots: list[dict[Beating, None]] = [
            {} for _ in range(math.ceil(max(interval, grace) / self._tick) + 2)
        ]
        self._hand = 0
        self._timer: Timer | None = None
        self._sessions = self._pings = self._dead = 0

    def add(self, session: Beating) -> None:
        """Watch *session* from now on."""
        session.seen = self._scheduler.time()
        self._sessions += 1
        self._place(session, session.seen + self.interval, session.seen)
        if self._timer is None:
            self._wind()

    def remove(self, session: Beating) -> None:
        """Watch *session* no longer; harmless when it is not watched."""
        if session.slot >= 0 and self._slots[session.slot].pop(session, 0) is None:
            session.slot = -1
            self._sessions -= 1

    def close(self) -> None:
        """Stop."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def statistics(self) -> dict[str, int]:
        """Return how many sessions are watched, were asked, and did not answer."""
        return {"sessions": self._sessions, "pings": self._pings, "dead": self._dead}

    def _wind(self) -> None:
        self._timer = self._scheduler.call_later(self._tick, self._turn)

    def _turn(self) -> None:
        """Look at those in the next slot, and at no others.

        After the node stood still, so that nobody was heard, each overdue slot still gets a turn of its own,
        and what came meanwhile is read before that.
        """
        now = self._scheduler.time()
        self._timer = None
        if self._sessions:
            self._wind()
        self._hand = (self._hand + 1) % len(self._slots)
        slot = self._slots[self._hand]
        while slot:
            # One by one: the end of one session may be that of another in the same slot.
            session, _ = slot.popitem()
            session.slot = -1
            beat, again = due(now, session.seen, session.pinged, self.interval, self.grace)
            if beat is Beat.DEAD:
                self._sessions -= 1
                self._dead += 1
                session.silent()
                continue
            self._place(session, again, now)
            if beat is Beat.PING:
                self._pings += 1
                session.pinged = now
                session.ping()

    def _place(self, session: Beating, when: float, now: float) -> None:
        ticks = min(max(1, math.ceil((when - now) / self._tick)), len(self._slots) - 1)
        session.slot = (self._hand + ticks) % len(self._slots)
        self._slots[session.slot][session] = None

    def __repr__(self) -> str:
        return f"<Heartbeat every {self.interval} s for {self._sessions} sessions>"
