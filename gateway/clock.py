"""Time as an argument: the clock of the machine, and one that stands still until a test moves it."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Protocol

Clock = Callable[[], float]
"""Seconds; monotonic unless a name says `wall`."""


class Timer(Protocol):
    """What is to happen later, and may still be called off."""

    def cancel(self) -> None:
        """Call it off; harmless once it has happened."""


class Scheduler(Protocol):
    """The part of an event loop that runs things later (`asyncio.AbstractEventLoop` has it)."""

    def call_soon(self, callback: Callable[[], object], /) -> Timer:
        """Run *callback* in the next turn of the loop."""

    def call_later(self, delay: float, callback: Callable[[], object], /) -> Timer:
        """Run *callback* after *delay* seconds."""

    def time(self) -> float:
        """Return the loop's clock in seconds."""


monotonic: Clock = time.monotonic
wall: Clock = time.time


class FakeTimer:
    """A timer of a `FakeClock`."""

    def __init__(self, due: float, callback: Callable[[], object]) -> None:
        self.due = due
        self.callback = callback
        self.cancelled = False

    def cancel(self) -> None:
        """Call it off."""
        self.cancelled = True


class FakeClock:
    """A clock and a scheduler that stand still until `advance`: for tests, ours and those of others."""

    def __init__(self, now: float = 1_000.0) -> None:
        self.now = now
        self._timers: list[FakeTimer] = []

    def __call__(self) -> float:
        return self.now

    def time(self) -> float:
        """Return the current time."""
        return self.now

    def call_soon(self, callback: Callable[[], object]) -> FakeTimer:
        """Run *callback* at the next `run` or `advance`."""
        return self.call_later(0.0, callback)

    def call_later(self, delay: float, callback: Callable[[], object]) -> FakeTimer:
        """Run *callback* once the clock was moved by *delay* seconds."""
        timer = FakeTimer(self.now + delay, callback)
        self._timers.append(timer)
        return timer

    def run(self) -> None:
        """Run everything that is due now, and what that makes due, in order."""
        self.advance(0.0)

    def advance(self, seconds: float) -> None:
        """Move the clock by *seconds*, running what becomes due on the way at its own time."""
        end = self.now + seconds
        while due := [timer for timer in self._timers if timer.due <= end and not timer.cancelled]:
            timer = min(due, key=lambda timer: timer.due)
            self._timers.remove(timer)
            self.now = max(self.now, timer.due)
            timer.callback()
        self._timers = [timer for timer in self._timers if not timer.cancelled]
        self.now = max(self.now, end)
