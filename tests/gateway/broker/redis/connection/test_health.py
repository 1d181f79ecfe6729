"""Health of a shard: when calls are let through, and which notices an operator gets."""

import pytest

from gateway.broker.notices import CallRejected, Notice, RedisLost, RedisRestored
from gateway.broker.redis.connection.breaker import Breaker
from gateway.broker.redis.connection.error_table import CONNECTION_LOST, ERROR_TABLE, TIMED_OUT
from gateway.broker.redis.connection.health import ShardHealth
from gateway.errors import BrokerUnavailable


def health_with(reasons: list[str | None]) -> ShardHealth:
    """Return a disconnected shard; *reasons* gets that of each loss, and None for each return."""

    def note(notice: Notice) -> None:
        assert isinstance(notice, RedisLost | RedisRestored)
        reasons.append(notice.reason if isinstance(notice, RedisLost) else None)

    return ShardHealth(Breaker(), invalidate_primary=lambda: None, on_notice=note)


def test_the_first_connection_gives_no_notice() -> None:
    reasons: list[str | None] = []
    health_with(reasons).lease_held()
    assert reasons == []


def test_a_loss_gives_one_notice_per_kind_of_reason_and_the_return_gives_one() -> None:
    reasons: list[str | None] = []
    health = health_with(reasons)
    health.lease_held()
    refused, reset = (
        CONNECTION_LOST.to_exception(OSError("refused")),
        CONNECTION_LOST.to_exception(OSError("reset")),
    )
    loading = ERROR_TABLE["LOADING"].to_exception()
    lost = ["the connection to Redis failed (refused)", "Redis is loading its data"]
    for times in (1, 2):
        for error in (refused, reset, loading, refused, loading):
            health.renewal_failed(error)
        assert reasons == [*lost, None] * (times - 1) + lost
        with pytest.raises(BrokerUnavailable, match="loading"):
            health.require_available()
        for _ in range(3):
            health.lease_held()
        assert reasons == [*lost, None] * times


def test_a_redis_that_is_down_at_the_start_gives_one_notice() -> None:
    reasons: list[str | None] = []
    health = health_with(reasons)
    for _ in range(2):
        health.renewal_failed(TIMED_OUT.to_exception())
    health.lease_held()
    assert reasons == ["Redis did not answer in time", None]


def test_closing_gives_no_notice() -> None:
    reasons: list[str | None] = []
    health = health_with(reasons)
    health.lease_held()
    health.close()
    assert reasons == []
    with pytest.raises(BrokerUnavailable, match="closed"):
        health.require_available()


def connected_health() -> tuple[ShardHealth, list[Notice], list[str]]:
    notices: list[Notice] = []
    invalidations: list[str] = []
    health = ShardHealth(
        Breaker(), invalidate_primary=lambda: invalidations.append("primary"), on_notice=notices.append
    )
    health.lease_held()
    return health, notices, invalidations


def test_calls_need_a_lease_an_accepted_layout_and_a_closed_breaker() -> None:
    layout_errors: list[BrokerUnavailable] = []
    health = ShardHealth(
        Breaker(),
        invalidate_primary=lambda: None,
        layout_error=lambda: layout_errors[0] if layout_errors else None,
    )
    with pytest.raises(BrokerUnavailable, match="not connected to Redis yet"):
        health.require_available()
    health.lease_held()
    health.require_available()
    assert health.available
    layout_errors.append(BrokerUnavailable("another layout", retry_after=5.0))
    with pytest.raises(BrokerUnavailable, match="another layout") as raised:
        health.require_available()
    assert (raised.value.retry_after, health.available) == (5.0, False)
    layout_errors.clear()
    health.record_failure(TIMED_OUT, calls=5)
    with pytest.raises(BrokerUnavailable, match="does not answer"):
        health.require_available()
    assert not health.available


def test_an_unreadable_inbox_disconnects_although_the_lease_is_held() -> None:
    health, notices, _ = connected_health()
    health.inbox_unreadable(ERROR_TABLE["NOPERM"].to_exception())
    health.lease_held()
    assert (health.available, notices) == (False, [RedisLost(health.disconnected_reason)])
    assert health.disconnected_reason.startswith("the inbox cannot be read: ")
    health.renewal_due.clear()
    health.inbox_readable()
    assert health.renewal_due.is_set()
    health.lease_held()
    assert (health.available, notices[1:]) == (True, [RedisRestored()])


def test_a_rejected_call_gives_one_notice_per_kind_of_reason() -> None:
    health, notices, _ = connected_health()
    error = ERROR_TABLE["WRONGTYPE"].to_exception()
    for _ in range(2):
        health.call_rejected(error)
    assert notices == [CallRejected(str(error))]
    assert health.available


def test_a_beat_that_went_back_has_the_lease_renewed() -> None:
    health, _, _ = connected_health()
    health.incarnation_started("n~1", 5)
    health.beat_received(6, previous=5)
    assert (health.beat, health.beat_regressed, health.renewal_due.is_set()) == (6, False, False)
    health.beat_received(3, previous=6)
    assert (health.beat, health.beat_regressed, health.renewal_due.is_set()) == (6, True, True)
    health.incarnation_started("n~2", 1)
    assert (health.beat, health.beat_regressed) == (1, False)


@pytest.mark.parametrize(
    ("word", "failures", "invalidations", "renewal"),
    [
        ("LOADING", 1, 1, True),
        ("MOVED", 0, 1, False),
        ("NOREPLICAS", 0, 0, True),
        ("FENCED", 0, 0, True),
        ("WRONGTYPE", 0, 0, False),
        ("OOM", 0, 0, False),
    ],
)
def test_what_follows_an_error_is_in_its_rule(
    word: str, failures: int, invalidations: int, renewal: bool
) -> None:
    health, _, invalidated = connected_health()
    health.record_failure(ERROR_TABLE[word])
    assert (health.connection_failures, len(invalidated), health.renewal_due.is_set()) == (
        failures,
        invalidations,
        renewal,
    )
