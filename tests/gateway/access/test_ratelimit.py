import gc

import pytest
from aiolimiter import AsyncLimiter
from hypothesis import given
from hypothesis import strategies as st

from gateway.access.ratelimit import (
    REJECTED_UNITS,
    CommandLimiter,
    CommandRates,
    Rate,
    RejectionCounter,
    SharedBuckets,
    TokenBucket,
)
from gateway.clock import FakeClock
from tests.gateway.access.clock_loop import run_with_clock


def admitted(limiter: CommandLimiter, now: float, *, tries: int) -> int:
    return sum(limiter.admit(1.0, now) == 0.0 for _ in range(tries))


def limiter_of(per_second: float, burst: float) -> CommandLimiter:
    return CommandLimiter(CommandRates(Rate(per_second, burst)))


def buckets(limiter: CommandLimiter) -> list[TokenBucket]:
    return [each for each in gc.get_referents(limiter) if isinstance(each, TokenBucket)]


def test_a_burst_passes_at_once_and_then_the_rate_applies() -> None:
    clock = FakeClock()
    limiter = limiter_of(10.0, 5.0)
    assert admitted(limiter, clock(), tries=20) == 5
    for _ in range(10):
        clock.advance(0.1)
        assert admitted(limiter, clock(), tries=20) == 1
    clock.advance(60.0)
    assert admitted(limiter, clock(), tries=20) == 5


@pytest.mark.parametrize(("rate", "burst", "seconds"), [(50.0, 200.0, 10), (3.0, 2.0, 7), (0.5, 2.0, 20)])
def test_no_period_admits_more_than_burst_and_rate_allow(rate: float, burst: float, seconds: int) -> None:
    clock = FakeClock()
    limiter = limiter_of(rate, burst)
    total = admitted(limiter, clock(), tries=300)
    for _ in range(seconds * 10):
        clock.advance(0.1)
        total += admitted(limiter, clock(), tries=300)
    assert total == int(burst + rate * seconds)


def test_a_client_that_waits_as_long_as_asked_is_admitted_and_no_sooner() -> None:
    clock = FakeClock()
    limiter = limiter_of(7.0, 3.0)
    assert limiter.admit(3.0, clock()) == 0.0
    for _ in range(1_000):
        wait = limiter.admit(3.0, clock())
        assert wait == pytest.approx(3.0 / 7.0)
        clock.advance(wait * 0.99)
        assert limiter.admit(3.0, clock()) > 0.0
        clock.advance(wait * 0.01)
        assert limiter.admit(3.0, clock()) == 0.0


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


def test_commands_take_what_they_cost() -> None:
    clock = FakeClock()
    limiter = limiter_of(1.0, 10.0)
    assert limiter.admit(4.0, clock()) == 0.0
    assert limiter.admit(4.0, clock()) == 0.0
    assert limiter.admit(4.0, clock()) == pytest.approx(2.0)
    assert limiter.admit(1.0, clock()) == 0.0
    assert limiter.admit(1.0, clock()) == 0.0
    assert limiter.admit(1.0, clock()) == pytest.approx(1.0)
    assert limiter.admit(0.0, clock()) == 0.0


def test_a_rejected_command_takes_nothing() -> None:
    clock = FakeClock()
    limiter = limiter_of(1.0, 2.0)
    limiter.admit(1.0, clock())
    for _ in range(100):
        assert limiter.admit(2.0, clock()) == pytest.approx(1.0)
    clock.advance(1.0)
    assert limiter.admit(2.0, clock()) == 0.0


def test_a_limiter_has_no_bucket_until_a_command_costs_something() -> None:
    limiter = limiter_of(1.0, 2.0)
    assert limiter.admit(0.0, 0.0) == 0.0
    assert not buckets(limiter)
    limiter.admit(1.0, 0.0)
    assert len(buckets(limiter)) == 1


def test_a_cost_above_the_burst_passes_once_the_bucket_is_full_and_is_paid_in_full() -> None:
    clock = FakeClock()
    limiter = limiter_of(10.0, 100.0)
    assert limiter.admit(250.0, clock()) == 0.0
    assert limiter.admit(1.0, clock()) == pytest.approx(15.1)
    assert limiter.admit(250.0, clock()) == pytest.approx(25.0)
    clock.advance(25.0)
    assert limiter.admit(250.0, clock()) == 0.0


def test_what_is_charged_afterwards_makes_later_commands_wait() -> None:
    clock = FakeClock()
    limiter = limiter_of(10.0, 5.0)
    limiter.admit(4.0, clock())
    limiter.charge(20.0, clock())
    wait = limiter.admit(1.0, clock())
    assert wait == pytest.approx(2.0)
    clock.advance(wait)
    assert limiter.admit(1.0, clock()) == 0.0


# ---------------------------------------------------------------- users and addresses


def identified(rates: CommandRates, user: str = "", address: str = "", *, now: float = 0.0) -> CommandLimiter:
    """Return the limiter of a connection that has sent a `connect` that costs 1."""
    limiter = CommandLimiter(rates, address)
    assert limiter.admit(1.0, now) == 0.0
    assert limiter.admit_shared(1.0, now) == 0.0
    assert limiter.identify(user, 1.0, now) == 0.0
    return limiter


def spend(limiter: CommandLimiter, now: float) -> int:
    """Return how many commands of one unit are admitted before the first that is not."""
    count = 0
    while not (limiter.admit(1.0, now) or limiter.admit_shared(1.0, now)):
        count += 1
    return count


def test_all_connections_of_a_user_share_one_rate() -> None:
    clock = FakeClock()
    rates = CommandRates(Rate(10.0, 100.0), user=Rate(20.0, 50.0))
    connections = [identified(rates, "ann", now=clock()) for _ in range(10)]
    assert [spend(each, clock()) for each in connections] == [40] + [0] * 9
    assert spend(identified(rates, "ben", now=clock()), clock()) == 49
    assert rates.statistics()["refused_user"] == 11
    clock.advance(1.0)
    assert sum(spend(each, clock()) for each in connections) == 20


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("192.0.2.1", "192.0.2.1", True),
        ("192.0.2.1", "192.0.2.2", False),
        ("2001:db8::1", "2001:db8::ffff:1", True),
        ("2001:db8:0:1::1", "2001:db8:0:2::1", False),
        ("::ffff:192.0.2.1", "192.0.2.1", True),
    ],
)
def test_connections_from_an_address_share_one_rate(one: str, other: str, same: bool) -> None:
    rates = CommandRates(Rate(10.0, 100.0), address=Rate(20.0, 50.0))
    first, second = identified(rates, "ann", one), identified(rates, "", other)
    assert spend(first, 0.0) == (48 if same else 49)
    assert spend(second, 0.0) == (0 if same else 49)
    assert len(rates.addresses) == (1 if same else 2)


def test_without_rates_of_users_and_addresses_only_the_connection_counts() -> None:
    rates = CommandRates(Rate(10.0, 100.0))
    assert [spend(identified(rates, "ann", "192.0.2.1"), 0.0) for _ in range(3)] == [99] * 3
    assert rates.statistics() == dict.fromkeys(rates.statistics(), 0)


def test_an_unknown_user_and_an_unknown_address_have_no_bucket() -> None:
    rates = CommandRates(Rate(10.0, 100.0), user=Rate(1.0, 2.0), address=Rate(1.0, 2.0))
    assert spend(identified(rates), 0.0) == 99
    assert (len(rates.users), len(rates.addresses)) == (0, 0)


def test_a_command_that_the_user_may_not_send_costs_the_address_nothing_and_the_connection_one_unit() -> None:
    rates = CommandRates(Rate(1.0, 100.0), user=Rate(1.0, 10.0), address=Rate(1.0, 1_000.0))
    limiter = identified(rates, "ann", "192.0.2.1")
    assert (limiter.admit(9.0, 0.0), limiter.admit_shared(9.0, 0.0)) == (0.0, 0.0)
    for _ in range(80):
        assert limiter.admit(10.0, 0.0) == 0.0
        assert limiter.admit_shared(10.0, 0.0) == pytest.approx(10.0)
    assert limiter.admit(10.0 + REJECTED_UNITS, 0.0) > 0.0
    assert limiter.admit(10.0, 0.0) == 0.0
    other = identified(rates, "ben", "192.0.2.1")
    assert other.admit(100.0, 0.0) > 0.0
    assert rates.addresses.acquire("192.0.2.1", 0.0) is not None
    bucket = rates.addresses.acquire("192.0.2.1", 0.0)
    assert bucket is not None
    assert bucket.take(1_000.0 - 11.0, 0.0) == 0.0


def test_a_user_whose_rate_is_spent_does_not_connect() -> None:
    rates = CommandRates(Rate(10.0, 100.0), user=Rate(2.0, 10.0))
    spend(identified(rates, "ann"), 0.0)
    newcomer = CommandLimiter(rates)
    assert newcomer.identify("ann", 4.0, 0.0) == pytest.approx(2.0)
    assert newcomer.identify("ann", 4.0, 2.0) == 0.0


def test_work_is_charged_to_the_user_and_the_address_even_after_the_end() -> None:
    rates = CommandRates(Rate(10.0, 100.0), user=Rate(1.0, 10.0), address=Rate(1.0, 10.0))
    limiter = identified(rates, "ann", "192.0.2.1")
    limiter.release(0.0)
    limiter.charge(19.0, 0.0)
    assert CommandLimiter(rates).identify("ann", 1.0, 0.0) == pytest.approx(11.0)
    anonymous = CommandLimiter(rates, "192.0.2.1")
    assert anonymous.admit(1.0, 0.0) == 0.0
    assert anonymous.admit_shared(1.0, 0.0) == pytest.approx(11.0)


def test_a_connection_that_has_ended_acquires_no_bucket() -> None:
    rates = CommandRates(Rate(10.0, 100.0), address=Rate(1.0, 10.0))
    limiter = CommandLimiter(rates, "192.0.2.1")
    limiter.release(0.0)
    limiter.charge(5.0, 0.0)
    assert len(rates.addresses) == 0


def test_buckets_are_kept_until_they_are_full_again() -> None:
    clock = FakeClock()
    rates = CommandRates(Rate(10.0, 100.0), user=Rate(1.0, 10.0))
    identified(rates, "ann", now=clock()).release(clock())
    assert len(rates.users) == 1
    clock.advance(1.0)
    identified(rates, "ben", now=clock()).release(clock())
    assert len(rates.users) == 1  # that of ben


def test_at_most_so_many_buckets_are_kept_without_a_connection() -> None:
    buckets = SharedBuckets(Rate(1.0, 10.0), max_idle=3)
    for number in range(10):
        bucket = buckets.acquire(str(number), 0.0)
        assert bucket is not None
        bucket.take(5.0, 0.0)
        buckets.release(bucket, 0.0)
    assert (len(buckets), buckets.evicted) == (3, 7)


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
