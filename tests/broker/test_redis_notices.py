"""What a broker tells whoever is on call."""

from pathlib import Path

import pytest

from gateway.broker.notices import (
    CallRejected,
    EvictionEnabled,
    LeaseLost,
    NodeReaped,
    Notice,
    RedisLost,
    RedisRestored,
    RoutesMissing,
    WritesLost,
)
from gateway.broker.redis import Credentials, Server
from gateway.broker.redis.connection.connection import RedisConnection
from gateway.broker.redis.connection.topology import FixedPrimary
from gateway.broker.redis.keys import Keys
from gateway.broker.redis.membership.eviction_check import check_eviction
from gateway.errors import BrokerUnavailable
from tests.broker.node import KEPT, publish
from tests.broker.redis_fleet import LEASE_SECONDS, Fleet, RunningNode, eventually, reap_only_node
from tests.broker.redis_server import RedisServer, running_redis

KEYS = Keys("fanway", 0)
LIMITED = ("--maxmemory", "100mb")


async def hears(member: RunningNode, *news: Notice) -> None:
    await eventually(lambda: member.notices == [*news])


async def test_a_redis_that_goes_and_comes(tmp_path: Path) -> None:
    with running_redis(tmp_path, "--appendonly", "yes") as server:
        async with Fleet(server.url) as fleet:
            one = await fleet.launch()
            assert one.notices == []
            server.kill()
            await eventually(lambda: len(one.notices) > 0)
            server.start()
            await eventually(lambda: RedisRestored() in one.notices)
            assert isinstance(one.notices[0], RedisLost)
            assert one.notices[0].reason.startswith("the connection to Redis failed (")
            assert WritesLost() not in one.notices


async def test_a_redis_that_has_forgotten(server: RedisServer, fleet: Fleet) -> None:
    one = await fleet.launch()
    server.execute("FLUSHALL")
    await hears(one, WritesLost())


async def test_a_lease_that_was_lost(server: RedisServer, fleet: Fleet) -> None:
    one = await fleet.launch()
    reap_only_node(server)
    await hears(one, LeaseLost())


async def test_a_node_that_was_cleaned_up_after(server: RedisServer, fleet: Fleet) -> None:
    one = await fleet.launch(lease=LEASE_SECONDS)
    now = int(server.execute("TIME")[0]) * 1000
    server.execute("ZADD", KEYS.nodes, now + 1_000, "n9~gone")
    await hears(one, NodeReaped("n9~gone"))


async def test_routes_that_are_gone(server: RedisServer, fleet: Fleet) -> None:
    one = await fleet.launch()
    for name in ("a", "b"):
        await one.broker.subscribe(name, KEPT)
    server.execute("DEL", KEYS.route("a"), KEYS.route("b"))
    await hears(one, RoutesMissing(2))


async def test_a_key_that_is_not_ours_is_told_once(server: RedisServer, fleet: Fleet) -> None:
    one = await fleet.launch()
    for name in ("a", "b"):
        server.execute("SET", KEYS.meta(name), "theirs")
        for _ in range(2):
            with pytest.raises(BrokerUnavailable, match="set broker"):
                await publish(one.broker, name, 1)
    assert one.broker.ready()
    (told,) = one.notices
    assert isinstance(told, CallRejected)
    assert told.reason.startswith(
        "a key of this gateway holds a value that it did not write: set broker.prefix ("
    )


async def test_a_right_that_only_some_calls_need_is_told_to_be_missing(server: RedisServer) -> None:
    server.execute("ACL", "SETUSER", "gateway", "on", ">secret", "~*", "+@all", "-xadd")
    async with Fleet(server.url, credentials=Credentials("gateway", "secret")) as fleet:
        one = await fleet.launch()
        for _ in range(2):
            with pytest.raises(BrokerUnavailable):
                await publish(one.broker, "a", 1)
        (told,) = one.notices
        assert isinstance(told, CallRejected)
        assert told.reason.startswith("Redis' ACL forbids this user a command or a key (")


async def test_nodes_that_come_and_go_are_no_news(fleet: Fleet) -> None:
    one, two = await fleet.launch(), await fleet.launch()
    await two.broker.subscribe("a", KEPT)
    await two.broker.close()
    assert (one.notices, two.notices) == ([], [])


# ---------------------------------------------------------------- what takes keys


@pytest.mark.parametrize("policy", ["allkeys-lru", "volatile-ttl"])
async def test_a_redis_that_would_evict(tmp_path: Path, policy: str) -> None:
    with running_redis(tmp_path, *LIMITED, "--maxmemory-policy", policy) as server:
        async with Fleet(server.url) as fleet:
            one = await fleet.launch()
            await hears(one, EvictionEnabled(f"127.0.0.1:{server.port}", policy))


@pytest.mark.parametrize(
    "options",
    [(*LIMITED, "--maxmemory-policy", "noeviction"), ("--maxmemory-policy", "allkeys-lru")],
    ids=["takes nothing", "has no limit"],
)
async def test_a_redis_that_evicts_nothing(tmp_path: Path, options: tuple[str, ...]) -> None:
    with running_redis(tmp_path, *options) as server:
        assert await check_eviction(wire(server), 5.0) is None


async def test_a_redis_that_is_not_there(tmp_path: Path) -> None:
    with running_redis(tmp_path) as server:
        pass
    assert await check_eviction(wire(server), 5.0) is None


async def test_a_redis_that_must_not_be_asked(tmp_path: Path) -> None:
    with running_redis(tmp_path, *LIMITED, "--maxmemory-policy", "allkeys-lru") as server:
        server.execute("ACL", "SETUSER", "gateway", "on", ">secret", "~*", "+@all", "-@admin", "-@dangerous")
        async with Fleet(server.url, credentials=Credentials("gateway", "secret")) as fleet:
            one = await fleet.launch()
            with server.client() as client:
                await eventually(lambda: [each["object"] for each in client.acl_log()] == ["info"])
            assert one.broker.ready()
            assert one.broker.statistics()["failures"] == 0
            assert one.notices == []


def wire(server: RedisServer) -> RedisConnection:
    return RedisConnection(FixedPrimary(Server.from_url(server.url)), connect_timeout=5.0)
