"""When a breaker opens, half-opens and closes."""

import pytest

from gateway.broker.redis.connection.breaker import Breaker
from gateway.clock import FakeClock


def breaker_and_clock(random: float = 0.5) -> tuple[Breaker, FakeClock]:
    clock = FakeClock()
    return Breaker(clock, lambda: random), clock


@pytest.mark.parametrize(
    ("events", "closed"),
    [
        ("tttt", True),
        ("ttttt", False),
        ("ttttsttttst", True),
        ("fffff", True),
        ("s" * 10 + "f" * 9, True),
        ("s" * 10 + "f" * 10, False),
        ("s" * 11 + "f" * 10, True),
        ("f" * 19, True),
        ("f" * 20, False),
        ("s" * 100 + "t" * 4, True),
    ],
)
def test_opens_after_five_timeouts_in_a_row_or_when_half_of_20_calls_fail(events: str, closed: bool) -> None:
    breaker, _ = breaker_and_clock()
    for event in events:
        if event == "s":
            breaker.record_success()
        else:
            breaker.record_failure(timeout=event == "t")
    assert breaker.closed is closed
    assert breaker.allow_call() is closed


def test_failures_are_counted_for_ten_seconds() -> None:
    breaker, clock = breaker_and_clock()
    breaker.record_failure(19)
    clock.advance(11)
    breaker.record_failure()
    assert breaker.closed


def test_an_open_breaker_allows_one_probe_which_closes_it() -> None:
    breaker, clock = breaker_and_clock()
    breaker.record_failure(5, timeout=True)
    assert (breaker.seconds_until_probe, breaker.allow_call()) == (1.0, False)
    clock.advance(1.0)
    assert breaker.allow_call()
    assert not breaker.allow_call(), "one probe decides"
    breaker.record_success()
    assert breaker.closed
    assert breaker.allow_call()


def test_each_failed_probe_doubles_how_long_it_stays_open() -> None:
    breaker, clock = breaker_and_clock()
    breaker.record_failure(5, timeout=True)
    delays = []
    for _ in range(6):
        delays.append(breaker.seconds_until_probe)
        clock.advance(breaker.seconds_until_probe)
        assert breaker.allow_call()
        breaker.record_failure(timeout=True)
    assert delays == [1.0, 2.0, 4.0, 8.0, 10.0, 10.0]
    assert breaker.times_opened == 7
    breaker.reset()
    breaker.record_failure(5, timeout=True)
    assert breaker.seconds_until_probe == 1.0


@pytest.mark.parametrize(("random", "seconds"), [(0.0, 0.8), (0.5, 1.0), (1.0, 1.2)])
def test_how_long_it_stays_open_is_jittered(random: float, seconds: float) -> None:
    breaker, _ = breaker_and_clock(random)
    breaker.record_failure(5, timeout=True)
    assert breaker.seconds_until_probe == pytest.approx(seconds)


def test_a_probe_without_an_outcome_is_followed_by_another() -> None:
    breaker, clock = breaker_and_clock()
    breaker.record_failure(5, timeout=True)
    clock.advance(1.0)
    assert breaker.allow_call()
    assert not breaker.allow_call()
    clock.advance(1.0)
    assert breaker.allow_call()


def test_outcomes_of_calls_sent_before_it_opened_are_ignored() -> None:
    breaker, _ = breaker_and_clock()
    breaker.record_failure(5, timeout=True)
    breaker.record_success()
    breaker.record_failure()
    assert not breaker.closed
    assert breaker.times_opened == 1
