"""The broker behind sentinels: failovers of a real primary to a real replica; replicated publishes."""

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator, Iterator
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
from tests.broker.contract_machine import until_available
from tests.broker.recording_node import KEPT, publication, publish, values
from tests.broker.redis_fleet import Fleet, RunningNode, eventually, wait_until_rejected
from tests.broker.redis_proxy import Proxy
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


async def publish_until_accepted(
    broker: RedisBroker, channel: str, value: str, level: AckLevel = AckLevel.STORED
) -> MessageId | None:
    """Publish as a backend does: with one key, until it is accepted at *level*; return its id."""
    receipts: list[Receipt] = []

    async def accepted() -> bool:
        try:
            receipt = await broker.publish(publication(channel, value, key=value, level=level))
        except BrokerUnavailable:
            return False
        receipts.append(receipt)
        return (receipt.level or level) is level

    await eventually(accepted)
    return receipts[-1].id


async def publish_until_delivered(one: RunningNode, two: RunningNode) -> None:
    """Publish until *two* gets a message: earlier ones may be lost in a gap that was reported to it."""
    published: list[str] = []

    async def delivered() -> bool:
        published.append(f"after {len(published)}")
        await publish_until_accepted(one.broker, "room", published[-1])
        received = [each.message.data.value for each in two.node.envelopes if isinstance(each, Delivery)]
        return received[-1] in published

    await eventually(delivered)


async def received_until(member: RunningNode, last: str) -> list[str]:
    """Return the values of all messages up to *last*, and the reasons of gaps among them."""
    received: list[str] = []
    while last not in received:
        (envelope,) = await member.node.received(1)
        assert isinstance(envelope, Delivery | Gap)
        received.append(envelope.reason if isinstance(envelope, Gap) else str(envelope.message.data.value))
    return received


async def test_a_planned_failover_is_noticed_while_the_former_primary_still_works(
    primary_and_replica: SentinelSetup,
) -> None:
    async with Fleet(primary_and_replica.url) as fleet:
        one, two = await fleet.launch(), await fleet.launch()
        await two.broker.subscribe("room", KEPT)
        await publish_until_accepted(one.broker, "room", "before", AckLevel.REPLICATED)
        former = primary_and_replica.primary
        await asyncio.to_thread(primary_and_replica.promote)
        present = primary_and_replica.primary

        async def moved() -> bool:
            # What the former primary still accepts is lost, and reported as a gap.
            await publish_until_accepted(one.broker, "room", f"stray {present.execute('TIME')}")
            return bool(present.execute("XLEN", "fanway:{0}:log:room") > 1)

        await eventually(moved)
        assert former.execute("ROLE")[0] == b"master"
        await publish_until_delivered(one, two)
        received = [each for each in two.node.envelopes if isinstance(each, Delivery)]
        assert received[0].message.data.value == "before"


async def test_a_replicated_message_survives_the_primary(primary_and_replica: SentinelSetup) -> None:
    async with Fleet(primary_and_replica.url) as fleet:
        one, two = await fleet.launch(), await fleet.launch()
        start = await two.broker.subscribe("room", KEPT)
        await publish_until_accepted(one.broker, "room", "before", AckLevel.REPLICATED)
        primary_and_replica.primary.kill()
        await publish_until_accepted(one.broker, "room", "after")
        await received_until(two, "after")
        kept = await until_available(lambda: two.broker.read("room", since=start))
        assert kept.recovered
        assert values(kept.messages) == ["before", "after"]


async def test_every_node_reports_a_failover_that_lost_messages(
    primary_and_replica: SentinelSetup,
) -> None:
    async with Fleet(primary_and_replica.url) as fleet:
        one, two = await fleet.launch(), await fleet.launch()
        for member in (one, two):
            await member.broker.subscribe("room", KEPT)
        kept = await publish_until_accepted(one.broker, "room", "kept", AckLevel.REPLICATED)
        primary_and_replica.disconnect_replica()
        *_, lost = await publish(one.broker, "room", *(f"lost {number}" for number in range(5)))
        for member in (one, two):
            await member.node.messages(6)
        primary_and_replica.primary.kill()
        # The offsets of the lost messages are assigned again.
        await publish_until_accepted(one.broker, "room", "after")
        for member in (one, two):
            assert await received_until(member, "reset") == ["reset"]
        await publish_until_accepted(one.broker, "room", "later")
        for member in (one, two):
            # The position of the gap may already include "after".
            assert (await received_until(member, "later"))[-1] == "later"
        for stale in (kept, lost):
            page = await until_available(lambda stale=stale: two.broker.read("room", since=stale))  # type: ignore[misc]
            assert not page.recovered
        assert values((await until_available(lambda: two.broker.read("room"))).messages) == [
            "kept",
            "after",
            "later",
        ]


async def test_killed_sentinels_do_not_affect_the_broker(primary_and_replica: SentinelSetup) -> None:
    async with Fleet(primary_and_replica.url) as fleet:
        one = await fleet.launch()
        await one.broker.subscribe("room", KEPT)
        primary = primary_and_replica.primary
        for sentinel in primary_and_replica.sentinels:
            sentinel.kill()
        await publish(one.broker, "room", 1)
        # A new connection still finds the primary.
        primary.execute("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        await publish_until_accepted(one.broker, "room", "again")
        await received_until(one, "again")


async def test_a_broker_starts_before_its_sentinels(tmp_path: Path) -> None:
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


async def test_a_replaced_primary_is_left_though_it_still_answers(
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
    """Stop the processes of *servers*: they accept connections and never answer."""
    for server in servers:
        os.kill(server.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for server in servers:
            os.kill(server.pid, signal.SIGCONT)


def watchers(*sentinels: RedisServer) -> list[int]:
    """Return how many connections of each sentinel are subscribed to failovers, other sentinels apart."""
    counts = []
    for sentinel in sentinels:
        with sentinel.client() as client:
            counts.append(sum(each["sub"] == "1" for each in client.client_list()))
    return counts


@contextlib.asynccontextmanager
async def watching(primary: SentinelPrimary) -> AsyncIterator[None]:
    task = asyncio.ensure_future(primary.watch_failovers())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])


@pytest.mark.parametrize("hanging_number", range(3))
async def test_a_failover_that_one_sentinel_does_not_announce_is_announced_by_another(
    primary_and_replica: SentinelSetup, hanging_number: int
) -> None:
    """As in a partition: the sentinel beside the former primary knows of nothing."""
    sentinels = primary_and_replica.sentinels
    primary = SentinelPrimary(Server.from_url(primary_and_replica.url), FakeClock())
    async with watching(primary):
        await eventually(lambda: watchers(*sentinels) == [1, 1, 1])
        first = await primary.locate(recheck=False)

        async def moved() -> bool:
            # The clock stands still: only an announcement makes it ask again.
            return await primary.locate(recheck=False) != first

        with hanging(sentinels[hanging_number]):
            working = sentinels[(hanging_number + 1) % 3]
            working.execute("SENTINEL", "FAILOVER", PRIMARY_NAME)
            await eventually(moved)


async def test_a_subscription_to_a_sentinel_that_a_middlebox_has_forgotten_is_replaced(
    primary_and_replica: SentinelSetup, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.broker.redis.timeouts.SENTINEL_PING_SECONDS", 0.05)
    sentinel = primary_and_replica.sentinels[0]
    async with Proxy(sentinel.port) as proxy:
        port = proxy.url.rpartition(":")[2].removesuffix("/0")
        url = f"redis+sentinel://127.0.0.1:{port}/{PRIMARY_NAME}"
        primary = SentinelPrimary(Server.from_url(url), FakeClock())
        async with watching(primary):
            await eventually(lambda: watchers(sentinel) == [1])
            first = await primary.locate(recheck=False)
            await eventually(lambda: proxy.connections == 1)
            assert proxy.forget() == 1
            await eventually(lambda: not primary.is_current(first, recheck=False))
            assert await primary.locate(recheck=False) == first
            await eventually(lambda: watchers(sentinel)[0] >= 1)


async def test_hanging_sentinels_do_not_delay_the_lookup(tmp_path: Path) -> None:
    with sentinel_setup(tmp_path, count=5) as servers, hanging(*servers.sentinels[:3]):
        async with Fleet(servers.url) as fleet:
            one = await fleet.launch()
            assert one.broker.ready()
            await publish(one.broker, "room", 1)
        primary = SentinelPrimary(Server.from_url(servers.url), FakeClock())
        assert await primary.locate(recheck=False) == ("127.0.0.1", servers.primary.port)


async def test_sentinels_that_did_not_answer_are_asked_again_soon(primary_and_replica: SentinelSetup) -> None:
    clock = FakeClock()
    primary = SentinelPrimary(Server.from_url(primary_and_replica.url), clock)
    first = await primary.locate(recheck=True)
    await asyncio.to_thread(primary_and_replica.promote)
    primary.invalidate()
    with hanging(*primary_and_replica.sentinels):
        assert await primary.locate(recheck=True) == first
        assert primary.is_current(first, recheck=True), "calls to a primary that works go on"
    clock.advance(SENTINEL_SILENT_RECHECK_SECONDS)
    assert primary.is_current(first, recheck=False)
    assert not primary.is_current(first, recheck=True)
    assert await primary.locate(recheck=True) == ("127.0.0.1", primary_and_replica.primary.port) != first


async def test_an_invalidation_during_a_lookup_is_not_lost(
    primary_and_replica: SentinelSetup,
) -> None:
    primary = SentinelPrimary(Server.from_url(primary_and_replica.url), FakeClock())
    with hanging(*primary_and_replica.sentinels[1:]):
        lookup = asyncio.ensure_future(primary.locate(recheck=False))
        await asyncio.sleep(0)
        primary.invalidate()
        first = await lookup
    assert not primary.is_current(first, recheck=False)
    assert primary.is_current(await primary.locate(recheck=False), recheck=False)


async def test_the_error_of_a_failed_lookup_has_the_reason_of_each_sentinel(
    primary_and_replica: SentinelSetup,
) -> None:
    dead, hung, asked = primary_and_replica.sentinels
    primary = SentinelPrimary(Server.from_url(primary_and_replica.url.replace(PRIMARY_NAME, "another")))
    dead.kill()
    with hanging(hung), pytest.raises(exceptions.ConnectionError) as raised:
        await primary.locate(recheck=False)
    text = str(raised.value)
    assert text.startswith("no sentinel knows 'another': ")
    assert f"127.0.0.1:{dead.port}: Connect" in text
    assert f"127.0.0.1:{hung.port}: no answer in time" in text
    assert f"127.0.0.1:{asked.port}: No such master with that name" in text


# ---------------------------------------------------------------- replicas, without sentinels


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[tuple[RedisServer, RedisServer]]:
    with primary_with_replica(tmp_path) as pair:
        yield pair


async def test_a_publish_reports_whether_a_replica_has_it(pair: tuple[RedisServer, RedisServer]) -> None:
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


async def test_a_publish_that_waits_for_a_replica_delays_no_other_channel(
    pair: tuple[RedisServer, RedisServer],
) -> None:
    primary, replica = pair
    await eventually(lambda: has_replica(primary))
    async with Fleet(primary.url) as fleet:
        one = await fleet.launch(replication_timeout=20.0, publish_timeout=30.0)
        os.kill(replica.pid, signal.SIGSTOP)
        try:
            replicated = asyncio.ensure_future(
                one.broker.publish(publication("room", 1, level=AckLevel.REPLICATED))
            )
            await publish(one.broker, "another", 2, 3)
            assert not replicated.done()
        finally:
            os.kill(replica.pid, signal.SIGCONT)
        assert (await replicated).level is AckLevel.REPLICATED


async def test_without_a_replica_a_publish_is_acknowledged_as_stored(tmp_path: Path) -> None:
    with running_redis(tmp_path) as server:
        async with Fleet(server.url) as fleet:
            one = await fleet.launch(default_level=AckLevel.REPLICATED)
            assert (await one.broker.publish(publication("room", 1))).level is AckLevel.STORED
            assert (await one.broker.publish(publication("room", 1, level=AckLevel.STORED))).level is None


async def test_a_replica_is_not_used_as_a_primary(pair: tuple[RedisServer, RedisServer]) -> None:
    primary, replica = pair
    await eventually(lambda: has_replica(primary))
    async with Fleet(replica.url) as fleet:
        one = await fleet.launch(start_timeout=0.0)
        await wait_until_rejected(one, "its primary has moved")
        replica.execute("REPLICAOF", "NO", "ONE")
        await eventually(one.broker.ready)
