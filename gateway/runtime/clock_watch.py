"""Notices when the wall clock was stepped, or the machine was suspended: the event loop does not."""

from __future__ import annotations

from collections.abc import Callable

from gateway.clock import Clock, Scheduler, Timer, elapsed, monotonic, wall

CHECK_SECONDS = 1.0
"""How often the clocks are compared: a token ends at most so much too late."""

STEP_SECONDS = 0.5
"""Difference between two checks that counts as a step. NTP slews by less than a millisecond per second."""


class ClockWatch:
    """Compares the wall clock, and the one that counts suspensions, with the clock of the event loop."""

    def __init__(
        self,
        scheduler: Scheduler,
        on_step: Callable[[float, float], None],
        *,
        wall_clock: Clock = wall,
        elapsed_clock: Clock = elapsed,
        loop_clock: Clock = monotonic,
    ) -> None:
        """Call *on_step* with the seconds of a step, and those that the machine was suspended."""
        self._scheduler = scheduler
        self._on_step = on_step
        self._clocks = (wall_clock, elapsed_clock, loop_clock)
        self._offsets = self._read()
        self._timer: Timer | None = None
        self.steps = 0

    def start(self) -> None:
        """Begin to compare, until `close`."""
        self._offsets = self._read()
        self._schedule()

    def close(self) -> None:
        """Stop."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def statistics(self) -> dict[str, int]:
        """Return how many steps and suspensions were noticed."""
        return {"steps": self.steps}

    def _read(self) -> tuple[float, float]:
        """Return how far the wall clock is ahead of elapsed time, and elapsed time of the loop's clock."""
        now, passed, of_loop = (clock() for clock in self._clocks)
        return now - passed, passed - of_loop

    def _schedule(self) -> None:
        self._timer = self._scheduler.call_later(CHECK_SECONDS, self._check)

    def _check(self) -> None:
        self._schedule()
        before, self._offsets = self._offsets, self._read()
        step, suspended = (now - earlier for now, earlier in zip(self._offsets, before, strict=True))
        if abs(step) >= STEP_SECONDS or suspended >= STEP_SECONDS:
            self.steps += 1
            self._on_step(step, suspended)

    def __repr__(self) -> str:
        return f"<ClockWatch {self.steps} steps>"
