"""The cost of presence: concurrent requests share one read, and a count hvals_calls no members."""

import asyncio
from collections import Counter
from collections.abc import Coroutine
from typing import Any

import pytest

from gateway.broker.base import Presence, PresenceCount
from gateway.broker.redis.inbox.route_adds import ROUTES_PER_CALL
from gateway.broker.redis.keys import Keys
from gateway.broker.redis.operations.member_writes import MEMBERS_PER_CALL
from gateway.errors import BrokerUnavailable
from protocol.messages import Join, Leave, Member
from tests.broker.contract import LONG_GRACE, SHORT_GRACE
from tests.broker.redis_fleet import LEASE_SECONDS, Fleet, RunningNode, eventually
from tests.broker.redis_proxy import Proxy
from tests.broker.redis_server import RedisServer

KEYS = Keys("fanway", 0)
ANN, BOB = Member("c1", "ann"), Member("c2", "bob")
CALLERS = 50
LONG_TIMEOUTS = {"lease": 30.0, "presence_timeout": 20.0}
"""So that a node waits for answers that the test holds back."""


def hvals_calls(server: RedisServer) -> int:
    """Return how often Redis has returned the members of a channel."""
    stats = server.execute("INFO", "commandstats")
    return int(stats.get("cmdstat_hvals", {"calls": 0})["calls"])


def scripts_run(server: RedisServer) -> int:
    """Return how often Redis has run a script."""
    stats = server.execute("INFO", "commandstats")
    return int(stats.get("cmdstat_evalsha", {"calls": 0})["calls"])


async def start_all(members: list[Coroutine[Any, Any, Presence]]) -> list[asyncio.Task[Presence]]:
    """Start all of them, in this order."""
    tasks = [asyncio.ensure_future(each) for each in members]
    await asyncio.sleep(0)
    return tasks


async def read_with_answer_held(
    server: RedisServer, member: RunningNode, proxy: Proxy
) -> asyncio.Task[Presence]:
    """Return a presence request that Redis has answered, and whose answer is held back."""
    await member.broker.presence("a")
    before = hvals_calls(server)
    proxy.hold_answers()
    (request,) = await start_all([member.broker.presence("a")])
    await eventually(lambda: hvals_calls(server) == before + 1)
    return request


async def test_concurrent_presence_requests_share_one_read(server: RedisServer, fleet: Fleet) -> None:
    one = await fleet.launch()
    await one.broker.join("a", ANN)
    await one.broker.join("b", BOB)
    before = hvals_calls(server)
    requests = [one.broker.presence(channel) for channel in "ab" for _ in range(CALLERS)]
    found = await asyncio.gather(*requests)
    assert [list(each.members) for each in found] == [[ANN]] * CALLERS + [[BOB]] * CALLERS
    assert hvals_calls(server) - before == 2
    assert len({id(each) for each in found}) == 2, "the members are decoded once"


async def test_a_request_after_a_join_sees_it_although_an_older_read_is_under_way(
    server: RedisServer, proxy: Proxy, fleet: Fleet
) -> None:
    one, two = await fleet.launch(proxy.url, **LONG_TIMEOUTS), await fleet.launch()
    older = await read_with_answer_held(server, one, proxy)
    before = hvals_calls(server)
    await two.broker.join("a", ANN)
    newer = await start_all([one.broker.presence("a") for _ in range(CALLERS)])
    proxy.release()
    assert list((await older).members) == []
    assert [list((await each).members) for each in newer] == [[ANN]] * CALLERS
    assert hvals_calls(server) - before == 1


async def test_a_cancelled_request_does_not_cancel_the_shared_read(
    server: RedisServer, proxy: Proxy, fleet: Fleet
) -> None:
    one = await fleet.launch(proxy.url, **LONG_TIMEOUTS)
    await one.broker.join("a", ANN)
    await read_with_answer_held(server, one, proxy)
    first, second, third = await start_all([one.broker.presence("a") for _ in range(3)])
    first.cancel()
    third.cancel()
    proxy.release()
    assert list((await second).members) == [ANN]
    await asyncio.wait([first, third])
    assert first.cancelled()
    assert third.cancelled()


async def test_all_waiting_requests_fail_where_redis_does_not_answer(proxy: Proxy, fleet: Fleet) -> None:
    one = await fleet.launch(proxy.url, lease=30.0, presence_timeout=2.0)
    await one.broker.join("a", ANN)
    proxy.hold()
    requests = await start_all([one.broker.presence("a") for _ in range(CALLERS)])
    for request in requests:
        with pytest.raises(BrokerUnavailable):
            await request
    proxy.release()
    await eventually(one.broker.ready)
    assert list((await one.broker.presence("a")).members) == [ANN]


async def test_waiting_requests_fail_when_the_broker_closes(fleet: Fleet, proxy: Proxy) -> None:
    one = await fleet.launch(proxy.url, **LONG_TIMEOUTS)
    await one.broker.join("a", ANN)
    proxy.hold()
    requests = await start_all([one.broker.presence("a") for _ in range(3)])
    proxy.cut()
    await one.broker.close()
    for request in requests:
        with pytest.raises(BrokerUnavailable):
            await request


# ---------------------------------------------------------------- counts


async def test_concurrent_counts_share_one_call_and_read_no_members(
    server: RedisServer, fleet: Fleet
) -> None:
    one = await fleet.launch(lease=30.0)
    for number in range(10):
        await one.broker.join("a", Member(f"c{number}", f"u{number % 3}"))
    before, calls_before = hvals_calls(server), one.broker.statistics()["calls"]
    counts = await asyncio.gather(*(one.broker.count("a") for _ in range(CALLERS)))
    assert {(count.connections, count.users) for count in counts} == {(10, 3)}
    assert one.broker.statistics()["calls"] - calls_before == 1
    assert hvals_calls(server) == before


async def test_members_of_a_reaped_node_are_no_longer_counted(
    server: RedisServer, proxy: Proxy, fleet: Fleet
) -> None:
    one, dead = await fleet.launch(lease=LEASE_SECONDS), await fleet.launch(proxy.url, lease=LEASE_SECONDS)
    await one.broker.join("a", ANN)
    for member in (Member("c3", "ann"), Member("c4", "cid"), Member("c5", "cid")):
        await dead.broker.join("a", member)
    await dead.broker.join("b", BOB)
    count = await one.broker.count("a")
    assert (count.connections, count.users) == (4, 2)
    proxy.hold()
    proxy.cut()
    await eventually(lambda: server.execute("ZCARD", KEYS.nodes) == 1)
    count = await one.broker.count("a")
    assert (count.connections, count.users) == (1, 1)
    await one.broker.leave("a", "c1")
    left = [key for channel in ("a", "b") for key in (KEYS.members(channel), KEYS.user_counts(channel))]
    assert server.execute("EXISTS", *left) == 0


# ---------------------------------------------------------------- graces


async def test_a_user_who_returns_at_another_node_has_neither_left_nor_joined(
    server: RedisServer, fleet: Fleet
) -> None:
    one, two = await fleet.launch(), await fleet.launch()
    for each in (one, two):
        await each.broker.subscribe("a", None)
    await one.broker.join("a", ANN)
    await one.broker.leave("a", "c1", grace=LONG_GRACE)
    assert await two.broker.join("a", Member("c3", "ann")) == ANN
    await one.broker.close()  # the member is the other node's now
    assert list((await two.broker.presence("a")).members) == [ANN]
    await two.broker.leave("a", "c3")
    assert await two.node.received(2) == [Join("a", ANN), Leave("a", ANN)]
    assert server.execute("EXISTS", KEYS.members("a"), KEYS.absences("a"), KEYS.graces) == 0


async def test_the_members_of_a_node_that_ended_within_their_grace_leave_once(
    server: RedisServer, fleet: Fleet
) -> None:
    nodes = [await fleet.launch() for _ in range(3)]
    for each in nodes:
        await each.broker.subscribe("a", None)
    first, *others = nodes
    members = [Member(f"c{number}", f"u{number}") for number in range(250)]
    await asyncio.gather(*(first.broker.join("a", member) for member in members))
    await asyncio.gather(*(first.broker.leave("a", each.connection, grace=SHORT_GRACE) for each in members))
    await first.broker.close()
    for each in others:
        received = await each.node.received(500)
        assert Counter(map(repr, received)) == Counter(
            repr(kind("a", member)) for kind in (Join, Leave) for member in members
        )
    await others[0].broker.join("a", BOB)
    for each in others:
        assert await each.node.received(1) == [Join("a", BOB)]
    left = (KEYS.absences("a"), KEYS.graces, KEYS.members("b"))
    assert server.execute("EXISTS", *left) == 0


async def test_leaves_under_way_begin_their_grace_before_the_node_ends(fleet: Fleet) -> None:
    one, two = await fleet.launch(), await fleet.launch()
    await two.broker.subscribe("a", None)
    await one.broker.join("a", ANN)
    leaving = asyncio.ensure_future(one.broker.leave("a", "c1", grace=LONG_GRACE))
    await asyncio.sleep(0)
    leaving.cancel()
    await one.broker.close()
    assert await two.broker.join("a", Member("c3", "ann")) == ANN
    await two.broker.leave("a", "c3")
    assert await two.node.received(2) == [Join("a", ANN), Leave("a", ANN)]


async def test_a_clock_that_is_set_back_does_not_prolong_a_grace(server: RedisServer, fleet: Fleet) -> None:
    one, two = await fleet.launch(), await fleet.launch()
    await two.broker.subscribe("a", None)
    await one.broker.join("a", ANN)
    await one.broker.leave("a", "c1", grace=LONG_GRACE)
    await one.broker.close()
    server.execute("ZINCRBY", KEYS.graces, 3_600_000, "c1 a")
    assert await two.node.received(2) == [Join("a", ANN), Leave("a", ANN)]


async def test_a_leave_that_failed_has_its_grace_when_redis_is_back(proxy: Proxy, fleet: Fleet) -> None:
    one, two = await fleet.launch(proxy.url, presence_timeout=0.2), await fleet.launch()
    await two.broker.subscribe("a", None)
    await one.broker.join("a", ANN)
    proxy.hold()
    await one.broker.leave("a", "c1", grace=LONG_GRACE)
    proxy.cut()
    proxy.release()
    await eventually(one.broker.ready)
    await eventually(lambda: one.broker.statistics()["absent"] == 1)
    assert await one.broker.join("a", Member("c3", "ann")) == ANN
    await one.broker.leave("a", "c3")
    assert await two.node.received(2) == [Join("a", ANN), Leave("a", ANN)]


# ---------------------------------------------------------------- storms


async def test_joins_and_leaves_of_a_storm_share_calls(server: RedisServer, fleet: Fleet) -> None:
    one = await fleet.launch(lease=30.0)
    await one.broker.subscribe("a", None)
    members = [Member(f"c{number}", f"u{number}") for number in range(500)]
    for work in (
        lambda: [one.broker.join("a", member) for member in members],
        lambda: [one.broker.leave("a", member.connection, grace=SHORT_GRACE) for member in members],
    ):
        before = scripts_run(server)
        await asyncio.gather(*work())
        assert scripts_run(server) - before <= 2 * 500 / MEMBERS_PER_CALL
    envelopes = await one.node.received(1_000)
    assert {type(each) for each in envelopes[:500]} == {Join}
    assert {type(each) for each in envelopes[500:]} == {Leave}
    assert await one.broker.count("a") == PresenceCount(0, 0)


async def test_users_of_a_storm_share_calls(server: RedisServer, fleet: Fleet) -> None:
    one = await fleet.launch(lease=30.0)
    users = [f"u{number}" for number in range(500)]
    before = scripts_run(server)
    for user in users:
        await one.broker.user_connected(user)
    await eventually(lambda: server.execute("SCARD", routes_of_node(server)) == 500)
    for user in users:
        await one.broker.user_disconnected(user)
    await eventually(lambda: server.execute("EXISTS", *(KEYS.route(f"={user}") for user in users)) == 0)
    assert scripts_run(server) - before <= 2 * 500 / ROUTES_PER_CALL + 2


def routes_of_node(server: RedisServer) -> str:
    """Return the key of the routes of the only node."""
    (node,) = server.execute("ZRANGE", KEYS.nodes, 0, -1)
    return KEYS.node_routes(node.decode())
