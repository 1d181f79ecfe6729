"""Several nodes on one Redis: routing, order, backfill from history, presence and lookups."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio

from gateway.broker.base import (
    AckLevel,
    ChannelRecord,
    ConnectionRecord,
    Delivery,
    Retention,
    UserCommand,
)
from protocol.messages import Gap, Join, Leave, Member
from tests.broker.recording_node import KEPT, publication, publish, values
from tests.broker.redis_fleet import Fleet, eventually
from tests.broker.redis_proxy import Proxy
from tests.broker.redis_server import DURABLE, RedisServer, running_redis

LONG = Retention(10_000, 300.0)

NO_RENEWALS = 30.0
"""Seconds between two renewals of a lease: none within a test, so that nothing else is written."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with running_redis(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest_asyncio.fixture
async def fleet(server: RedisServer) -> AsyncIterator[Fleet]:
    server.execute("FLUSHALL")
    async with Fleet(server.url) as fleet:
        yield fleet


def inboxes(server: RedisServer) -> dict[str, int]:
    """How many entries each node's inbox holds, by the node's name."""
    return {
        key.decode().partition(":in:")[2].partition("~")[0]: server.execute("XLEN", key)
        for key in server.execute("KEYS", "fanway:*:in:*")
    }


# ---------------------------------------------------------------- repeated publishes


async def test_a_repeated_publish_writes_only_if_it_has_to_be_replicated(tmp_path: Path) -> None:
    """WAIT counts writes of its own connection: a repeated publish must write for a replica to confirm it."""
    # With `appendfsync everysec` Redis may answer before it has appended the command to the file.
    with running_redis(tmp_path, *DURABLE) as server:
        async with Fleet(server.url) as fleet:
            one = await fleet.launch(lease=600.0)  # no renewal, which writes as well, within the test
            key = "fanway:{0}:key:a\nk"

            def written() -> int:
                return int(server.execute("INFO", "persistence")["aof_current_size"])

            await one.broker.publish(publication("a", 1, key="k"))
            server.execute("PEXPIRE", key, 60_000)
            before = written()
            receipt = await one.broker.publish(publication("a", 1, key="k"))
            assert (receipt.replayed, written()) == (True, before)
            server.execute("CONFIG", "SET", "maxmemory", "1mb")
            receipt = await one.broker.publish(publication("a", 1, key="k", level=AckLevel.REPLICATED))
            server.execute("CONFIG", "SET", "maxmemory", "0")
            assert (receipt.replayed, receipt.level) == (True, AckLevel.STORED)
            assert written() > before
            assert 0 < server.execute("PTTL", key) <= 60_000, "no longer than before"


# ---------------------------------------------------------------- routes


async def test_messages_go_only_to_nodes_with_a_subscriber(server: RedisServer, fleet: Fleet) -> None:
    one, two, three = [await fleet.launch() for _ in range(3)]
    await two.broker.subscribe("a", KEPT)
    await three.broker.subscribe("b", KEPT)
    before = inboxes(server)
    ids = await publish(one.broker, "a", 1, 2, 3)
    assert [message.message for message in await two.node.messages(3)] == ids
    assert inboxes(server)["n3"] == before["n3"] == 1, "the marker of its own subscribe"
    assert "n1" not in inboxes(server)


async def test_all_nodes_see_one_order(fleet: Fleet) -> None:
    nodes = [await fleet.launch() for _ in range(3)]
    for each in nodes:
        await each.broker.subscribe("a", LONG)
    await asyncio.gather(
        *(
            each.broker.publish(publication("a", [index, n], retention=LONG))
            for n in range(100)
            for index, each in enumerate(nodes)
        )
    )
    seen = [[message.message for message in await each.node.messages(300)] for each in nodes]
    assert seen[0] == seen[1] == seen[2]
    assert [id and id.offset for id in seen[0]] == list(range(1, 301))


async def test_a_route_is_removed_after_the_linger_time(server: RedisServer, fleet: Fleet) -> None:
    one = await fleet.launch(linger=0.1)
    await one.broker.subscribe("a", None)
    await one.broker.unsubscribe("a")
    assert server.execute("EXISTS", "fanway:{0}:route:a") == 1
    await publish(one.broker, "a", "without subscribers", retention=None)
    await eventually(lambda: server.execute("EXISTS", "fanway:{0}:route:a") == 0)
    assert server.execute("KEYS", "fanway:*:of:*") == []
    assert server.execute("ZCARD", "fanway:{0}:names") == 0
    await one.broker.subscribe("a", None)
    await publish(one.broker, "a", 1, retention=None)
    assert values(await one.node.messages(1)) == [1]


async def test_a_subscriber_that_returns_while_the_route_lingers_gets_nothing_older(fleet: Fleet) -> None:
    one, two = await fleet.launch(linger=30.0), await fleet.launch()
    for retention in (KEPT, None):
        await one.broker.subscribe("a", retention)
        await one.broker.unsubscribe("a")
        # Already in the inbox, perhaps not yet read, when the next one subscribes.
        publishing = [two.broker.publish(publication("a", n, retention=retention)) for n in range(20)]
        await asyncio.gather(*publishing)
        await one.broker.subscribe("a", retention)
        await two.broker.publish(publication("a", "new", retention=retention))
        assert values(await one.node.messages(1)) == ["new"]
        await one.broker.unsubscribe("a")


async def test_an_inbox_is_trimmed_behind_its_reader(server: RedisServer, fleet: Fleet) -> None:
    one = await fleet.launch()
    await one.broker.subscribe("a", LONG)
    for _ in range(4):
        await publish(one.broker, "a", *range(200), retention=LONG)
    await one.node.messages(800)
    await eventually(lambda: inboxes(server)["n1"] <= 1)


# ---------------------------------------------------------------- gaps


async def remove_route(server: RedisServer, channel: str) -> bytes:
    """Remove the route of the only node that has one, which is not audited; return the node."""
    route = f"fanway:{{0}}:route:{channel}"
    (node,) = server.execute("SMEMBERS", route)
    server.execute("SREM", route, node)
    return bytes(node)


async def test_missed_messages_are_read_from_history(server: RedisServer, fleet: Fleet) -> None:
    one, two = await fleet.launch(beat=NO_RENEWALS), await fleet.launch()
    await one.broker.subscribe("a", LONG)
    (first,) = await publish(two.broker, "a", 0, retention=LONG)
    node = await remove_route(server, "a")
    lost = await publish(two.broker, "a", *range(1, 1_203), retention=LONG)
    server.execute("SADD", "fanway:{0}:route:a", node)
    (last, after) = await publish(two.broker, "a", "last", "after", retention=LONG)
    seen = [message.message for message in await one.node.messages(1_205)]
    assert seen == [first, *lost, last, after]
    assert one.broker.statistics()["gaps"] == 0


async def test_missed_messages_that_history_no_longer_has_are_reported_as_a_gap(
    server: RedisServer, fleet: Fleet
) -> None:
    one, two = await fleet.launch(beat=NO_RENEWALS), await fleet.launch()
    await one.broker.subscribe("a", KEPT)
    await publish(two.broker, "a", 0)
    node = await remove_route(server, "a")
    await publish(two.broker, "a", *range(1, 9))
    server.execute("SADD", "fanway:{0}:route:a", node)
    (ninth,) = await publish(two.broker, "a", 9)
    first, gap = await one.node.received(2)
    assert isinstance(first, Delivery)
    assert gap == Gap("a", "trimmed", ninth)
    await publish(two.broker, "a", 10)
    assert values(await one.node.messages(1)) == [10]


async def test_entries_that_arrive_during_a_backfill_keep_their_order(
    server: RedisServer, fleet: Fleet
) -> None:
    one, two = await fleet.launch(beat=NO_RENEWALS), await fleet.launch()
    await one.broker.subscribe("a", LONG)
    node = await remove_route(server, "a")
    await publish(two.broker, "a", 0, retention=LONG)
    server.execute("SADD", "fanway:{0}:route:a", node)
    member = Member("c1", "ann")
    await asyncio.gather(
        two.broker.publish(publication("a", 1, retention=LONG)),
        *(two.broker.publish(publication("a", n, retention=LONG)) for n in range(2, 50)),
    )
    await two.broker.join("a", member)
    received = await one.node.received(51)
    assert values(each.message for each in received[:50] if isinstance(each, Delivery)) == list(range(50))
    assert received[50] == Join("a", member)


async def test_an_inbox_that_overflowed_is_backfilled_or_reported_as_a_gap(
    server: RedisServer, fleet: Fleet
) -> None:
    one, two = await fleet.launch(inbox_limit=200), await fleet.launch(inbox_limit=200)
    await one.broker.subscribe("kept", LONG)
    await one.broker.subscribe("not", None)
    # In one script, so that the reader cannot keep up.
    (node,) = server.execute("SMEMBERS", "fanway:{0}:route:not")
    flood = "for i = 1, 2000 do redis.call('XADD', KEYS[1], '*', 'h', 'm 0 - - not', 'b', '1\\n1') end"
    ids = await publish(two.broker, "kept", *range(5), retention=LONG)
    server.execute("EVAL", flood, 1, f"fanway:{{0}}:in:{node.decode()}")
    ids += await publish(two.broker, "kept", *range(5, 10), retention=LONG)
    await eventually(lambda: Gap("not", "reset", None) in one.node.envelopes)
    await eventually(
        lambda: (
            [
                each.message.message
                for each in one.node.envelopes
                if isinstance(each, Delivery) and each.message.channel == "kept"
            ]
            == ids
        )
    )


async def test_a_malformed_entry_does_not_stop_the_reader(server: RedisServer, fleet: Fleet) -> None:
    one = await fleet.launch()
    await one.broker.subscribe("a", KEPT)
    (inbox,) = server.execute("KEYS", "fanway:*:in:*")
    for head in ("m", "m x y z a", "j a", "s", "q", "q t", "?"):
        server.execute("XADD", inbox, "*", "h", head, "b", "{")
    server.execute("XADD", inbox, "*", "another", "field")
    await publish(one.broker, "a", 1)
    assert values(await one.node.messages(1)) == [1]
    assert fleet.errors
    fleet.errors.clear()


async def test_positions_of_subscribed_channels_do_not_expire(server: RedisServer, fleet: Fleet) -> None:
    one = await fleet.launch(meta_ttl=3.0)
    position = await one.broker.subscribe("a", KEPT)
    for _ in range(2):
        server.age(1.5)
        await eventually(lambda: server.execute("PTTL", "fanway:{0}:meta:a") > 1_500)
    assert (await one.broker.read("a")).position == position


async def test_concurrent_reads_of_the_same_page_are_shared(fleet: Fleet) -> None:
    one = await fleet.launch()
    ids = await publish(one.broker, "a", *range(4))
    before = one.broker.statistics()
    pages = await asyncio.gather(*(one.broker.read("a", since=ids[0]) for _ in range(100)))
    assert all(values(page.messages) == [1, 2, 3] for page in pages)
    after = one.broker.statistics()
    assert after["reads"] - before["reads"] == 1
    assert after["reads_shared"] - before["reads_shared"] == 99


async def test_flushed_scripts_are_loaded_again(server: RedisServer, fleet: Fleet) -> None:
    one = await fleet.launch()
    await one.broker.subscribe("a", LONG)
    await publish(one.broker, "a", 0, retention=LONG)
    server.execute("SCRIPT", "FLUSH")
    await asyncio.gather(*(one.broker.publish(publication("a", n, retention=LONG)) for n in range(1, 50)))
    assert values(await one.node.messages(50)) == list(range(50))


# ---------------------------------------------------------------- presence and lookups


async def test_members_of_all_nodes_are_present_and_announced(fleet: Fleet) -> None:
    one, two = await fleet.launch(), await fleet.launch()
    ann, bob = Member("c1", "ann", {"x": 1}), Member("c2", "bob")
    await one.broker.subscribe("a", None)
    await two.broker.join("a", ann)
    await one.broker.join("a", bob)
    assert list((await two.broker.presence("a")).members) == [ann, bob]
    await two.broker.leave("a", "c1")
    assert await one.node.received(3) == [Join("a", ann), Join("a", bob), Leave("a", ann)]


async def test_members_of_a_closed_node_leave(fleet: Fleet) -> None:
    one, two = await fleet.launch(), await fleet.launch()
    members = [Member(f"c{n}", "ann") for n in range(450)]
    await one.broker.subscribe("a", None)
    await asyncio.gather(*(two.broker.join("a", member) for member in members))
    await two.broker.close()
    received = await one.node.received(900)
    assert {each.member for each in received if isinstance(each, Leave)} == set(members)
    assert (await one.broker.presence("a")).connections == 0
    assert [record.node for record in await one.broker.nodes()] == ["n1"]


async def test_connections_of_a_user_are_found_on_every_node(server: RedisServer, fleet: Fleet) -> None:
    nodes = [await fleet.launch() for _ in range(4)]
    records = [
        ConnectionRecord(f"c{n}", f"n{n}", ["a", "b"], since) for n, since in enumerate((2.0, 1.0, 3.0))
    ]
    for each, record in zip(nodes[:2], records, strict=False):
        each.node.connected["ann b"] = [record]
        await each.broker.user_connected("ann b")
    await eventually(lambda: server.execute("SCARD", "fanway:{0}:route:=ann b") == 2)
    nodes[2].node.connected["ann b"] = [records[2]]
    assert (await nodes[2].broker.connections("ann b")).items == [records[1], records[0], records[2]], (
        "the oldest first"
    )
    assert list((await nodes[2].broker.connections("bob")).items) == []
    assert "n4" not in inboxes(server), "a node without the user is not asked"


async def test_a_lookup_is_partial_if_a_node_does_not_answer(
    server: RedisServer, proxy: Proxy, fleet: Fleet
) -> None:
    one, hangs = (
        await fleet.launch(lease=30.0, lookup_timeout=2.0),
        await fleet.launch(proxy.url, lease=30.0),
    )
    for each, connection in ((one, "c1"), (hangs, "c2")):
        each.node.connected["ann"] = [ConnectionRecord(connection, each.node.name, [], 1.0)]
        each.node.followed["r"] = 1
        await each.broker.user_connected("ann")
        await each.broker.subscribe("r", None)
    await eventually(lambda: server.execute("SCARD", "fanway:{0}:route:=ann") == 2)
    everything = (
        await one.broker.connections("ann"),
        await one.broker.subscribed_channels("r", after="", limit=9),
    )
    assert list(everything[1].items) == [ChannelRecord("r", 2)]
    assert not any(each.partial for each in everything)
    proxy.hold()
    users = await one.broker.connections("ann")
    channels = await one.broker.subscribed_channels("r", after="", limit=9)
    assert [record.connection for record in users.items] == ["c1"]
    assert list(channels.items) == [ChannelRecord("r", 1)]
    assert users.partial
    assert channels.partial
    assert not channels.is_missing("r"), "something is known of it"
    proxy.release()


async def test_user_commands_reach_the_nodes_where_the_user_is_connected(
    server: RedisServer, fleet: Fleet
) -> None:
    one, two, three = [await fleet.launch() for _ in range(3)]
    await one.broker.user_connected("ann")
    await eventually(lambda: server.execute("EXISTS", "fanway:{0}:route:=ann") == 1)
    command = UserCommand("ann", "disconnect", code=4005, reason="bye", except_connections=frozenset({"c2"}))
    await two.broker.send_user_command(command)
    assert await one.node.received(1) == [command]
    assert await two.node.received(1) == [command]
    assert "n3" not in inboxes(server)
    assert three.node.envelopes == []
    await one.broker.user_disconnected("ann")
    await eventually(lambda: server.execute("EXISTS", "fanway:{0}:route:=ann") == 0)


async def test_subscribers_are_counted_over_all_nodes(fleet: Fleet) -> None:
    one, two = await fleet.launch(), await fleet.launch()
    for each, followed in ((one, {"r:1": 1, "r:2": 2, "x": 9}), (two, {"r:2": 3, "r:3": 4})):
        each.node.followed.update(followed)
        for name in followed:
            await each.broker.subscribe(name, None)
    await two.broker.subscribe("r:0", None)
    expected = [ChannelRecord("r:1", 1), ChannelRecord("r:2", 5), ChannelRecord("r:3", 4)]
    for each in (one, two):
        assert list((await each.broker.subscribed_channels("r:", after="", limit=10)).items) == expected
        pages = [
            await each.broker.subscribed_channels("r:", after=after, limit=1) for after in ("", "r:1", "r:2")
        ]
        assert [list(page.items) for page in pages] == [[record] for record in expected]


async def test_node_records_are_those_of_the_last_renewal(server: RedisServer, fleet: Fleet) -> None:
    for _ in range(3):
        one = await fleet.launch()
    assert sorted((record.node, record.connections) for record in await one.broker.nodes()) == [
        ("n1", 3),
        ("n2", 3),
        ("n3", 3),
    ]
    assert inboxes(server) == {}, "nobody was asked"
