"""The lag of the event loop, and when it makes the node overloaded."""

from __future__ import annotations

import pytest

from gateway.clock import FakeClock
from gateway.observe.loop_lag import MEASURE_INTERVAL_SECONDS, WINDOW_SECONDS, LoopLag


class SlowLoop(FakeClock):
    """A scheduler that runs callbacks `lateness` seconds after they are due."""

    lateness = 0.0

    def run_for(self, seconds: float) -> None:
        end = self.now + seconds
        while self.now < end:
            self.advance(MEASURE_INTERVAL_SECONDS)
            if self.lateness:
                # The next callback runs only after this delay.
                self.now += self.lateness


def test_a_loop_without_lag_is_never_overloaded() -> None:
    loop, changes = SlowLoop(), list[bool]()
    lag = LoopLag(loop, loop, changes.append)
    lag.start()
    loop.run_for(20)
    assert changes == []
    assert lag.p99 == pytest.approx(0.0)


def test_a_lagging_loop_is_overloaded_after_the_window_and_recovers() -> None:
    loop, changes = SlowLoop(), list[bool]()
    lag = LoopLag(loop, loop, changes.append)
    lag.start()
    loop.run_for(1)
    loop.lateness = 0.2 + MEASURE_INTERVAL_SECONDS
    loop.run_for(WINDOW_SECONDS - 0.5)
    assert changes == []
    loop.run_for(2)
    assert changes == [True]
    assert lag.statistics()["lag_p99_seconds"] == pytest.approx(0.2)
    loop.lateness = 0.0
    loop.run_for(2 * WINDOW_SECONDS)
    assert changes == [True, False]


def test_one_late_callback_is_not_overload() -> None:
    loop, changes = SlowLoop(), list[bool]()
    lag = LoopLag(loop, loop, changes.append)
    lag.start()
    loop.run_for(1)
    loop.now += 2.0
    loop.run_for(10)
    assert changes == []


def test_nothing_is_measured_after_close() -> None:
    loop, changes = SlowLoop(), list[bool]()
    lag = LoopLag(loop, loop, changes.append)
    lag.start()
    lag.close()
    loop.lateness = 1.0
    loop.run_for(20)
    assert changes == []
    assert lag.p99 == pytest.approx(0.0)
