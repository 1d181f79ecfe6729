"""A Redis that answers late, and answers everything: it is waited for, for as long as each call may take."""

import asyncio
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, TypeVar

import pytest

from gateway.broker.base import AckLevel, ConnectionRecord
from gateway.errors import BrokerUnavailable
from tests.broker.node import KEPT, publication, publish, values
from tests.broker.redis_fleet import Fleet, RunningNode, eventually
from tests.broker.redis_server import RedisServer, running_redis
from tests.chaos.flow import CLEAR, Line
from tests.chaos.proxy import Proxy

LEASE = 6.0
"""Seconds: so that a renewal, of which there is one every two seconds, may take as long as a publish."""

ANN = ConnectionRecord("c1", "n2", ["room"], 12.5)

T = TypeVar("T")


async def departed(member: RunningNode, call: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
    """Make *call*, and return when it has been sent: what is called for now waits behind it."""
    before = member.broker.statistics()["trips"]
    made = asyncio.create_task(call)
    await eventually(lambda: member.broker.statistics()["trips"] > before)
    return made


async def test_a_redis_that_is_slow_is_not_lost(tmp_path: Path) -> None:
    with running_redis(tmp_path) as server:
        async with Proxy.open(server.port) as way, Fleet(f"redis://127.0.0.1:{way.port}/0") as fleet:
            one = await fleet.launch(lease=LEASE, inbox_block=2.0)
            await one.broker.subscribe("room", KEPT)
            await publish(one.broker, "room", "to connect")
            way.shape(up=Line(delay=0.6))
            # That takes so long that the lease is renewed meanwhile.
            before = one.broker.statistics()["calls"]
            await publish(one.broker, "room", *range(5))
            assert values(await one.node.messages(6)) == ["to connect", *range(5)]
            told = one.broker.statistics()
            assert told["calls"] > before + 5
            assert (told["failures"], told["incarnations"], told["up"]) == (0, 1, 1)
            way.shape(up=CLEAR)


async def test_a_publish_that_waits_for_its_turn_fails_before_its_answer_comes(server: RedisServer) -> None:
    async with Proxy.open(server.port) as way, Fleet(f"redis://127.0.0.1:{way.port}/0") as fleet:
        one = await fleet.launch(lease=LEASE, inbox_block=2.0, publish_timeout=2.0)
        await publish(one.broker, "room", "to connect")
        # The second goes when the first is back, and would be back itself after 2.4 seconds.
        way.shape(up=Line(delay=1.2))
        first = await departed(one, one.broker.publish(publication("room", "in time")))
        with pytest.raises(BrokerUnavailable, match="in time"):
            await one.broker.publish(publication("room", "late"))
        assert first.done()
        assert (await first).id is not None
        # Its connection is as good as before, and it was carried out after all.
        await publish(one.broker, "room", "after")
        way.shape(up=CLEAR)
        assert values((await one.broker.read("room")).messages) == ["to connect", "in time", "late", "after"]
        told = one.broker.statistics()
        assert (told["failures"], told["incarnations"], told["breaker_opened"], told["up"]) == (1, 1, 0, 1)


async def test_what_is_stored_is_said_to_be_when_no_replica_tells_in_time(server: RedisServer) -> None:
    async with Proxy.open(server.port) as way, Fleet(f"redis://127.0.0.1:{way.port}/0") as fleet:
        one = await fleet.launch(lease=LEASE, inbox_block=2.0)
        await one.broker.publish(publication("room", "to connect", level=AckLevel.REPLICATED))
        # Redis has been asked for the second time, and would answer that after 2.4 seconds.
        way.shape(up=Line(delay=1.2))
        receipt = await one.broker.publish(publication("room", "stored", level=AckLevel.REPLICATED))
        assert (receipt.id is not None, receipt.level) == (True, AckLevel.STORED)
        assert one.broker.statistics()["failures"] == 0
        way.shape(up=CLEAR)


async def test_a_read_that_waits_for_its_turn_fails_before_its_answer_comes(server: RedisServer) -> None:
    async with Proxy.open(server.port) as way, Fleet(f"redis://127.0.0.1:{way.port}/0") as fleet:
        one = await fleet.launch(lease=LEASE, inbox_block=2.0, resume_timeout=2.0, presence_timeout=1.0)
        await publish(one.broker, "room", "kept")
        await one.broker.read("room")
        way.shape(up=Line(delay=1.2))
        first = await departed(one, one.broker.read("room", limit=1))
        waiting = asyncio.ensure_future(one.broker.read("room", limit=2))
        # Who asks for the same a second later has a second longer: the read goes on for the sake of it.
        with pytest.raises(BrokerUnavailable):
            await one.broker.presence("room")
        later = asyncio.ensure_future(one.broker.read("room", limit=2))
        with pytest.raises(BrokerUnavailable, match="in time"):
            await waiting
        assert first.done()
        assert not later.done()
        assert values((await first).messages) == values((await later).messages) == ["kept"]
        assert one.broker.statistics()["reads_shared"] == 1
        way.shape(up=CLEAR)


async def test_questions_about_users_and_channels_have_one_deadline_for_all_their_calls(
    server: RedisServer,
) -> None:
    async with Proxy.open(server.port) as way, Fleet(server.url) as fleet:
        url = f"redis://127.0.0.1:{way.port}/0"
        one = await fleet.launch(url, lease=LEASE, inbox_block=2.0, presence_timeout=2.0)
        two = await fleet.launch(lease=LEASE)
        two.node.connected["ann"], two.node.followed["room"] = [ANN], 1
        await two.broker.user_connected("ann")
        await two.broker.subscribe("room", None)
        await eventually(lambda: server.execute("EXISTS", "fanway:{0}:route:=ann") == 1)
        assert list((await one.broker.connections("ann")).items) == [ANN]
        # One call is answered in time, and so would each of two be.
        way.shape(up=Line(delay=1.2))
        with pytest.raises(BrokerUnavailable, match="in time"):
            await one.broker.connections("ann")
        with pytest.raises(BrokerUnavailable, match="in time"):
            await one.broker.subscribed_channels("", after="", limit=10)
        way.shape(up=CLEAR)


async def test_a_node_that_answers_a_question_too_late_is_left_out(server: RedisServer) -> None:
    async with Proxy.open(server.port) as near, Proxy.open(server.port) as far, Fleet() as fleet:
        urls = [f"redis://127.0.0.1:{way.port}/0" for way in (near, far)]
        one, two = [
            await fleet.launch(url, lease=LEASE, inbox_block=2.0, presence_timeout=3.0) for url in urls
        ]
        two.node.connected["ann"] = [ANN]
        await two.broker.user_connected("ann")
        await eventually(lambda: server.execute("EXISTS", "fanway:{0}:route:=ann") == 1)
        assert list((await one.broker.connections("ann")).items) == [ANN]
        # The question is put after 1.8 seconds, and answered after 3.4.
        near.shape(up=Line(delay=0.9))
        far.shape(up=Line(delay=1.6))
        assert list((await one.broker.connections("ann")).items) == []
        for way in (near, far):
            way.shape(up=CLEAR)


async def test_what_is_published_in_one_turn_of_the_loop_travels_together(fleet: Fleet) -> None:
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
