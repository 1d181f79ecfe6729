"""How late the event loop runs what is due: the figure behind "overloaded"."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from gateway.clock import Clock, Scheduler, Timer

PERIOD = 0.02
"""Seconds between two looks."""

WINDOW = 3.0
"""Seconds over which the 99th percentile is taken, and for which it must be too high (DESIGN section 6)."""

THRESHOLD = 0.1
"""Seconds of lateness at the 99th percentile that are too many."""


class LoopLag:
    """Looks how late it is called; tells when the loop is overloaded, and when it no longer is."""

    def __init__(self, scheduler: Scheduler, clock: Clock, on_change: Callable[[bool], None]) -> None:
        """Call *on_change* with True once the lag was too long for all of `WINDOW`, with False after it."""
        self._scheduler = scheduler
        self._clock = clock
        self._on_change = on_change
        self._lags: deque[float] = deque(maxlen=round(WINDOW / PERIOD))
        self._expected = 0.0
        self._late_since: float | None = None
        self._overloaded = False
        self._timer: Timer | None = None

    def start(self) -> None:
        """Begin to look."""
        self._expected = self._clock() + PERIOD
        self._timer = self._scheduler.call_later(PERIOD, self._look)

    def close(self) -> None:
        """Stop."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    @property
    def p99(self) -> float:
        """Seconds, over the last `WINDOW`: 1 look in 100 was later."""
        return sorted(self._lags)[-1 - len(self._lags) // 100] if self._lags else 0.0

    def statistics(self) -> dict[str, float]:
        """Return the lag in seconds."""
        return {"lag_p99_seconds": self.p99}

    def _look(self) -> None:
        now = self._clock()
        self._lags.append(max(0.0, now - self._expected))
        self._expected = now + PERIOD
        self._timer = self._scheduler.call_later(PERIOD, self._look)
        self._judge(now)

    def _judge(self, now: float) -> None:
        if self.p99 <= THRESHOLD:
            self._late_since = None
        elif self._late_since is None:
            self._late_since = now
        overloaded = self._late_since is not None and now - self._late_since >= WINDOW
        if overloaded != self._overloaded:
            self._overloaded = overloaded
            self._on_change(overloaded)
