"""What a broker over Redis tells operators: contact lost and regained once each, and how far it is behind."""

import asyncio

import pytest

from gateway.broker.notices import Notice, RedisLost, RedisRestored
from gateway.broker.redis.connection.breaker import Breaker
from gateway.broker.redis.connection.error_table import CONNECTION_LOST, ERROR_TABLE, TIMED_OUT
from gateway.broker.redis.connection.health import ShardHealth
from gateway.errors import BrokerUnavailable
from tests.broker.node import publication
from tests.broker.redis_fleet import Fleet, eventually
from tests.broker.redis_proxy import Proxy
from tests.broker.redis_server import RedisServer

BACKLOG = 2_000
"""Messages: several reads of an inbox."""


def contact(told: list[str | None]) -> ShardHealth:
    def note(notice: Notice) -> None:
        assert isinstance(notice, RedisLost | RedisRestored)
        told.append(notice.reason if isinstance(notice, RedisLost) else None)

    return ShardHealth(Breaker(), invalidate_primary=lambda: None, on_notice=note)


def test_a_first_contact_is_no_news() -> None:
    told: list[str | None] = []
    contact(told).lease_held()
    assert told == []


def test_contact_is_lost_once_for_each_reason_and_regained_once_however_often_it_is_tried() -> None:
    told: list[str | None] = []
    shard = contact(told)
    shard.lease_held()
    refused, reset = (
        CONNECTION_LOST.to_exception(OSError("refused")),
        CONNECTION_LOST.to_exception(OSError("reset")),
    )
    loading = ERROR_TABLE["LOADING"].to_exception()
    lost = ["the connection to Redis failed (refused)", "Redis is loading its data"]
    for times in (1, 2):
        for error in (refused, reset, loading, refused, loading):
            shard.renewal_failed(error)
        assert told == [*lost, None] * (times - 1) + lost
        with pytest.raises(BrokerUnavailable, match="loading"):
            shard.require_available()
        for _ in range(3):
            shard.lease_held()
        assert told == [*lost, None] * times


def test_redis_absent_at_the_start_is_news_once() -> None:
    told: list[str | None] = []
    shard = contact(told)
    for _ in range(2):
        shard.renewal_failed(TIMED_OUT.to_exception())
    shard.lease_held()
    assert told == ["Redis did not answer in time", None]


def test_an_end_is_no_loss() -> None:
    told: list[str | None] = []
    shard = contact(told)
    shard.lease_held()
    shard.close()
    assert told == []
    with pytest.raises(BrokerUnavailable, match="closed"):
        shard.require_available()


async def test_a_node_that_is_behind_says_by_how_much(server: RedisServer) -> None:
    async with Proxy(server.port) as proxy, Fleet(server.url) as fleet:
        one, two = await fleet.launch(), await fleet.launch(proxy.url, lease=30.0)
        await two.broker.subscribe("a", None)
        proxy.hold()
        publishes = (one.broker.publish(publication("a", n, retention=None)) for n in range(BACKLOG))
        await asyncio.gather(*publishes)
        behind = []
        proxy.release()

        async def sampled() -> bool:
            behind.append(two.broker.statistics()["inbox"])
            await asyncio.sleep(0)
            return len(two.node.envelopes) == BACKLOG

        async with asyncio.timeout(20):
            while not await sampled():
                continue
        assert BACKLOG / 4 < max(behind) < BACKLOG
        await eventually(lambda: two.broker.statistics()["inbox"] == 0)


async def test_publishes_that_redis_did_not_take_are_counted(server: RedisServer) -> None:
    async with Fleet(server.url) as fleet:
        one = await fleet.launch()
        await one.broker.publish(publication("a", 1))
        server.kill()
        for _ in range(3):
            with pytest.raises(BrokerUnavailable):
                await one.broker.publish(publication("a", 2))
        await eventually(lambda: not one.broker.ready())
        figures = one.broker.statistics()
        assert (figures["published"], figures["refused"], figures["up"]) == (1, 3, 0)
        server.start()
        await eventually(lambda: one.broker.ready() and one.broker.statistics()["leases"] == 1)
