"""A slow Redis: each call waits for its own timeout, and the shard is not lost."""

import asyncio
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, TypeVar

import pytest

from gateway.broker.base import AckLevel, ConnectionRecord
from gateway.errors import BrokerUnavailable
from tests.broker.recording_node import KEPT, publication, publish, values
from tests.broker.redis_fleet import Fleet, RunningNode, eventually
from tests.broker.redis_server import RedisServer, running_redis
from tests.chaos.proxy import Proxy
from tests.chaos.relay import UNIMPAIRED, LinkConditions

LEASE = 6.0
"""Seconds: so that a renewal, made every two seconds, may take as long as a publish."""

ANN = ConnectionRecord("c1", "n2", ["room"], 12.5)

T = TypeVar("T")


async def call_and_wait_until_sent(member: RunningNode, call: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
    """Start *call* and return its task once it was sent: later calls wait behind it."""
    before = member.broker.statistics()["trips"]
    task = asyncio.create_task(call)
    await eventually(lambda: member.broker.statistics()["trips"] > before)
    return task


async def test_a_slow_redis_is_not_lost(tmp_path: Path) -> None:
    with running_redis(tmp_path) as server:
        async with Proxy.open(server.port) as proxy, Fleet(f"redis://127.0.0.1:{proxy.port}/0") as fleet:
            one = await fleet.launch(lease=LEASE, inbox_block=2.0)
            await one.broker.subscribe("room", KEPT)
            await publish(one.broker, "room", "to connect")
            proxy.impair(up=LinkConditions(delay_seconds=0.6))
            # This takes so long that the lease is renewed meanwhile.
            before = one.broker.statistics()["calls"]
            await publish(one.broker, "room", *range(5))
            assert values(await one.node.messages(6)) == ["to connect", *range(5)]
            statistics = one.broker.statistics()
            assert statistics["calls"] > before + 5
            assert (statistics["failures"], statistics["incarnations"], statistics["up"]) == (0, 1, 1)
            proxy.impair(up=UNIMPAIRED)


async def test_the_publish_timeout_includes_waiting_for_earlier_batches(server: RedisServer) -> None:
    async with Proxy.open(server.port) as proxy, Fleet(f"redis://127.0.0.1:{proxy.port}/0") as fleet:
        one = await fleet.launch(lease=LEASE, inbox_block=2.0, publish_timeout=2.0)
        await publish(one.broker, "room", "to connect")
        # The second is sent when the first is answered, and would be answered after 2.4 seconds.
        proxy.impair(up=LinkConditions(delay_seconds=1.2))
        first = await call_and_wait_until_sent(one, one.broker.publish(publication("room", "in time")))
        with pytest.raises(BrokerUnavailable, match="in time"):
            await one.broker.publish(publication("room", "late"))
        assert first.done()
        assert (await first).id is not None
        # The connection stays, and the publish was carried out after all.
        await publish(one.broker, "room", "after")
        proxy.impair(up=UNIMPAIRED)
        assert values((await one.broker.read("room")).messages) == ["to connect", "in time", "late", "after"]
        statistics = one.broker.statistics()
        assert (
            statistics["failures"],
            statistics["incarnations"],
            statistics["breaker_opened"],
            statistics["up"],
        ) == (1, 1, 0, 1)


async def test_a_stored_publish_is_acknowledged_at_its_timeout_without_the_answer_of_a_replica(
    server: RedisServer,
) -> None:
    async with Proxy.open(server.port) as proxy, Fleet(f"redis://127.0.0.1:{proxy.port}/0") as fleet:
        one = await fleet.launch(lease=LEASE, inbox_block=2.0)
        await one.broker.publish(publication("room", "to connect", level=AckLevel.REPLICATED))
        # The WAIT behind it would be answered after 2.4 seconds.
        proxy.impair(up=LinkConditions(delay_seconds=1.2))
        receipt = await one.broker.publish(publication("room", "stored", level=AckLevel.REPLICATED))
        assert (receipt.id is not None, receipt.level) == (True, AckLevel.STORED)
        assert one.broker.statistics()["failures"] == 0
        proxy.impair(up=UNIMPAIRED)


async def test_the_read_timeout_includes_waiting_for_earlier_batches(server: RedisServer) -> None:
    async with Proxy.open(server.port) as proxy, Fleet(f"redis://127.0.0.1:{proxy.port}/0") as fleet:
        one = await fleet.launch(lease=LEASE, inbox_block=2.0, history_timeout=2.0, presence_timeout=1.0)
        await publish(one.broker, "room", "kept")
        await one.broker.read("room")
        proxy.impair(up=LinkConditions(delay_seconds=1.2))
        first = await call_and_wait_until_sent(one, one.broker.read("room", limit=1))
        waiting = asyncio.ensure_future(one.broker.read("room", limit=2))
        # A caller that joins the same read a second later has a second more: the read goes on for it.
        with pytest.raises(BrokerUnavailable):
            await one.broker.presence("room")
        later = asyncio.ensure_future(one.broker.read("room", limit=2))
        with pytest.raises(BrokerUnavailable, match="in time"):
            await waiting
        assert first.done()
        assert not later.done()
        assert values((await first).messages) == values((await later).messages) == ["kept"]
        assert one.broker.statistics()["reads_shared"] == 1
        proxy.impair(up=UNIMPAIRED)


async def test_a_lookup_has_one_timeout_for_all_its_calls(
    server: RedisServer,
) -> None:
    async with Proxy.open(server.port) as proxy, Fleet(server.url) as fleet:
        url = f"redis://127.0.0.1:{proxy.port}/0"
        one = await fleet.launch(url, lease=LEASE, inbox_block=2.0, lookup_timeout=2.0)
        two = await fleet.launch(lease=LEASE)
        two.node.connected["ann"], two.node.followed["room"] = [ANN], 1
        await two.broker.user_connected("ann")
        await two.broker.subscribe("room", None)
        await eventually(lambda: server.execute("EXISTS", "fanway:{0}:route:=ann") == 1)
        assert list((await one.broker.connections("ann")).items) == [ANN]
        # Each call alone is answered in time; two in a row are not.
        proxy.impair(up=LinkConditions(delay_seconds=1.2))
        with pytest.raises(BrokerUnavailable, match="in time"):
            await one.broker.connections("ann")
        with pytest.raises(BrokerUnavailable, match="in time"):
            await one.broker.subscribed_channels("", after="", limit=10)
        proxy.impair(up=UNIMPAIRED)


async def test_a_node_that_answers_a_lookup_too_late_is_left_out(server: RedisServer) -> None:
    async with Proxy.open(server.port) as near, Proxy.open(server.port) as far, Fleet() as fleet:
        urls = [f"redis://127.0.0.1:{proxy.port}/0" for proxy in (near, far)]
        one, two = [await fleet.launch(url, lease=LEASE, inbox_block=2.0, lookup_timeout=3.0) for url in urls]
        two.node.connected["ann"] = [ANN]
        await two.broker.user_connected("ann")
        await eventually(lambda: server.execute("EXISTS", "fanway:{0}:route:=ann") == 1)
        assert list((await one.broker.connections("ann")).items) == [ANN]
        # The request reaches the other node after 1.8 seconds, its answer arrives after 3.4.
        near.impair(up=LinkConditions(delay_seconds=0.9))
        far.impair(up=LinkConditions(delay_seconds=1.6))
        assert list((await one.broker.connections("ann")).items) == []
        for proxy in (near, far):
            proxy.impair(up=UNIMPAIRED)


async def test_publishes_of_one_loop_turn_are_sent_in_one_round_trip(fleet: Fleet) -> None:
    one = await fleet.launch(lease=30.0)
    await publish(one.broker, "room", "to connect")
    before = one.broker.statistics()
    await asyncio.gather(*(one.broker.publish(publication(f"room{n % 7}", n)) for n in range(200)))
    after = one.broker.statistics()
    assert {name: after[name] - before[name] for name in ("published", "calls", "trips")} == {
        "published": 200,
        "calls": 200,
        "trips": 1,
    }
