"""The lag of the event loop: how late it runs callbacks, and whether that makes the node overloaded."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from gateway.clock import Clock, Scheduler, Timer

MEASURE_INTERVAL_SECONDS = 0.02

WINDOW_SECONDS = 3.0
"""Time over which the 99th percentile is computed, and for which it must be too high."""

OVERLOAD_LAG_SECONDS = 0.1
"""The 99th percentile of the lag above which the loop is overloaded."""


class LoopLag:
    """Measures the lag of the event loop with a periodic timer."""

    def __init__(
        self, scheduler: Scheduler, clock: Clock, on_overload_change: Callable[[bool], None]
    ) -> None:
        """Measure nothing yet: `start` begins.

        *on_overload_change* is called with True once the lag was too high for all of `WINDOW_SECONDS`, and
        with False once it no longer is.
        """
        self._scheduler = scheduler
        self._clock = clock
        self._on_overload_change = on_overload_change
        self._lags: deque[float] = deque(maxlen=round(WINDOW_SECONDS / MEASURE_INTERVAL_SECONDS))
        self._expected_at = 0.0
        self._too_high_since: float | None = None
        self._overloaded = False
        self._timer: Timer | None = None

    def start(self) -> None:
        """Begin to measure."""
        self._schedule(self._clock())

    def close(self) -> None:
        """Stop measuring."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    @property
    def p99(self) -> float:
        """The 99th percentile of the lag in seconds, over the last `WINDOW_SECONDS`."""
        return sorted(self._lags)[-1 - len(self._lags) // 100] if self._lags else 0.0

    def statistics(self) -> dict[str, float]:
        """Return the lag in seconds."""
        return {"lag_p99_seconds": self.p99}

    def _schedule(self, now: float) -> None:
        self._expected_at = now + MEASURE_INTERVAL_SECONDS
        self._timer = self._scheduler.call_later(MEASURE_INTERVAL_SECONDS, self._measure)

    def _measure(self) -> None:
        now = self._clock()
        self._lags.append(max(0.0, now - self._expected_at))
        self._schedule(now)
        self._update_overloaded(now)

    def _update_overloaded(self, now: float) -> None:
        if self.p99 <= OVERLOAD_LAG_SECONDS:
            self._too_high_since = None
        elif self._too_high_since is None:
            self._too_high_since = now
        overloaded = self._too_high_since is not None and now - self._too_high_since >= WINDOW_SECONDS
        if overloaded != self._overloaded:
            self._overloaded = overloaded
            self._on_overload_change(overloaded)
