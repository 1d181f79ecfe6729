"""Outages: Redis is down, returns, loses its data; nodes die, or continue after their lease expired."""

import asyncio
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.broker.base import Delivery, PossibleLoss, Retention
from gateway.errors import BrokerUnavailable
from protocol.messages import Gap, Join, Leave, Member
from tests.broker.recording_node import KEPT, publication, publish, values
from tests.broker.redis_fleet import LEASE_SECONDS, TIMEOUT_SECONDS, Fleet, RunningNode, eventually
from tests.broker.redis_proxy import Proxy
from tests.broker.redis_server import DURABLE, RedisServer, running_redis
from tests.broker.test_redis_nodes import NO_RENEWALS

LONG = Retention(10_000, 300.0)
ANN, BOB = Member("c1", "ann"), Member("c2", "bob")
ATTEMPTS = 100


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    with running_redis(tmp_path, *DURABLE) as server:
        yield server


async def wait_until_ready(member: RunningNode) -> None:
    await eventually(member.broker.ready)


# ---------------------------------------------------------------- Redis is down


async def test_a_broker_starts_without_redis_and_serves_once_redis_is_up(tmp_path: Path) -> None:
    with running_redis(tmp_path) as server:
        server.kill()
        async with Fleet(server.url) as fleet:
            one = await fleet.launch(start_timeout=0.05)
            assert not one.broker.ready()
            with pytest.raises(BrokerUnavailable):
                await publish(one.broker, "a", 1)
            server.start()
            await wait_until_ready(one)
            position = await one.broker.subscribe("a", KEPT)
            (id,) = await publish(one.broker, "a", 1)
            assert position is not None
            assert id.follows(position)
            assert values(await one.node.messages(1)) == [1]


async def test_nothing_is_lost_when_redis_restarts_with_its_data(server: RedisServer, fleet: Fleet) -> None:
    one, two = [await fleet.launch(publish_timeout=60.0) for _ in range(2)]
    for each in (one, two):
        await each.broker.subscribe("a", LONG)
    await one.broker.join("a", ANN)
    before = await publish(two.broker, "a", *range(20), retention=LONG)
    server.kill()
    failing = [two.broker.publish(publication("a", "lost", retention=LONG)) for _ in range(5)]
    # A third of the time that an answer may take: no call waits for one.
    async with asyncio.timeout(TIMEOUT_SECONDS):
        failed = await asyncio.gather(*failing, return_exceptions=True)
    assert all(isinstance(each, BrokerUnavailable) for each in failed)
    with pytest.raises(BrokerUnavailable):
        await one.broker.subscribe("b", KEPT)
    await eventually(lambda: not one.broker.ready() and not two.broker.ready())
    server.start()
    await wait_until_ready(one)
    await wait_until_ready(two)
    after = await publish(two.broker, "a", *range(20, 30), retention=LONG)
    for each in (one, two):
        messages = [item for item in await each.node.received(31) if isinstance(item, Delivery)]
        assert [item.message.message for item in messages] == [*before, *after]
    assert list((await two.broker.presence("a")).members) == [ANN]
    assert one.broker.statistics()["gaps"] == 0
    assert (await one.broker.read("a", since=before[3])).recovered


async def test_an_outage_longer_than_the_lease_reaps_no_node(server: RedisServer, fleet: Fleet) -> None:
    one, two = await fleet.launch(lease=LEASE_SECONDS), await fleet.launch(lease=LEASE_SECONDS)
    await one.broker.subscribe("a", LONG)
    await two.broker.join("a", BOB)
    assert await one.node.received(1) == [Join("a", BOB)]
    server.kill()
    await asyncio.sleep(LEASE_SECONDS * 1.5)  # time has to pass: that is what a lease is about
    server.start()
    await wait_until_ready(one)
    await wait_until_ready(two)
    await publish(two.broker, "a", 1, retention=LONG)
    assert values(await one.node.messages(1)) == [1]
    assert list((await one.broker.presence("a")).members) == [BOB]


async def test_leaves_during_an_outage_are_sent_after_it(server: RedisServer, fleet: Fleet) -> None:
    one, two = await fleet.launch(), await fleet.launch()
    await one.broker.subscribe("a", None)
    await two.broker.join("a", ANN)
    await two.broker.join("a", BOB)
    await one.node.received(2)
    server.kill()
    await two.broker.leave("a", "c1")
    server.start()
    assert await one.node.received(1) == [Leave("a", ANN)]
    await eventually(one.broker.ready)
    assert list((await one.broker.presence("a")).members) == [BOB]


async def test_users_that_connect_during_an_outage_are_found_after_it(
    server: RedisServer, fleet: Fleet
) -> None:
    one = await fleet.launch()
    server.kill()
    await eventually(lambda: not one.broker.ready())
    await one.broker.user_connected("ann")
    server.start()
    await eventually(lambda: one.broker.ready() and server.execute("EXISTS", "fanway:{0}:route:=ann") == 1)


async def test_subscribes_without_history_during_an_outage_are_routed_after_it(
    server: RedisServer, fleet: Fleet
) -> None:
    one = await fleet.launch()
    server.kill()
    await eventually(lambda: not one.broker.ready())
    assert await one.broker.subscribe("a", None) is None
    with pytest.raises(BrokerUnavailable):
        await one.broker.subscribe("b", KEPT)
    server.start()
    assert await one.node.received(1) == [Gap("a", "reset", None)]
    await publish(one.broker, "a", 1, retention=None)
    assert values(await one.node.messages(1)) == [1]


async def test_subscribes_and_joins_that_were_undone_during_an_outage_are_not_sent(
    server: RedisServer, fleet: Fleet
) -> None:
    one = await fleet.launch()
    broker = one.broker
    server.kill()
    await eventually(lambda: not broker.ready())
    for number in range(ATTEMPTS):
        # As a client does that subscribes to one name after the other, without success.
        await broker.subscribe(f"x{number}", None)
        with pytest.raises(BrokerUnavailable):
            await broker.join(f"x{number}", ANN)
        await broker.leave(f"x{number}", "c1")
        await broker.unsubscribe(f"x{number}")
        await broker.user_connected(f"u{number}")
        await broker.user_disconnected(f"u{number}")
    assert broker.statistics()["channels"] == 0
    server.start()
    await wait_until_ready(one)
    await broker.subscribe("marker", None)
    asked = server.execute("INFO", "commandstats")["cmdstat_evalsha"]["calls"]
    assert asked < ATTEMPTS, "nothing had to be sent"


async def test_calls_whose_answer_was_lost_are_undone(
    server: RedisServer, proxy: Proxy, fleet: Fleet
) -> None:
    one = await fleet.launch(proxy.url, lease=30.0, beat=0.05, presence_timeout=0.1)
    broker, keys = one.broker, ("fanway:{0}:who:a", "fanway:{0}:route:=ann")
    await broker.subscribe("marker", None)
    await broker.user_connected("ann")
    await eventually(lambda: server.execute("EXISTS", keys[1]) == 1)
    proxy.hold_answers()
    with pytest.raises(BrokerUnavailable):
        await broker.join("a", ANN)
    await eventually(lambda: server.execute("EXISTS", *keys) == 2)
    await broker.leave("a", "c1")
    await broker.user_disconnected("ann")
    proxy.cut()
    proxy.release()
    await eventually(lambda: server.execute("EXISTS", *keys) == 0)
    await eventually(lambda: broker.statistics()["channels"] == 1)


# ---------------------------------------------------------------- Redis loses data


async def test_after_flushall_subscribers_get_a_gap_and_then_new_messages(
    server: RedisServer, fleet: Fleet
) -> None:
    one, two = await fleet.launch(), await fleet.launch()
    await one.broker.subscribe("kept", KEPT)
    await one.broker.subscribe("not", None)
    await one.broker.join("kept", ANN)
    old = await publish(two.broker, "kept", 1, 2, 3)
    await one.node.received(4)
    server.execute("FLUSHALL")
    received = await one.node.received(3)
    gaps = {each.channel: each for each in received if isinstance(each, Gap)}
    assert set(gaps) == {"kept", "not"}
    assert all(each.reason == "reset" for each in gaps.values())
    assert gaps["not"].position is None
    position = gaps["kept"].position
    page = await one.broker.read("kept", since=old[1])
    assert (page.recovered, list(page.messages), page.position) == (False, [], position)
    (id,) = await publish(two.broker, "kept", 4)
    assert position is not None
    assert id.follows(position)
    assert values(await one.node.messages(1)) == [4]
    await publish(two.broker, "not", 5, retention=None)
    assert values(await one.node.messages(1)) == [5]
    assert list((await two.broker.presence("kept")).members) == [ANN]
    assert Join("kept", ANN) in received, "others may have read a list without it"


async def test_members_that_redis_lost_are_announced_to_who_has_read_a_list_without_them(
    server: RedisServer, fleet: Fleet
) -> None:
    one, two = await fleet.launch(), await fleet.launch(beat=NO_RENEWALS)
    await one.broker.subscribe("kept", KEPT)
    await two.broker.join("kept", ANN)
    assert await one.node.received(1) == [Join("kept", ANN)]
    server.execute("FLUSHALL")
    (gap,) = await one.node.received(1)
    assert isinstance(gap, Gap)
    assert (await one.broker.presence("kept")).members == ()
    await publish(two.broker, "other", 1)  # only now this node notices the loss
    assert await one.node.received(1) == [Join("kept", ANN)]


async def test_a_failover_that_lost_writes_is_noticed_though_offsets_continue(
    server: RedisServer, fleet: Fleet, tmp_path: Path
) -> None:
    one, two = await fleet.launch(), await fleet.launch()
    await one.broker.subscribe("a", LONG)
    kept = await publish(two.broker, "a", *range(5), retention=LONG)
    shutil.copytree(tmp_path / "appendonlydir", tmp_path / "replica")
    lost = await publish(two.broker, "a", "lost", "lost", retention=LONG)
    await one.node.messages(7)
    server.kill()
    shutil.rmtree(tmp_path / "appendonlydir")
    shutil.move(tmp_path / "replica", tmp_path / "appendonlydir")
    server.start()
    (gap,) = await one.node.received(1)
    assert isinstance(gap, Gap)
    assert (gap.reason, gap.position and gap.position.offset) == ("reset", 5)
    await wait_until_ready(two)
    new = await publish(two.broker, "a", "new", "new", retention=LONG)
    assert [id.offset for id in new] == [6, 7], "the offsets of the lost messages"
    assert [message.message for message in await one.node.messages(2)] == new
    for since in (*kept, *lost):
        # Also positions from before the loss: messages after them were lost.
        assert not (await two.broker.read("a", since=since)).recovered
    assert gap.position is not None
    assert values((await two.broker.read("a", since=gap.position)).messages) == ["new", "new"]
    assert values((await two.broker.read("a")).messages) == [*range(5), "new", "new"]


# ---------------------------------------------------------------- nodes die


async def test_each_member_of_a_dead_node_leaves_once(
    server: RedisServer, proxy: Proxy, fleet: Fleet
) -> None:
    one, two = await fleet.launch(lease=LEASE_SECONDS), await fleet.launch(lease=LEASE_SECONDS)
    dead = await fleet.launch(proxy.url, lease=LEASE_SECONDS)
    for each in (one, two):
        await each.broker.subscribe("a", None)
    await dead.broker.join("a", ANN)
    await dead.broker.join("b", BOB)
    await dead.broker.subscribe("a", None)
    await dead.broker.subscribe("only here", None)
    proxy.hold()
    proxy.cut()
    for each in (one, two):
        assert await each.node.received(2) == [Join("a", ANN), Leave("a", ANN)]
    await eventually(lambda: server.execute("ZCARD", "fanway:{0}:nodes") == 2)
    assert (await one.broker.presence("b")).connections == 0
    assert server.execute("SCARD", "fanway:{0}:route:a") == 2
    assert server.execute("EXISTS", "fanway:{0}:route:only here") == 0
    left = {key.decode() for kind in ("in", "of", "pn") for key in server.execute("KEYS", f"*:{kind}:n3~*")}
    assert left == set()
    assert sorted(record.node for record in await one.broker.nodes()) == ["n1", "n2"]
    # No second leave: the marker comes next.
    await publish(one.broker, "a", "marker", retention=None)
    for each in (one, two):
        assert values(await each.node.messages(1)) == ["marker"]


async def test_a_zombie_is_fenced_and_starts_a_new_incarnation(proxy: Proxy, fleet: Fleet) -> None:
    one, zombie = await fleet.launch(lease=LEASE_SECONDS), await fleet.launch(proxy.url, lease=LEASE_SECONDS)
    for each in (one, zombie):
        await each.broker.subscribe("a", LONG)
    await zombie.broker.subscribe("not", None)
    await zombie.broker.join("a", ANN)
    first = await publish(one.broker, "a", 0, retention=LONG)
    await zombie.node.received(2)
    await one.node.received(2)
    proxy.hold()
    missed = await publish(one.broker, "a", *range(1, 5), retention=LONG)
    await one.node.messages(4)
    assert await one.node.received(1) == [Leave("a", ANN)]
    assert zombie.node.envelopes == []
    proxy.release()
    # What the first incarnation had in its buffers is not delivered; history has everything, once, in order.
    received = await zombie.node.received(7)
    messages = [each.message.message for each in received if isinstance(each, Delivery)]
    assert messages == missed
    assert Gap("not", "reset", None) in received
    assert PossibleLoss("a") in received, "history has neither leaves nor messages published without history"
    assert Join("a", ANN) in received
    assert await one.node.received(1) == [Join("a", ANN)]
    await publish(one.broker, "a", "live", retention=LONG)
    await publish(one.broker, "not", "live", retention=None)
    assert values(await zombie.node.messages(2)) == ["live", "live"]
    assert zombie.broker.statistics()["incarnations"] == 2
    assert first
