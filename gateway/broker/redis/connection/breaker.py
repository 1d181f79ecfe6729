"""When to stop asking a Redis that does not answer: a state machine, pure; time and chance are arguments."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable

from gateway.broker.redis.timeouts import CALLS, FIRST, LONGEST, TIMEOUTS, WINDOW
from gateway.clock import Clock, monotonic


class Breaker:
    """Closed: every call goes. Open: none. Half-open: one, which decides."""

    __slots__ = ("_buckets", "_chance", "_clock", "_open_for", "_probing", "_timeouts", "_until", "opened")

    def __init__(self, clock: Clock = monotonic, chance: Callable[[], float] = random.random) -> None:
        """Draw jitter from *chance*, which returns 0 … 1."""
        self._clock = clock
        self._chance = chance
        self._buckets: deque[list[int]] = deque()
        """Second, calls, failures; the oldest first."""
        self._timeouts = 0
        self._open_for = 0.0
        self._until: float | None = None
        self._probing = False
        self.opened = 0
        """How often it has opened."""

    @property
    def closed(self) -> bool:
        """Whether every call goes."""
        return self._until is None

    @property
    def waits(self) -> float:
        """Seconds until the next call is let through; 0 where one would be now."""
        return 0.0 if self._until is None else max(0.0, self._until - self._clock())

    def admit(self) -> bool:
        """Return whether a call may go; half-open, that is one, and another when its outcome stays out."""
        if self._until is None:
            return True
        now = self._clock()
        if now < self._until:
            return False
        self._probing = True
        self._until = now + FIRST
        return True

    def succeeded(self, calls: int = 1) -> None:
        """Hear that *calls* were answered."""
        self._timeouts = 0
        if self._until is None:
            self._count(calls, 0)
        elif self._probing:
            self.reset()

    def failed(self, calls: int = 1, *, timeout: bool = False) -> None:
        """Hear that *calls* were not answered; *timeout* where nothing came in time."""
        if self._until is not None:
            if self._probing:
                self._open()
            return
        self._timeouts = self._timeouts + calls if timeout else 0
        made, failures = self._count(calls, calls)
        if self._timeouts >= TIMEOUTS or (made >= CALLS and 2 * failures >= made):
            self._open()

    def _count(self, calls: int, failures: int) -> tuple[int, int]:
        second = int(self._clock())
        while self._buckets and self._buckets[0][0] <= second - WINDOW:
            self._buckets.popleft()
        if not self._buckets or self._buckets[-1][0] != second:
            self._buckets.append([second, 0, 0])
        self._buckets[-1][1] += calls
        self._buckets[-1][2] += failures
        if not failures:
            return 0, 0
        return sum(bucket[1] for bucket in self._buckets), sum(bucket[2] for bucket in self._buckets)

    def _open(self) -> None:
        self._open_for = min(LONGEST, 2 * self._open_for) if self._open_for else FIRST
        self._until = self._clock() + self._open_for * (0.8 + 0.4 * self._chance())
        self._probing = False
        self.opened += 1

    def reset(self) -> None:
        """Close: it is known by other means that Redis is back."""
        self._until, self._open_for, self._timeouts, self._probing = None, 0.0, 0, False
        self._buckets.clear()

    def __repr__(self) -> str:
        return "<Breaker closed>" if self.closed else f"<Breaker open for {self.waits:.1f} s>"
