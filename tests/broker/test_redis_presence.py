"""What presence costs: one read for all who wait for the same, and none of the members to count them."""

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest

from gateway.broker.base import Presence
from gateway.broker.redis.keys import Keys
from gateway.errors import BrokerUnavailable
from protocol.messages import Member
from tests.broker.redis_fleet import LEASE_SECONDS, Fleet, RunningNode, eventually
from tests.broker.redis_proxy import Proxy
from tests.broker.redis_server import RedisServer

KEYS = Keys("fanway", 0)
ANN, BOB = Member("c1", "ann"), Member("c2", "bob")
ASKERS = 50
PATIENT = {"lease": 30.0, "presence_timeout": 20.0}
"""So that a node waits for whatever the test holds back."""


def reads(server: RedisServer) -> int:
    """How often Redis has told all members of a channel."""
    stats = server.execute("INFO", "commandstats")
    return int(stats.get("cmdstat_hvals", {"calls": 0})["calls"])


async def asking(members: list[Coroutine[Any, Any, Presence]]) -> list[asyncio.Task[Presence]]:
    """Let all of them ask, in this order."""
    tasks = [asyncio.ensure_future(each) for each in members]
    await asyncio.sleep(0)
    return tasks


async def departed(server: RedisServer, member: RunningNode, proxy: Proxy) -> asyncio.Task[Presence]:
    """Return a look at presence that Redis has answered, and whose answer is held back."""
    await member.broker.presence("a")
    before = reads(server)
    proxy.hold_answers()
    (look,) = await asking([member.broker.presence("a")])
    await eventually(lambda: reads(server) == before + 1)
    return look


async def test_those_who_ask_at_once_share_one_read(server: RedisServer, fleet: Fleet) -> None:
    one = await fleet.launch()
    await one.broker.join("a", ANN)
    await one.broker.join("b", BOB)
    before = reads(server)
    looks = [one.broker.presence(channel) for channel in "ab" for _ in range(ASKERS)]
    found = await asyncio.gather(*looks)
    assert [list(each.members) for each in found] == [[ANN]] * ASKERS + [[BOB]] * ASKERS
    assert reads(server) - before == 2
    assert len({id(each) for each in found}) == 2, "nor is it unpacked for each of them"


async def test_who_asks_after_a_join_sees_it_though_an_older_look_is_under_way(
    server: RedisServer, proxy: Proxy, fleet: Fleet
) -> None:
    one, two = await fleet.launch(proxy.url, **PATIENT), await fleet.launch()
    older = await departed(server, one, proxy)
    before = reads(server)
    await two.broker.join("a", ANN)
    newer = await asking([one.broker.presence("a") for _ in range(ASKERS)])
    proxy.release()
    assert list((await older).members) == []
    assert [list((await each).members) for each in newer] == [[ANN]] * ASKERS
    assert reads(server) - before == 1


async def test_who_gives_up_takes_the_answer_from_nobody(
    server: RedisServer, proxy: Proxy, fleet: Fleet
) -> None:
    one = await fleet.launch(proxy.url, **PATIENT)
    await one.broker.join("a", ANN)
    await departed(server, one, proxy)
    first, second, third = await asking([one.broker.presence("a") for _ in range(3)])
    first.cancel()
    third.cancel()
    proxy.release()
    assert list((await second).members) == [ANN]
    await asyncio.wait([first, third])
    assert first.cancelled()
    assert third.cancelled()


async def test_all_who_wait_hear_that_redis_does_not_answer(proxy: Proxy, fleet: Fleet) -> None:
    one = await fleet.launch(proxy.url, lease=30.0, presence_timeout=2.0)
    await one.broker.join("a", ANN)
    proxy.hold()
    looks = await asking([one.broker.presence("a") for _ in range(ASKERS)])
    for look in looks:
        with pytest.raises(BrokerUnavailable):
            await look
    proxy.release()
    await eventually(one.broker.ready)
    assert list((await one.broker.presence("a")).members) == [ANN]


async def test_who_asks_when_the_broker_ends_is_told_so(fleet: Fleet, proxy: Proxy) -> None:
    one = await fleet.launch(proxy.url, **PATIENT)
    await one.broker.join("a", ANN)
    proxy.hold()
    looks = await asking([one.broker.presence("a") for _ in range(3)])
    proxy.cut()
    await one.broker.close()
    for look in looks:
        with pytest.raises(BrokerUnavailable):
            await look


# ---------------------------------------------------------------- counts


async def test_those_who_count_share_one_call_and_read_no_members(server: RedisServer, fleet: Fleet) -> None:
    one = await fleet.launch(lease=30.0)
    for number in range(10):
        await one.broker.join("a", Member(f"c{number}", f"u{number % 3}"))
    before, asked = reads(server), one.broker.statistics()["calls"]
    counts = await asyncio.gather(*(one.broker.count("a") for _ in range(ASKERS)))
    assert {(count.connections, count.users) for count in counts} == {(10, 3)}
    assert one.broker.statistics()["calls"] - asked == 1
    assert reads(server) == before


async def test_who_is_gone_with_a_dead_node_counts_no_more(
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
