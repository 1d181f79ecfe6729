"""Counts what expires after a fixed time, without remembering each."""

from __future__ import annotations

from collections import deque

from gateway.clock import Clock

BUCKETS = 60
"""Parts of the time that are counted separately: the count is exact to a sixtieth."""


class RecentCount:
    """How many things were added within the last *seconds*."""

    __slots__ = ("_buckets", "_clock", "_seconds", "_total", "_width")

    def __init__(self, seconds: float, clock: Clock) -> None:
        """Count what was added within the last *seconds* of *clock*."""
        self._seconds = seconds
        self._width = seconds / BUCKETS
        self._clock = clock
        self._buckets: deque[list[float]] = deque()
        """`[beginning, count]`, oldest first."""
        self._total = 0

    def add(self) -> None:
        """Count one more."""
        now = self._clock()
        if not self._buckets or now >= self._buckets[-1][0] + self._width:
            self._expire(now)
            self._buckets.append([now, 0])
        self._buckets[-1][1] += 1
        self._total += 1

    @property
    def value(self) -> int:
        """The present count."""
        self._expire(self._clock())
        return self._total

    def _expire(self, now: float) -> None:
        while self._buckets and self._buckets[0][0] <= now - self._seconds:
            self._total -= int(self._buckets.popleft()[1])

    def __repr__(self) -> str:
        return f"<RecentCount {self._total}>"
