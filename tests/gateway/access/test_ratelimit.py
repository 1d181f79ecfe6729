import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.access.ratelimit import CommandLimiter, Strikes, TokenBucket
from gateway.clock import FakeClock
from tests.gateway.clock_loop import on_loop


def admitted(limiter: CommandLimiter, *, tries: int) -> int:
    return sum(limiter.admit("publish") == 0.0 for _ in range(tries))


def test_a_burst_is_a_burst_and_a_rate_a_rate() -> None:
    def scenario(clock: FakeClock) -> None:
        limiter = CommandLimiter(10.0, 5.0, {})
        assert admitted(limiter, tries=20) == 5
        for _ in range(10):
            clock.advance(0.1)
            assert admitted(limiter, tries=20) == 1
        clock.advance(60.0)
        assert admitted(limiter, tries=20) == 5

    on_loop(scenario)


@pytest.mark.parametrize(("rate", "burst", "seconds"), [(50.0, 200.0, 10), (3.0, 2.0, 7), (0.5, 2.0, 20)])
def test_no_period_admits_more_than_burst_and_rate_allow(rate: float, burst: float, seconds: int) -> None:
    def scenario(clock: FakeClock) -> None:
        limiter = CommandLimiter(rate, burst, {})
        total = admitted(limiter, tries=300)
        for _ in range(seconds * 10):
            clock.advance(0.1)
            total += admitted(limiter, tries=300)
        assert total == int(burst + rate * seconds)

    on_loop(scenario)


def test_who_waits_as_long_as_told_is_admitted_and_no_sooner() -> None:
    def scenario(clock: FakeClock) -> None:
        limiter = CommandLimiter(7.0, 3.0, {"history": 3.0})
        assert limiter.admit("history") == 0.0
        for _ in range(1_000):
            wait = limiter.admit("history")
            assert wait == pytest.approx(3.0 / 7.0)
            clock.advance(wait * 0.99)
            assert limiter.admit("history") > 0.0
            clock.advance(wait * 0.01)
            assert limiter.admit("history") == 0.0

    on_loop(scenario)


@given(
    rate=st.floats(0.01, 100.0),
    burst=st.floats(1.0, 500.0),
    uptime=st.floats(0.0, 1e7),
    used=st.floats(0.01, 1.0),
)
def test_what_floats_lose_makes_nobody_wait_twice(
    rate: float, burst: float, uptime: float, used: float
) -> None:
    def scenario(clock: FakeClock) -> None:
        clock.now = uptime
        bucket = TokenBucket(rate_per_s=rate, burst=burst)
        assert bucket.take(burst * used) == 0.0
        clock.advance(bucket.take(burst))
        assert bucket.take(burst) == 0.0

    on_loop(scenario)


def test_each_kind_takes_what_it_costs() -> None:
    def scenario(clock: FakeClock) -> None:
        limiter = CommandLimiter(1.0, 10.0, {"history": 4.0, "ping": 0.0})
        assert limiter.admit("history") == 0.0
        assert limiter.admit("history") == 0.0
        assert limiter.admit("history") == pytest.approx(2.0)
        assert limiter.admit("publish") == 0.0
        assert limiter.admit("publish") == 0.0
        assert limiter.admit("publish") == pytest.approx(1.0)
        assert limiter.admit("ping") == 0.0
        assert clock() == FakeClock()()

    on_loop(scenario)


def test_what_is_refused_takes_nothing() -> None:
    def scenario(clock: FakeClock) -> None:
        limiter = CommandLimiter(1.0, 2.0, {"history": 2.0})
        limiter.admit("publish")
        for _ in range(100):
            assert limiter.admit("history") == pytest.approx(1.0)
        clock.advance(1.0)
        assert limiter.admit("history") == 0.0

    on_loop(scenario)


def test_a_limiter_that_costs_nothing_yet_has_no_bucket() -> None:
    limiter = CommandLimiter(1.0, 2.0, {"ping": 0.0})
    # No loop is running here: a bucket could not tell the time.
    assert limiter.admit("ping") == 0.0


def test_a_cost_that_nobody_could_pay_is_a_fault() -> None:
    with pytest.raises(ValueError, match="burst 3"):
        CommandLimiter(1.0, 3.0, {"history": 4.0})


@pytest.mark.parametrize(("rate", "burst"), [(0.0, 1.0), (-1.0, 1.0), (1.0, 0.0)])
def test_a_bucket_needs_a_rate_and_a_burst(rate: float, burst: float) -> None:
    with pytest.raises(ValueError, match="expected both above zero"):
        TokenBucket(rate_per_s=rate, burst=burst)


def test_strikes_close_at_the_limit() -> None:
    strikes = Strikes(clock=FakeClock())
    assert [strikes.refused() for _ in range(20)] == [False] * 19 + [True]


def test_an_admitted_command_forgives_all_strikes() -> None:
    strikes = Strikes(clock=FakeClock(), limit=3)
    strikes.refused()
    strikes.refused()
    strikes.admitted()
    assert [strikes.refused() for _ in range(3)] == [False, False, True]


def test_strikes_count_in_any_window_not_only_from_the_first() -> None:
    clock = FakeClock()
    strikes = Strikes(clock=clock, limit=4, window=10.0)
    assert not strikes.refused()
    clock.advance(8.0)
    assert not strikes.refused()
    clock.advance(4.0)
    assert not strikes.refused()
    clock.advance(1.0)
    assert not strikes.refused()
    assert strikes.refused()


def test_slow_refusals_never_close() -> None:
    clock = FakeClock()
    strikes = Strikes(clock=clock, limit=3, window=10.0)
    for _ in range(50):
        assert not strikes.refused()
        clock.advance(5.1)
