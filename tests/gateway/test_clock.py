"""The fake clock, and the clocks of the machine."""

import time

from hypothesis import given
from hypothesis import strategies as st

from gateway.clock import FakeClock, monotonic, wall
from tests.gateway.virtual_time import no_deadline


def test_monotonic_and_wall_are_the_clocks_of_the_machine() -> None:
    assert monotonic is time.monotonic
    assert wall is time.time


def test_the_time_of_a_fake_clock_does_not_change_by_itself() -> None:
    clock = FakeClock(5.0)
    assert clock() == clock.time() == clock() == 5.0


def test_callbacks_run_in_order_while_the_clock_shows_their_time() -> None:
    clock = FakeClock(0.0)
    seen: list[tuple[str, float]] = []
    for name, delay in (("late", 3.0), ("early", 1.0), ("early too", 1.0), ("never", 3.5)):
        clock.call_later(delay, lambda name=name: seen.append((name, clock())))  # type: ignore[misc]
    clock.advance(3.0)
    assert seen == [("early", 1.0), ("early too", 1.0), ("late", 3.0)]
    assert clock() == 3.0


def test_call_soon_runs_a_callback_once_at_the_next_run() -> None:
    clock = FakeClock()
    seen: list[float] = []
    clock.call_soon(lambda: seen.append(clock()))
    assert seen == []
    clock.run()
    assert seen == [1_000.0]
    clock.run()
    assert seen == [1_000.0]


def test_a_callback_that_another_one_schedules_within_the_advance_runs() -> None:
    clock = FakeClock(0.0)
    seen: list[float] = []

    def tick() -> None:
        seen.append(clock())
        clock.call_later(1.0, tick)

    clock.call_soon(tick)
    clock.advance(3.5)
    assert seen == [0.0, 1.0, 2.0, 3.0]
    assert clock() == 3.5


def test_a_cancelled_callback_never_runs_and_cancel_after_the_run_has_no_effect() -> None:
    clock = FakeClock(0.0)
    seen: list[str] = []
    second = clock.call_later(1.0, lambda: seen.append("second"))
    clock.call_later(0.5, second.cancel)
    first = clock.call_later(0.2, lambda: seen.append("first"))
    clock.advance(2.0)
    first.cancel()
    assert seen == ["first"]


def test_a_callback_may_advance_the_clock_itself() -> None:
    clock = FakeClock(0.0)
    seen: list[float] = []
    clock.call_later(1.0, lambda: clock.advance(5.0))
    clock.call_later(3.0, lambda: seen.append(clock()))
    clock.advance(2.0)
    assert (clock(), seen) == (6.0, [3.0])


@no_deadline
@given(st.lists(st.floats(0.0, 100.0)), st.lists(st.floats(0.0, 40.0)))
def test_callbacks_run_in_order_of_their_times_however_the_clock_is_advanced(
    delays: list[float], steps: list[float]
) -> None:
    clock = FakeClock(0.0)
    seen: list[float] = []
    for delay in delays:
        clock.call_later(delay, lambda: seen.append(clock()))
    clock.run()
    for step in steps:
        clock.advance(step)
    assert seen == sorted(delay for delay in delays if delay <= clock())
