"""The broker behind sentinels, and what a replica is worth: failovers of a real primary to a real replica."""

import asyncio
import contextlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from redis import exceptions

from gateway.broker.base import AckLevel, Delivery, Receipt
from gateway.broker.redis import RedisBroker, Server
from gateway.broker.redis.connection.sentinel import SentinelPrimary
from gateway.broker.redis.timeouts import SENTINEL_RECHECK_SECONDS, SENTINEL_SILENT_RECHECK_SECONDS
from gateway.clock import FakeClock
from gateway.errors import BrokerUnavailable
from protocol.messages import Gap
from protocol.position import MessageId
from tests.broker.contract_machine import surely
from tests.broker.node import KEPT, publication, publish, values
from tests.broker.redis_fleet import Fleet, RunningNode, eventually, wait_until_rejected
from tests.broker.redis_sentinels import (
    PRIMARY_NAME,
    SentinelSetup,
    has_replica,
    primary_with_replica,
    sentinel_setup,
)
from tests.broker.redis_server import RedisServer, running_redis


@pytest.fixture
def primary_and_replica(tmp_path: Path) -> Iterator[SentinelSetup]:
    with sentinel_setup(tmp_path) as servers:
        yield servers


async def published(
    broker: RedisBroker, channel: str, value: str, level: AckLevel = AckLevel.STORED
) -> MessageId | None:
    """Publish as a backend does: by one key until it is taken, and has reached *level*; return its id."""
    receipts: list[Receipt] = []

    async def taken() -> bool:
        try:
            receipt = await broker.publish(publication(channel, value, key=value, level=level))
        except BrokerUnavailable:
            return False
        receipts.append(receipt)
        return (receipt.level or level) is level

    await eventually(taken)
    return receipts[-1].id


async def spoken_and_heard(one: RunningNode, two: RunningNode) -> None:
    """Publish until *two* hears it: what was said before may be within a gap that it was told of."""
    spoken: list[str] = []

    async def heard() -> bool:
        spoken.append(f"after {len(spoken)}")
        await published(one.broker, "room", spoken[-1])
        got = [each.message.data.value for each in two.node.envelopes if isinstance(each, Delivery)]
        return got[-1] in spoken

    await eventually(heard)


async def heard_until(member: RunningNode, last: str) -> list[str]:
    """Return the values of all messages up to *last*, and the reasons of gaps among them."""
    heard: list[str] = []
    while last not in heard:
        (envelope,) = await member.node.received(1)
        assert isinstance(envelope, Delivery | Gap)
        heard.append(envelope.reason if isinstance(envelope, Gap) else str(envelope.message.data.value))
    return heard


async def test_a_planned_failover_is_heard_of_though_the_former_primary_goes_on(
    primary_and_replica: SentinelSetup,
) -> None:
    async with Fleet(primary_and_replica.url) as fleet:
        one, two = await fleet.launch(), await fleet.launch()
        await two.broker.subscribe("room", KEPT)
        await published(one.broker, "room", "before", AckLevel.REPLICATED)
        former = primary_and_replica.primary
        await asyncio.to_thread(primary_and_replica.promote)
        present = primary_and_replica.primary

        async def moved() -> bool:
            # What the former primary takes is lost, and told.
            await published(one.broker, "room", f"stray {present.execute('TIME')}")
            return bool(present.execute("XLEN", "fanway:{0}:log:room") > 1)

        await eventually(moved)
        assert former.execute("ROLE")[0] == b"master"
        await spoken_and_heard(one, two)
        heard = [each for each in two.node.envelopes if isinstance(each, Delivery)]
        assert heard[0].message.data.value == "before"


async def test_what_was_replicated_outlives_the_primary(primary_and_replica: SentinelSetup) -> None:
    async with Fleet(primary_and_replica.url) as fleet:
        one, two = await fleet.launch(), await fleet.launch()
        start = await two.broker.subscribe("room", KEPT)
        await published(one.broker, "room", "before", AckLevel.REPLICATED)
        primary_and_replica.primary.kill()
        await published(one.broker, "room", "after")
        await heard_until(two, "after")
        kept = await surely(lambda: two.broker.read("room", since=start))
        assert kept.recovered
        assert values(kept.messages) == ["before", "after"]


async def test_a_failover_that_loses_five_messages_is_told_to_every_node(
    primary_and_replica: SentinelSetup,
) -> None:
    async with Fleet(primary_and_replica.url) as fleet:
        one, two = await fleet.launch(), await fleet.launch()
        for member in (one, two):
            await member.broker.subscribe("room", KEPT)
        kept = await published(one.broker, "room", "kept", AckLevel.REPLICATED)
        primary_and_replica.disconnect_replica()
        *_, lost = await publish(one.broker, "room", *(f"lost {number}" for number in range(5)))
        for member in (one, two):
            await member.node.messages(6)
        primary_and_replica.primary.kill()
        # A backend that goes on publishing: the numbers of the lost ones are given out again.
        await published(one.broker, "room", "after")
        for member in (one, two):
            assert await heard_until(member, "reset") == ["reset"]
        await published(one.broker, "room", "later")
        for member in (one, two):
            # The gap may say that the stream goes on behind "after".
            assert (await heard_until(member, "later"))[-1] == "later"
        for stale in (kept, lost):
            page = await surely(lambda stale=stale: two.broker.read("room", since=stale))  # type: ignore[misc]
            assert not page.recovered
        assert values((await surely(lambda: two.broker.read("room"))).messages) == ["kept", "after", "later"]


async def test_sentinels_that_die_take_nothing_with_them(primary_and_replica: SentinelSetup) -> None:
    async with Fleet(primary_and_replica.url) as fleet:
        one = await fleet.launch()
        await one.broker.subscribe("room", KEPT)
        primary = primary_and_replica.primary
        for sentinel in primary_and_replica.sentinels:
            sentinel.kill()
        await publish(one.broker, "room", 1)
        # Even a new connection finds the primary where it was.
        primary.execute("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        await published(one.broker, "room", "again")
        await heard_until(one, "again")


async def test_a_broker_waits_for_sentinels_that_are_not_there_yet(tmp_path: Path) -> None:
    servers = SentinelSetup(tmp_path)
    try:
        servers.start()
        for sentinel in servers.sentinels:
            sentinel.kill()
        async with Fleet(servers.url) as fleet:
            one = await fleet.launch(start_timeout=0.2)
            assert not one.broker.ready()
            for sentinel in servers.sentinels:
                sentinel.start()
            await eventually(one.broker.ready)
    finally:
        servers.kill()


async def test_a_primary_that_was_given_up_is_left_though_it_still_answers(
    primary_and_replica: SentinelSetup,
) -> None:
    clock = FakeClock()
    primary = SentinelPrimary(Server.from_url(primary_and_replica.url), clock)
    first = await primary.locate(recheck=True)
    assert first == ("127.0.0.1", primary_and_replica.primary.port)
    await asyncio.to_thread(primary_and_replica.promote)
    assert primary.is_current(first, recheck=True)
    clock.advance(SENTINEL_RECHECK_SECONDS + 0.1)
    assert primary.is_current(first, recheck=False)
    assert not primary.is_current(first, recheck=True)
    second = await primary.locate(recheck=True)
    assert second == ("127.0.0.1", primary_and_replica.primary.port) != first
    assert not primary.is_current(first, recheck=False)
    assert primary.is_current(second, recheck=True)


@contextlib.contextmanager
def hanging(*servers: RedisServer) -> Iterator[None]:
    """Have *servers* take connections, and say nothing."""
    for server in servers:
        os.kill(server.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for server in servers:
            os.kill(server.pid, signal.SIGCONT)


async def test_sentinels_that_hang_are_not_waited_for(tmp_path: Path) -> None:
    with sentinel_setup(tmp_path, count=5) as servers, hanging(*servers.sentinels[:3]):
        async with Fleet(servers.url) as fleet:
            one = await fleet.launch()
            assert one.broker.ready()
            await publish(one.broker, "room", 1)
        primary = SentinelPrimary(Server.from_url(servers.url), FakeClock())
        assert await primary.locate(recheck=False) == ("127.0.0.1", servers.primary.port)


async def test_sentinels_that_are_silent_are_asked_again_soon(primary_and_replica: SentinelSetup) -> None:
    clock = FakeClock()
    primary = SentinelPrimary(Server.from_url(primary_and_replica.url), clock)
    first = await primary.locate(recheck=True)
    await asyncio.to_thread(primary_and_replica.promote)
    primary.invalidate()
    with hanging(*primary_and_replica.sentinels):
        assert await primary.locate(recheck=True) == first
        assert primary.is_current(first, recheck=True), "a primary that goes on does not suffer"
    clock.advance(SENTINEL_SILENT_RECHECK_SECONDS)
    assert primary.is_current(first, recheck=False)
    assert not primary.is_current(first, recheck=True)
    assert await primary.locate(recheck=True) == ("127.0.0.1", primary_and_replica.primary.port) != first


async def test_a_doubt_that_comes_while_sentinels_are_asked_is_heard(
    primary_and_replica: SentinelSetup,
) -> None:
    primary = SentinelPrimary(Server.from_url(primary_and_replica.url), FakeClock())
    with hanging(*primary_and_replica.sentinels[1:]):
        looking = asyncio.ensure_future(primary.locate(recheck=False))
        await asyncio.sleep(0)
        primary.invalidate()
        first = await looking
    assert not primary.is_current(first, recheck=False)
    assert primary.is_current(await primary.locate(recheck=False), recheck=False)


async def test_why_no_sentinel_knows_is_told_of_each(primary_and_replica: SentinelSetup) -> None:
    dead, hung, asked = primary_and_replica.sentinels
    primary = SentinelPrimary(Server.from_url(primary_and_replica.url.replace(PRIMARY_NAME, "another")))
    dead.kill()
    with hanging(hung), pytest.raises(exceptions.ConnectionError) as told:
        await primary.locate(recheck=False)
    text = str(told.value)
    assert text.startswith("no sentinel knows 'another': ")
    assert f"127.0.0.1:{dead.port}: Connect" in text
    assert f"127.0.0.1:{hung.port}: no answer in time" in text
    assert f"127.0.0.1:{asked.port}: No such master with that name" in text


# ---------------------------------------------------------------- replicas, without sentinels


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[tuple[RedisServer, RedisServer]]:
    with primary_with_replica(tmp_path) as pair:
        yield pair


async def test_a_publish_tells_whether_a_replica_has_it(pair: tuple[RedisServer, RedisServer]) -> None:
    primary, replica = pair
    await eventually(lambda: has_replica(primary))
    async with Fleet(primary.url) as fleet:
        one = await fleet.launch(replication_timeout=2.0)
        receipt = await one.broker.publish(publication("room", 1, level=AckLevel.REPLICATED, key="k"))
        assert (receipt.level, receipt.replayed) == (AckLevel.REPLICATED, False)
        assert replica.execute("XLEN", "fanway:{0}:log:room") == 1
        assert (await one.broker.publish(publication("room", 2))).level is None
        os.kill(replica.pid, signal.SIGSTOP)
        try:
            assert (
                await one.broker.publish(publication("room", 3, level=AckLevel.REPLICATED))
            ).level is AckLevel.STORED
            # The same publish again: the answer says whether the replica has it now, not whether it had it.
            again = publication("room", 1, level=AckLevel.REPLICATED, key="k")
            receipt = await one.broker.publish(again)
            assert (receipt.level, receipt.replayed) == (AckLevel.STORED, True)
        finally:
            os.kill(replica.pid, signal.SIGCONT)


async def test_who_waits_for_a_replica_delays_nobody_else(pair: tuple[RedisServer, RedisServer]) -> None:
    primary, replica = pair
    await eventually(lambda: has_replica(primary))
    async with Fleet(primary.url) as fleet:
        one = await fleet.launch(replication_timeout=20.0, publish_timeout=30.0)
        os.kill(replica.pid, signal.SIGSTOP)
        try:
            patient = asyncio.ensure_future(
                one.broker.publish(publication("room", 1, level=AckLevel.REPLICATED))
            )
            await publish(one.broker, "room", 2, 3)
            assert not patient.done()
        finally:
            os.kill(replica.pid, signal.SIGCONT)
        assert (await patient).level is AckLevel.REPLICATED


async def test_a_server_without_a_replica_says_stored(tmp_path: Path) -> None:
    with running_redis(tmp_path) as server:
        async with Fleet(server.url) as fleet:
            one = await fleet.launch(default_level=AckLevel.REPLICATED)
            assert (await one.broker.publish(publication("room", 1))).level is AckLevel.STORED
            assert (await one.broker.publish(publication("room", 1, level=AckLevel.STORED))).level is None


async def test_a_replica_is_no_primary(pair: tuple[RedisServer, RedisServer]) -> None:
    primary, replica = pair
    await eventually(lambda: has_replica(primary))
    async with Fleet(replica.url) as fleet:
        one = await fleet.launch(start_timeout=0.0)
        await wait_until_rejected(one, "its primary has moved")
        replica.execute("REPLICAOF", "NO", "ONE")
        await eventually(one.broker.ready)
