"""What a node was told to do while it was away: it does that when it is back, once."""

from dataclasses import replace
from time import time

import pytest

from gateway.broker.base import ConnectionRecord, UserCommand
from gateway.broker.redis.codec import pack_user_command
from gateway.broker.redis.inbox.user_commands import LOG_TTL_SECONDS, MAX_LOGGED_COMMANDS
from gateway.broker.redis.keys import Keys
from tests.broker.redis_fleet import LEASE_SECONDS, Fleet, RunningNode, eventually
from tests.broker.redis_proxy import Proxy
from tests.broker.redis_server import RedisServer

KEYS = Keys("fanway", 0)
OUT = UserCommand("ann", "disconnect", code=4005, reason="bye", except_connections=frozenset({"c2"}))
LIVE = UserCommand("ann", "disconnect", code=4006, reason="live")


async def enter(member: RunningNode, server: RedisServer, user: str = "ann") -> None:
    """Let *user* be connected to *member*."""
    connect(member, user)
    await member.broker.user_connected(user)
    await eventually(lambda: routed(server, member, user))


def connect(member: RunningNode, user: str) -> None:
    member.node.connected[user] = [ConnectionRecord("c1", member.node.name, [], time())]


def routed(server: RedisServer, member: RunningNode, user: str = "ann") -> bool:
    nodes = server.execute("SMEMBERS", KEYS.route(f"={user}"))
    return any(node.startswith(f"{member.node.name}~".encode()) for node in nodes)


async def late(member: RunningNode, count: int) -> list[UserCommand]:
    """Return the instructions that *member* was told, without their times, which must be there."""
    heard = [each for each in await member.node.received(count) if isinstance(each, UserCommand)]
    assert all(each.issued_before is not None for each in heard)
    return [replace(each, issued_before=None) for each in heard]


async def told(member: RunningNode) -> UserCommand:
    """Return the next instruction, without its time: who has just been away may read it either way."""
    (heard,) = await member.node.received(1)
    assert isinstance(heard, UserCommand)
    return replace(heard, issued_before=None)


# ---------------------------------------------------------------- nodes that were away


@pytest.mark.parametrize("buried", [False, True], ids=["in an inbox that is deleted", "to no inbox"])
async def test_who_was_away_for_longer_than_its_lease_is_told_once_and_with_the_time(
    server: RedisServer, proxy: Proxy, fleet: Fleet, buried: bool
) -> None:
    one, away = await fleet.launch(lease=LEASE_SECONDS), await fleet.launch(proxy.url, lease=LEASE_SECONDS)
    await enter(away, server)
    await one.broker.send_user_command(replace(OUT, reason="before"))
    assert [each.reason for each in await away.node.received(1)] == ["before"]  # type: ignore[union-attr]
    proxy.hold()
    if buried:
        await eventually(lambda: not routed(server, away))
    begun = time()
    await one.broker.send_user_command(OUT)
    await one.broker.send_user_command(UserCommand("ann", "subscribe", "room"))
    await one.broker.send_user_command(replace(OUT, user="bob"))
    await eventually(lambda: not routed(server, away))
    proxy.release()
    first, second = await away.node.received(2)
    assert isinstance(first, UserCommand)
    assert replace(first, issued_before=None) == OUT
    assert isinstance(second, UserCommand)
    assert replace(second, issued_before=None) == UserCommand("ann", "subscribe", "room")
    assert first.issued_before is not None
    assert second.issued_before is not None
    assert begun - 0.001 <= first.issued_before <= second.issued_before
    await eventually(lambda: routed(server, away))
    await one.broker.send_user_command(LIVE)
    assert await told(away) == LIVE


async def test_who_goes_away_again_and_again_is_told_each_time_what_is_new(
    server: RedisServer, proxy: Proxy, fleet: Fleet
) -> None:
    one, away = await fleet.launch(lease=LEASE_SECONDS), await fleet.launch(proxy.url, lease=LEASE_SECONDS)
    await enter(away, server)
    for number in range(3):
        proxy.hold()
        await eventually(lambda: not routed(server, away))
        await one.broker.send_user_command(replace(OUT, reason=str(number)))
        proxy.release()
        assert await late(away, 1) == [replace(OUT, reason=str(number))]
        await eventually(lambda: routed(server, away))
    assert away.node.envelopes == []


async def test_who_keeps_its_lease_is_told_of_a_user_that_came_when_it_was_cut_off(
    proxy: Proxy, fleet: Fleet
) -> None:
    one, away = await fleet.launch(), await fleet.launch(proxy.url, lease=60.0)
    proxy.hold()
    proxy.cut()
    await eventually(lambda: not away.broker.ready())
    connect(away, "ann")
    await away.broker.user_connected("ann")
    await one.broker.send_user_command(OUT)
    proxy.release()
    assert await late(away, 1) == [OUT]
    assert away.broker.statistics()["incarnations"] == 1


async def test_what_was_told_later_already_is_not_undone(
    server: RedisServer, proxy: Proxy, fleet: Fleet
) -> None:
    away = await fleet.launch(proxy.url, lease=60.0)
    await enter(away, server)
    old, new = UserCommand("ann", "subscribe", "room"), UserCommand("ann", "unsubscribe", "room")
    server.execute("XADD", KEYS.user_commands, "*", "b", pack_user_command(old))
    id = server.execute("XADD", KEYS.user_commands, "*", "b", pack_user_command(new))
    (node,) = server.execute("SMEMBERS", KEYS.route("=ann"))
    server.execute("XADD", KEYS.inbox(node.decode()), "*", "h", b"i " + id, "b", pack_user_command(new))
    assert await away.node.received(1) == [new]
    server.execute("XADD", KEYS.user_commands, "*", "b", pack_user_command(OUT))
    proxy.hold()
    proxy.cut()
    await eventually(lambda: not away.broker.ready())
    await away.broker.user_connected("bob")
    proxy.release()
    assert await late(away, 1) == [OUT]


async def test_a_node_that_starts_is_told_nothing_of_before(server: RedisServer, fleet: Fleet) -> None:
    one = await fleet.launch()
    await one.broker.send_user_command(OUT)
    new = await fleet.launch()
    await enter(new, server)
    await one.broker.send_user_command(LIVE)
    assert await new.node.received(1) == [LIVE]


async def test_a_redis_that_forgets_has_nobody_told_twice(server: RedisServer, fleet: Fleet) -> None:
    one, two = await fleet.launch(), await fleet.launch()
    await enter(two, server)
    await one.broker.send_user_command(OUT)
    assert await two.node.received(1) == [OUT]
    server.execute("FLUSHALL")
    await eventually(lambda: two.broker.statistics()["incarnations"] == 2)
    await eventually(lambda: one.broker.statistics()["incarnations"] == 2)
    await eventually(lambda: routed(server, two))
    await one.broker.send_user_command(LIVE)
    assert await told(two) == LIVE


# ---------------------------------------------------------------- what is kept


async def test_what_is_kept_has_a_bound_and_an_end(server: RedisServer, fleet: Fleet) -> None:
    one = await fleet.launch()
    flood = "for i = 1, tonumber(ARGV[1]) do redis.call('XADD', KEYS[1], '*', 'b', ARGV[2]) end"
    server.execute("EVAL", flood, 1, KEYS.user_commands, MAX_LOGGED_COMMANDS * 2, pack_user_command(OUT))
    await one.broker.send_user_command(OUT)
    assert MAX_LOGGED_COMMANDS <= server.execute("XLEN", KEYS.user_commands) <= MAX_LOGGED_COMMANDS + 100
    assert LOG_TTL_SECONDS * 900 < server.execute("PTTL", KEYS.user_commands) <= LOG_TTL_SECONDS * 1000


async def test_long_absences_are_read_page_by_page(server: RedisServer, proxy: Proxy, fleet: Fleet) -> None:
    one, away = await fleet.launch(lease=LEASE_SECONDS), await fleet.launch(proxy.url, lease=LEASE_SECONDS)
    await enter(away, server)
    proxy.hold()
    await eventually(lambda: not routed(server, away))
    flood = "for i = 1, 1200 do redis.call('XADD', KEYS[1], '*', 'b', ARGV[1]) end"
    server.execute("EVAL", flood, 1, KEYS.user_commands, pack_user_command(OUT))
    await one.broker.send_user_command(replace(OUT, reason="last"))
    proxy.release()
    assert await late(away, 1201) == [OUT] * 1200 + [replace(OUT, reason="last")]


async def test_a_full_redis_keeps_them_all_the_same(server: RedisServer, proxy: Proxy, fleet: Fleet) -> None:
    server.execute("CONFIG", "SET", "maxmemory-policy", "noeviction")
    one, away = await fleet.launch(lease=LEASE_SECONDS), await fleet.launch(proxy.url, lease=LEASE_SECONDS)
    await enter(away, server)
    proxy.hold()
    await eventually(lambda: not routed(server, away))
    server.execute("CONFIG", "SET", "maxmemory", "1")
    await one.broker.send_user_command(OUT)
    server.execute("CONFIG", "SET", "maxmemory", "0")
    proxy.release()
    assert await late(away, 1) == [OUT]
