"""Circuit breaker: stops calls to a Redis that does not answer. Pure: clock and randomness are arguments.

The limits are in `timeouts.py`; docs/redis.md#when-something-fails says what clients see.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable

from gateway.broker.redis.timeouts import (
    BREAKER_MIN_CALLS,
    BREAKER_OPEN_MAX_SECONDS,
    BREAKER_OPEN_SECONDS,
    BREAKER_TIMEOUTS_IN_A_ROW,
    BREAKER_WINDOW_SECONDS,
)
from gateway.clock import Clock, monotonic


class Breaker:
    """Closed: every call is allowed. Open: no call is. Half-open: one probe call, whose outcome decides."""

    __slots__ = (
        "_buckets",
        "_clock",
        "_open_for",
        "_open_until",
        "_probing",
        "_random",
        "_timeouts_in_a_row",
        "times_opened",
    )

    def __init__(self, clock: Clock = monotonic, random: Callable[[], float] = random.random) -> None:
        """Create a closed breaker. *random* returns 0 … 1, the jitter of the time that it stays open."""
        self._clock = clock
        self._random = random
        self._buckets: deque[list[int]] = deque()
        """`[second, calls, failures]` for each second of the window, oldest first."""
        self._timeouts_in_a_row = 0
        self._open_for = 0.0
        self._open_until: float | None = None
        self._probing = False
        self.times_opened = 0

    @property
    def closed(self) -> bool:
        """Whether every call is allowed."""
        return self._open_until is None

    @property
    def seconds_until_probe(self) -> float:
        """Seconds until the next call is allowed; 0 if a call is allowed now."""
        return 0.0 if self._open_until is None else max(0.0, self._open_until - self._clock())

    def allow_call(self) -> bool:
        """Return whether a call may be made now.

        When half-open, this call is the probe. If the outcome of the probe is never recorded, another probe
        is allowed after `BREAKER_OPEN_SECONDS`.
        """
        if self._open_until is None:
            return True
        now = self._clock()
        if now < self._open_until:
            return False
        self._probing = True
        self._open_until = now + BREAKER_OPEN_SECONDS
        return True

    def record_success(self, calls: int = 1) -> None:
        """Count *calls* that were answered; close the breaker if one of them was the probe."""
        self._timeouts_in_a_row = 0
        if self._open_until is None:
            self._count(calls, 0)
        elif self._probing:
            self.reset()

    def record_failure(self, calls: int = 1, *, timeout: bool = False) -> None:
        """Count *calls* that failed; *timeout*: they timed out. Open the breaker after too many failures."""
        if self._open_until is not None:
            if self._probing:
                self._open()
            return
        self._timeouts_in_a_row = self._timeouts_in_a_row + calls if timeout else 0
        made, failed = self._count(calls, calls)
        if self._timeouts_in_a_row >= BREAKER_TIMEOUTS_IN_A_ROW or (
            made >= BREAKER_MIN_CALLS and 2 * failed >= made
        ):
            self._open()

    def _count(self, calls: int, failures: int) -> tuple[int, int]:
        """Add to the present second; return calls and failures of the window, (0, 0) without *failures*."""
        second = int(self._clock())
        while self._buckets and self._buckets[0][0] <= second - BREAKER_WINDOW_SECONDS:
            self._buckets.popleft()
        if not self._buckets or self._buckets[-1][0] != second:
            self._buckets.append([second, 0, 0])
        self._buckets[-1][1] += calls
        self._buckets[-1][2] += failures
        if not failures:
            return 0, 0
        return sum(bucket[1] for bucket in self._buckets), sum(bucket[2] for bucket in self._buckets)

    def _open(self) -> None:
        self._open_for = (
            min(BREAKER_OPEN_MAX_SECONDS, 2 * self._open_for) if self._open_for else BREAKER_OPEN_SECONDS
        )
        self._open_until = self._clock() + self._open_for * (0.8 + 0.4 * self._random())
        self._probing = False
        self.times_opened += 1

    def reset(self) -> None:
        """Close the breaker: a lease renewal has shown that Redis answers again."""
        self._open_until, self._open_for, self._timeouts_in_a_row, self._probing = None, 0.0, 0, False
        self._buckets.clear()

    def __repr__(self) -> str:
        return "<Breaker closed>" if self.closed else f"<Breaker open for {self.seconds_until_probe:.1f} s>"
