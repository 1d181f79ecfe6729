import gc

import pytest
from aiolimiter import AsyncLimiter
from hypothesis import given
from hypothesis import strategies as st

from gateway.access.ratelimit import CommandLimiter, RejectionCounter, TokenBucket
from gateway.clock import FakeClock
from tests.gateway.access.clock_loop import run_with_clock


def admitted(limiter: CommandLimiter, now: float, *, tries: int) -> int:
    return sum(limiter.admit("publish", now) == 0.0 for _ in range(tries))


def buckets(limiter: CommandLimiter) -> list[TokenBucket]:
    return [each for each in gc.get_referents(limiter) if isinstance(each, TokenBucket)]


def test_a_burst_passes_at_once_and_then_the_rate_applies() -> None:
    clock = FakeClock()
    limiter = CommandLimiter(10.0, 5.0, {})
    assert admitted(limiter, clock(), tries=20) == 5
    for _ in range(10):
        clock.advance(0.1)
        assert admitted(limiter, clock(), tries=20) == 1
    clock.advance(60.0)
    assert admitted(limiter, clock(), tries=20) == 5


@pytest.mark.parametrize(("rate", "burst", "seconds"), [(50.0, 200.0, 10), (3.0, 2.0, 7), (0.5, 2.0, 20)])
def test_no_period_admits_more_than_burst_and_rate_allow(rate: float, burst: float, seconds: int) -> None:
    clock = FakeClock()
    limiter = CommandLimiter(rate, burst, {})
    total = admitted(limiter, clock(), tries=300)
    for _ in range(seconds * 10):
        clock.advance(0.1)
        total += admitted(limiter, clock(), tries=300)
    assert total == int(burst + rate * seconds)


def test_a_client_that_waits_as_long_as_asked_is_admitted_and_no_sooner() -> None:
    clock = FakeClock()
    limiter = CommandLimiter(7.0, 3.0, {"history": 3.0})
    assert limiter.admit("history", clock()) == 0.0
    for _ in range(1_000):
        wait = limiter.admit("history", clock())
        assert wait == pytest.approx(3.0 / 7.0)
        clock.advance(wait * 0.99)
        assert limiter.admit("history", clock()) > 0.0
        clock.advance(wait * 0.01)
        assert limiter.admit("history", clock()) == 0.0


@given(
    rate=st.floats(0.01, 100.0),
    burst=st.floats(1.0, 500.0),
    uptime=st.floats(0.0, 1e7),
    used=st.floats(0.01, 1.0),
)
def test_rounding_of_floats_makes_no_client_wait_twice(
    rate: float, burst: float, uptime: float, used: float
) -> None:
    clock = FakeClock()
    clock.now = uptime
    bucket = TokenBucket(rate_per_s=rate, burst=burst, now=clock())
    assert bucket.take(burst * used, clock()) == 0.0
    clock.advance(bucket.take(burst, clock()))
    assert bucket.take(burst, clock()) == 0.0


def test_aiolimiter_rejects_a_caller_that_waited_exactly_as_long_as_needed() -> None:
    """The case of docs/decisions/rate-limiter.md. When this fails, aiolimiter may serve for commands, too."""

    def scenario(clock: FakeClock) -> None:
        clock.now = 651_592.972722763
        limiter = AsyncLimiter(10, 0.2)
        with pytest.raises(StopIteration):
            limiter.acquire(10).send(None)
        bucket = TokenBucket(rate_per_s=50.0, burst=10.0, now=clock())
        assert bucket.take(10.0, clock()) == 0.0
        clock.advance(0.2)
        assert not limiter.has_capacity(10)
        assert bucket.take(10.0, clock()) == 0.0

    run_with_clock(scenario)


def test_each_command_type_takes_its_cost() -> None:
    clock = FakeClock()
    limiter = CommandLimiter(1.0, 10.0, {"history": 4.0, "ping": 0.0})
    assert limiter.admit("history", clock()) == 0.0
    assert limiter.admit("history", clock()) == 0.0
    assert limiter.admit("history", clock()) == pytest.approx(2.0)
    assert limiter.admit("publish", clock()) == 0.0
    assert limiter.admit("publish", clock()) == 0.0
    assert limiter.admit("publish", clock()) == pytest.approx(1.0)
    assert limiter.admit("ping", clock()) == 0.0


def test_a_rejected_command_takes_nothing() -> None:
    clock = FakeClock()
    limiter = CommandLimiter(1.0, 2.0, {"history": 2.0})
    limiter.admit("publish", clock())
    for _ in range(100):
        assert limiter.admit("history", clock()) == pytest.approx(1.0)
    clock.advance(1.0)
    assert limiter.admit("history", clock()) == 0.0


def test_a_limiter_has_no_bucket_until_a_command_costs_something() -> None:
    limiter = CommandLimiter(1.0, 2.0, {"ping": 0.0})
    assert limiter.admit("ping", 0.0) == 0.0
    assert not buckets(limiter)
    limiter.admit("publish", 0.0)
    assert len(buckets(limiter)) == 1


def test_a_cost_above_the_burst_is_an_error() -> None:
    with pytest.raises(ValueError, match="burst 3"):
        CommandLimiter(1.0, 3.0, {"history": 4.0})


@pytest.mark.parametrize(("rate", "burst"), [(0.0, 1.0), (-1.0, 1.0), (1.0, 0.0)])
def test_a_bucket_needs_a_rate_and_a_burst(rate: float, burst: float) -> None:
    with pytest.raises(ValueError, match="expected both above zero"):
        TokenBucket(rate_per_s=rate, burst=burst, now=0.0)


def test_strikes_end_at_the_limit() -> None:
    strikes = RejectionCounter()
    assert [strikes.on_rejected(0.0) for _ in range(20)] == [False] * 19 + [True]


def test_an_admitted_command_resets_the_count() -> None:
    strikes = RejectionCounter(limit=3)
    strikes.on_rejected(0.0)
    strikes.on_rejected(0.0)
    strikes.on_admitted()
    assert [strikes.on_rejected(0.0) for _ in range(3)] == [False, False, True]


def test_strikes_count_in_any_window_not_only_from_the_first_rejection() -> None:
    clock = FakeClock()
    strikes = RejectionCounter(limit=4, window=10.0)
    assert not strikes.on_rejected(clock())
    clock.advance(8.0)
    assert not strikes.on_rejected(clock())
    clock.advance(4.0)
    assert not strikes.on_rejected(clock())
    clock.advance(1.0)
    assert not strikes.on_rejected(clock())
    assert strikes.on_rejected(clock())


def test_rejections_further_apart_than_the_window_never_reach_the_limit() -> None:
    clock = FakeClock()
    strikes = RejectionCounter(limit=3, window=10.0)
    for _ in range(50):
        assert not strikes.on_rejected(clock())
        clock.advance(5.1)
