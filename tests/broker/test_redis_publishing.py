"""Publishes while the connection breaks, or Redis hangs or is full: stored once, or rejected."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.broker.base import Receipt, Retention
from gateway.errors import BrokerFull, BrokerUnavailable
from protocol.messages import Leave, Member
from protocol.position import MessageId
from tests.broker.recording_node import KEPT, publication, publish, values
from tests.broker.redis_fleet import Fleet, eventually
from tests.broker.redis_proxy import Proxy
from tests.broker.redis_server import DURABLE, RedisServer, running_redis

LONG = Retention(10_000, 300.0)
ANN, BOB = Member("c1", "ann"), Member("c2", "bob")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    with running_redis(tmp_path, *DURABLE) as server:
        yield server


@pytest.mark.parametrize("executed", [True, False])
async def test_a_keyed_publish_is_stored_once_although_its_connection_breaks(
    server: RedisServer, proxy: Proxy, fleet: Fleet, executed: bool
) -> None:
    one, two = await fleet.launch(), await fleet.launch(proxy.url, lease=30.0)
    await one.broker.subscribe("a", KEPT)
    await publish(two.broker, "a", "warm")
    if executed:
        proxy.hold_answers()
    else:
        proxy.hold()
    publishing = asyncio.gather(two.broker.publish(publication("a", 1, key="k")))
    if executed:
        await eventually(lambda: server.execute("XLEN", "fanway:{0}:log:a") == 2)
    else:
        await asyncio.sleep(0)
    proxy.cut()
    proxy.release()
    (receipt,) = await publishing
    assert receipt.replayed is executed
    await publish(two.broker, "a", "marker")
    assert values(await one.node.messages(3)) == ["warm", 1, "marker"]
    assert two.broker.statistics()["retried"] == 1


async def test_a_publish_without_a_key_is_not_retried(
    server: RedisServer, proxy: Proxy, fleet: Fleet
) -> None:
    two = await fleet.launch(proxy.url, lease=30.0)
    await publish(two.broker, "a", "warm")
    proxy.hold_answers()
    publishing = asyncio.gather(two.broker.publish(publication("a", 1)))
    await eventually(lambda: server.execute("XLEN", "fanway:{0}:log:a") == 2)
    proxy.cut()
    proxy.release()
    with pytest.raises(BrokerUnavailable):
        await publishing
    assert values((await two.broker.read("a")).messages) == ["warm", 1]


async def test_the_breaker_rejects_publishes_while_redis_hangs(proxy: Proxy, fleet: Fleet) -> None:
    one = await fleet.launch(proxy.url, publish_timeout=2.0, lease=30.0)
    await publish(one.broker, "a", 1)
    proxy.hold()
    attempts = (one.broker.publish(publication("a", n)) for n in range(5))
    failed = await asyncio.gather(*attempts, return_exceptions=True)
    assert all(isinstance(each, BrokerUnavailable) for each in failed)
    assert not one.broker.ready(), "five timeouts in a row"
    # The breaker is open: a publish fails before it is sent.
    publishing = one.broker.publish(publication("a", 9))
    with pytest.raises(BrokerUnavailable):
        publishing.send(None)
    proxy.release()
    await eventually(one.broker.ready)
    await publish(one.broker, "a", 2)


async def test_a_full_redis_rejects_what_would_have_to_be_stored(tmp_path: Path) -> None:
    with running_redis(tmp_path, "--maxmemory-policy", "noeviction") as server:
        async with Fleet(server.url) as fleet:
            one, two = await fleet.launch(), await fleet.launch()
            await one.broker.subscribe("a", KEPT)
            await one.broker.join("a", ANN)
            ids = await publish(one.broker, "a", 1)
            await one.node.received(2)
            server.execute("CONFIG", "SET", "maxmemory", "1")
            for wrong in (publication("a", 2), publication("a", 3, key="k"), publication("b", 4)):
                with pytest.raises(BrokerFull):
                    await two.broker.publish(wrong)
            with pytest.raises(BrokerFull):
                await two.broker.join("a", BOB)
            assert values((await two.broker.read("a", since=ids[0])).messages) == []
            await one.broker.leave("a", "c1")
            assert await one.node.received(1) == [Leave("a", ANN)], "a leave needs no memory"
            renewals = _beat(server, "n1")
            await eventually(lambda: _beat(server, "n1") > renewals + 2)
            assert one.broker.ready()
            server.execute("CONFIG", "SET", "maxmemory", "0")
            assert not (await two.broker.publish(publication("a", 5, key="k"))).replayed
            assert values(await one.node.messages(1)) == [5]
            assert values((await two.broker.read("a")).messages) == [1, 5]


async def test_a_full_redis_can_be_read_although_an_epoch_begins(tmp_path: Path) -> None:
    with running_redis(tmp_path, "--maxmemory-policy", "noeviction") as server:
        async with Fleet(server.url) as fleet:
            one = await fleet.launch()
            await publish(one.broker, "a", 1, 2)
            server.execute("HSET", "fanway:{0}:state", "e", "another")  # as after a failover
            server.execute("CONFIG", "SET", "maxmemory", "1")
            assert values((await one.broker.read("a")).messages) == [1, 2]
            assert values((await one.broker.read("nobody wrote there")).messages) == []
            server.execute("HDEL", "fanway:{0}:state", "e")
            assert values((await one.broker.read("a")).messages) == [1, 2]


async def test_receipts_of_release_0_1_0_have_no_digest_and_are_accepted(
    server: RedisServer, fleet: Fleet
) -> None:
    one = await fleet.launch()
    server.execute("SET", "fanway:{0}:key:a\nold", "7 0123456789ab", "PX", 60_000)
    server.execute("SET", "fanway:{0}:key:a\nunstored", "0 ", "PX", 60_000)
    receipt = await one.broker.publish(publication("a", "any", key="old"))
    assert receipt == Receipt(MessageId(7, "0123456789ab"), replayed=True)
    assert await one.broker.publish(publication("a", "any", key="unstored")) == Receipt(None, replayed=True)


async def test_release_0_1_0_reads_the_receipts_of_this_one(server: RedisServer, fleet: Fleet) -> None:
    one = await fleet.launch()
    stored = await one.broker.publish(publication("a", 1, key="stored"))
    await one.broker.publish(publication("a", 1, key="unstored", retention=None))
    # As its publish.lua does.
    found = {
        key: server.execute(
            "EVAL",
            "local o, u = string.match(redis.call('GET', KEYS[1]), '^(%d+) (%S*)$') return {tonumber(o), u}",
            1,
            f"fanway:{{0}}:key:a\n{key}",
        )
        for key in ("stored", "unstored")
    }
    assert stored.id is not None
    assert found["stored"] == [stored.id.offset, stored.id.uid.encode()]
    assert found["unstored"][0] == 0, "an offset of 0: it answers without an id"
    assert MessageId.parse(str(stored.id)) == stored.id


def _beat(server: RedisServer, name: str) -> int:
    beats = server.execute("HGETALL", "fanway:{0}:beats")
    return next(int(beat) for node, beat in beats.items() if node.startswith(name.encode() + b"~"))
