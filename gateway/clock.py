"""Time as an argument: the clocks of the machine, and one that only tests move.

Which clock serves what, and what a step of one does: docs/operations.md#clocks.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Protocol

Clock = Callable[[], float]
"""Seconds; monotonic unless a name says `wall`."""


class Timer(Protocol):
    """A callback that is scheduled, and may still be cancelled."""

    def cancel(self) -> None:
        """Do not run the callback; no effect once it has run."""


class Scheduler(Protocol):
    """The part of an event loop that schedules callbacks (`asyncio.AbstractEventLoop` has it)."""

    def call_soon(self, callback: Callable[[], object], /) -> Timer:
        """Run *callback* in the next turn of the event loop."""

    def call_later(self, delay: float, callback: Callable[[], object], /) -> Timer:
        """Run *callback* after *delay* seconds."""

    def time(self) -> float:
        """Return the time of the loop's clock, in seconds."""


def _boot_time() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)


monotonic: Clock = time.monotonic
"""Never stepped; stands still while the machine is suspended. For timeouts, rates and the event loop."""

elapsed: Clock = _boot_time if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic
"""Never stepped; counts the time while the machine is suspended (clock_gettime(2), CLOCK_BOOTTIME). For what
ends after some time whether or not this process runs: leases, tokens, stored messages."""

wall: Clock = time.time
"""Unix seconds; may be stepped in both directions. For times that others wrote or will read."""


class FakeTimer:
    """A timer of a `FakeClock`."""

    def __init__(self, due: float, callback: Callable[[], object]) -> None:
        self.due = due
        self.callback = callback
        self.cancelled = False

    def cancel(self) -> None:
        """Do not run the callback."""
        self.cancelled = True


class FakeClock:
    """A clock and a scheduler whose time moves only by `advance`: for tests, ours and those of embedders."""

    def __init__(self, now: float = 1_000.0) -> None:
        self.now = now
        self._timers: list[FakeTimer] = []

    def __call__(self) -> float:
        return self.now

    def time(self) -> float:
        """Return the current time, in seconds."""
        return self.now

    def call_soon(self, callback: Callable[[], object]) -> FakeTimer:
        """Run *callback* at the next `run` or `advance`."""
        return self.call_later(0.0, callback)

    def call_later(self, delay: float, callback: Callable[[], object]) -> FakeTimer:
        """Run *callback* once `advance` has moved the clock by *delay* seconds."""
        timer = FakeTimer(self.now + delay, callback)
        self._timers.append(timer)
        return timer

    def run(self) -> None:
        """Run all callbacks that are due now, and those that they schedule for now, in order."""
        self.advance(0.0)

    def advance(self, seconds: float) -> None:
        """Move the clock by *seconds*; each callback runs at the time at which it is due."""
        end = self.now + seconds
        while due := [timer for timer in self._timers if timer.due <= end and not timer.cancelled]:
            timer = min(due, key=lambda timer: timer.due)
            self._timers.remove(timer)
            self.now = max(self.now, timer.due)
            timer.callback()
        self._timers = [timer for timer in self._timers if not timer.cancelled]
        self.now = max(self.now, end)
