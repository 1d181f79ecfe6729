"""Steps of the wall clock and suspensions are noticed; slewing and a busy process are not."""

import pytest

from gateway.clock import FakeClock
from gateway.runtime.clock_watch import CHECK_SECONDS, ClockWatch


class Machine:
    """Three clocks, and a watch that compares them."""

    def __init__(self) -> None:
        self.loop, self.wall, self.elapsed = FakeClock(), FakeClock(1_700_000_000.0), FakeClock(5_000.0)
        self.noticed: list[tuple[float, float]] = []
        self.watch = ClockWatch(
            self.loop,
            lambda step, suspended: self.noticed.append((round(step), round(suspended))),
            wall_clock=self.wall,
            elapsed_clock=self.elapsed,
            loop_clock=self.loop,
        )
        self.watch.start()

    def run(self, seconds: float, *, drift: float = 0.0) -> None:
        self.wall.now += seconds * (1 + drift)
        self.elapsed.now += seconds
        self.loop.advance(seconds)


@pytest.mark.parametrize("step", [3_600, -3_600, 1, -1])
def test_a_step_is_noticed_once(step: int) -> None:
    machine = Machine()
    machine.run(CHECK_SECONDS)
    machine.wall.now += step
    for _ in range(3):
        machine.run(CHECK_SECONDS)
    assert machine.noticed == [(step, 0)]
    assert machine.watch.statistics() == {"steps": 1}


def test_a_suspension_is_noticed() -> None:
    machine = Machine()
    machine.wall.now += 3_600
    machine.elapsed.now += 3_600
    machine.run(CHECK_SECONDS)
    assert machine.noticed == [(0, 3_600)]


def test_a_stopped_process_and_a_slewed_clock_are_no_step() -> None:
    machine = Machine()
    for clock in (machine.wall, machine.elapsed, machine.loop):
        clock.now += 3_600.0
    machine.run(0.0)
    for _ in range(100):
        machine.run(CHECK_SECONDS, drift=0.001)
    assert machine.noticed == []


def test_nothing_is_noticed_after_close() -> None:
    machine = Machine()
    machine.watch.close()
    machine.wall.now += 3_600
    machine.run(CHECK_SECONDS)
    assert machine.noticed == []
