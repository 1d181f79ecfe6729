"""Overload is told once the loop was late for three seconds on end, and once it is over."""

from __future__ import annotations

import pytest

from gateway.clock import FakeClock
from gateway.observe.loop_lag import PERIOD, WINDOW, LoopLag


class SlowLoop(FakeClock):
    """A scheduler that runs everything `lateness` seconds after it is due."""

    lateness = 0.0

    def turn(self, seconds: float) -> None:
        end = self.now + seconds
        while self.now < end:
            self.advance(PERIOD)
            if self.lateness:
                # What is due next runs only after this.
                self.now += self.lateness


def test_a_loop_in_time_is_never_overloaded() -> None:
    loop, told = SlowLoop(), list[bool]()
    lag = LoopLag(loop, loop, told.append)
    lag.start()
    loop.turn(20)
    assert told == []
    assert lag.p99 == pytest.approx(0.0)


def test_a_late_loop_is_overloaded_after_three_seconds_and_recovers() -> None:
    loop, told = SlowLoop(), list[bool]()
    lag = LoopLag(loop, loop, told.append)
    lag.start()
    loop.turn(1)
    loop.lateness = 0.2 + PERIOD
    loop.turn(WINDOW - 0.5)
    assert told == []
    loop.turn(2)
    assert told == [True]
    assert lag.statistics()["lag_p99_seconds"] == pytest.approx(0.2)
    loop.lateness = 0.0
    loop.turn(2 * WINDOW)
    assert told == [True, False]


def test_one_late_turn_is_not_overload() -> None:
    loop, told = SlowLoop(), list[bool]()
    lag = LoopLag(loop, loop, told.append)
    lag.start()
    loop.turn(1)
    loop.now += 2.0
    loop.turn(10)
    assert told == []


def test_nothing_is_looked_at_after_close() -> None:
    loop, told = SlowLoop(), list[bool]()
    lag = LoopLag(loop, loop, told.append)
    lag.start()
    lag.close()
    loop.lateness = 1.0
    loop.turn(20)
    assert told == []
    assert lag.p99 == pytest.approx(0.0)
