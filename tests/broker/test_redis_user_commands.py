"""Commands for users that were sent while their node was away: delivered once, after its return."""

from dataclasses import replace

import pytest

from gateway.broker.base import ConnectionRecord, UserCommand
from gateway.broker.redis.codec import pack_user_command
from gateway.broker.redis.inbox.user_command_log import LOG_TTL_SECONDS, MAX_LOGGED_COMMANDS
from gateway.broker.redis.keys import Keys
from gateway.clock import elapsed, wall
from tests.broker.redis_fleet import LEASE_SECONDS, Fleet, RunningNode, eventually
from tests.broker.redis_proxy import Proxy
from tests.broker.redis_server import RedisServer

KEYS = Keys("fanway", 0)
SIGN_OUT = UserCommand("ann", "disconnect", code=4005, reason="bye", except_connections=frozenset({"c2"}))
LIVE = UserCommand("ann", "disconnect", code=4006, reason="live")


async def connect_and_route(member: RunningNode, server: RedisServer, user: str = "ann") -> None:
    """Let *user* be connected to *member*."""
    connect(member, user)
    await member.broker.user_connected(user)
    await eventually(lambda: routed(server, member, user))


def connect(member: RunningNode, user: str) -> None:
    member.node.connected[user] = [ConnectionRecord("c1", member.node.name, [], wall())]


def routed(server: RedisServer, member: RunningNode, user: str = "ann") -> bool:
    nodes = server.execute("SMEMBERS", KEYS.route(f"={user}"))
    return any(node.startswith(f"{member.node.name}~".encode()) for node in nodes)


async def receive_late_commands(member: RunningNode, count: int) -> list[UserCommand]:
    """Return the next *count* commands that *member* receives, without their times, which must be set."""
    commands = [each for each in await member.node.received(count) if isinstance(each, UserCommand)]
    assert all(each.issued_before is not None for each in commands)
    return [replace(each, issued_before=None) for each in commands]


async def receive_command(member: RunningNode) -> UserCommand:
    """Return the next command without its time, which is set only if the node read it from the log."""
    (command,) = await member.node.received(1)
    assert isinstance(command, UserCommand)
    return replace(command, issued_before=None)


# ---------------------------------------------------------------- nodes that were away


@pytest.mark.parametrize("after_reaping", [False, True], ids=["in an inbox that is deleted", "to no inbox"])
async def test_a_node_away_for_longer_than_its_lease_receives_commands_once_with_their_time(
    server: RedisServer, proxy: Proxy, fleet: Fleet, after_reaping: bool
) -> None:
    one, away = await fleet.launch(lease=LEASE_SECONDS), await fleet.launch(proxy.url, lease=LEASE_SECONDS)
    await connect_and_route(away, server)
    await one.broker.send_user_command(replace(SIGN_OUT, reason="before"))
    assert [each.reason for each in await away.node.received(1)] == ["before"]  # type: ignore[union-attr]
    proxy.hold()
    if after_reaping:
        await eventually(lambda: not routed(server, away))
    begun = elapsed()
    await one.broker.send_user_command(SIGN_OUT)
    await one.broker.send_user_command(UserCommand("ann", "subscribe", "room"))
    await one.broker.send_user_command(replace(SIGN_OUT, user="bob"))
    await eventually(lambda: not routed(server, away))
    proxy.release()
    first, second = await away.node.received(2)
    assert isinstance(first, UserCommand)
    assert replace(first, issued_before=None) == SIGN_OUT
    assert isinstance(second, UserCommand)
    assert replace(second, issued_before=None) == UserCommand("ann", "subscribe", "room")
    assert first.issued_before is not None
    assert second.issued_before is not None
    assert begun - 0.001 <= first.issued_before <= second.issued_before <= elapsed()
    await eventually(lambda: routed(server, away))
    await one.broker.send_user_command(LIVE)
    assert await receive_command(away) == LIVE


async def test_a_node_away_repeatedly_receives_only_new_commands_each_time(
    server: RedisServer, proxy: Proxy, fleet: Fleet
) -> None:
    one, away = await fleet.launch(lease=LEASE_SECONDS), await fleet.launch(proxy.url, lease=LEASE_SECONDS)
    await connect_and_route(away, server)
    for number in range(3):
        proxy.hold()
        await eventually(lambda: not routed(server, away))
        await one.broker.send_user_command(replace(SIGN_OUT, reason=str(number)))
        proxy.release()
        assert await receive_late_commands(away, 1) == [replace(SIGN_OUT, reason=str(number))]
        await eventually(lambda: routed(server, away))
    assert away.node.envelopes == []


async def test_a_node_that_kept_its_lease_receives_commands_for_a_user_who_connected_while_it_was_cut_off(
    proxy: Proxy, fleet: Fleet
) -> None:
    one, away = await fleet.launch(), await fleet.launch(proxy.url, lease=60.0)
    proxy.hold()
    proxy.cut()
    await eventually(lambda: not away.broker.ready())
    connect(away, "ann")
    await away.broker.user_connected("ann")
    await one.broker.send_user_command(SIGN_OUT)
    proxy.release()
    assert await receive_late_commands(away, 1) == [SIGN_OUT]
    assert away.broker.statistics()["incarnations"] == 1


async def test_an_older_command_is_not_delivered_after_a_newer_one(
    server: RedisServer, proxy: Proxy, fleet: Fleet
) -> None:
    away = await fleet.launch(proxy.url, lease=60.0)
    await connect_and_route(away, server)
    old, new = UserCommand("ann", "subscribe", "room"), UserCommand("ann", "unsubscribe", "room")
    server.execute("XADD", KEYS.user_commands, "*", "b", pack_user_command(old))
    id = server.execute("XADD", KEYS.user_commands, "*", "b", pack_user_command(new))
    (node,) = server.execute("SMEMBERS", KEYS.route("=ann"))
    server.execute("XADD", KEYS.inbox(node.decode()), "*", "h", b"i " + id, "b", pack_user_command(new))
    assert await away.node.received(1) == [new]
    server.execute("XADD", KEYS.user_commands, "*", "b", pack_user_command(SIGN_OUT))
    proxy.hold()
    proxy.cut()
    await eventually(lambda: not away.broker.ready())
    await away.broker.user_connected("bob")
    proxy.release()
    assert await receive_late_commands(away, 1) == [SIGN_OUT]


async def test_a_new_node_receives_no_earlier_commands(server: RedisServer, fleet: Fleet) -> None:
    one = await fleet.launch()
    await one.broker.send_user_command(SIGN_OUT)
    new = await fleet.launch()
    await connect_and_route(new, server)
    await one.broker.send_user_command(LIVE)
    assert await new.node.received(1) == [LIVE]


async def test_no_command_is_delivered_twice_after_redis_lost_its_data(
    server: RedisServer, fleet: Fleet
) -> None:
    one, two = await fleet.launch(), await fleet.launch()
    await connect_and_route(two, server)
    await one.broker.send_user_command(SIGN_OUT)
    assert await two.node.received(1) == [SIGN_OUT]
    server.execute("FLUSHALL")
    await eventually(lambda: two.broker.statistics()["incarnations"] == 2)
    await eventually(lambda: one.broker.statistics()["incarnations"] == 2)
    await eventually(lambda: routed(server, two))
    await one.broker.send_user_command(LIVE)
    assert await receive_command(two) == LIVE


# ---------------------------------------------------------------- what is kept


async def test_the_log_of_user_commands_is_bounded_and_expires(server: RedisServer, fleet: Fleet) -> None:
    one = await fleet.launch()
    flood = "for i = 1, tonumber(ARGV[1]) do redis.call('XADD', KEYS[1], '*', 'b', ARGV[2]) end"
    server.execute("EVAL", flood, 1, KEYS.user_commands, MAX_LOGGED_COMMANDS * 2, pack_user_command(SIGN_OUT))
    await one.broker.send_user_command(SIGN_OUT)
    assert MAX_LOGGED_COMMANDS <= server.execute("XLEN", KEYS.user_commands) <= MAX_LOGGED_COMMANDS + 100
    assert LOG_TTL_SECONDS * 900 < server.execute("PTTL", KEYS.user_commands) <= LOG_TTL_SECONDS * 1000


async def test_more_commands_than_one_page_are_read(server: RedisServer, proxy: Proxy, fleet: Fleet) -> None:
    one, away = await fleet.launch(lease=LEASE_SECONDS), await fleet.launch(proxy.url, lease=LEASE_SECONDS)
    await connect_and_route(away, server)
    proxy.hold()
    await eventually(lambda: not routed(server, away))
    flood = "for i = 1, 1200 do redis.call('XADD', KEYS[1], '*', 'b', ARGV[1]) end"
    server.execute("EVAL", flood, 1, KEYS.user_commands, pack_user_command(SIGN_OUT))
    await one.broker.send_user_command(replace(SIGN_OUT, reason="last"))
    proxy.release()
    assert await receive_late_commands(away, 1201) == [SIGN_OUT] * 1200 + [replace(SIGN_OUT, reason="last")]


async def test_commands_are_logged_although_redis_is_full(
    server: RedisServer, proxy: Proxy, fleet: Fleet
) -> None:
    server.execute("CONFIG", "SET", "maxmemory-policy", "noeviction")
    one, away = await fleet.launch(lease=LEASE_SECONDS), await fleet.launch(proxy.url, lease=LEASE_SECONDS)
    await connect_and_route(away, server)
    proxy.hold()
    await eventually(lambda: not routed(server, away))
    server.execute("CONFIG", "SET", "maxmemory", "1")
    await one.broker.send_user_command(SIGN_OUT)
    server.execute("CONFIG", "SET", "maxmemory", "0")
    proxy.release()
    assert await receive_late_commands(away, 1) == [SIGN_OUT]
