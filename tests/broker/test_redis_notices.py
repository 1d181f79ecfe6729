"""Notices of a Redis broker for operators."""

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
from gateway.broker.redis.connection.maxmemory_policy import check_maxmemory_policy
from gateway.broker.redis.connection.topology import FixedPrimary
from gateway.broker.redis.keys import Keys
from gateway.errors import BrokerUnavailable
from tests.broker.recording_node import KEPT, publish
from tests.broker.redis_fleet import LEASE_SECONDS, Fleet, RunningNode, eventually, reap_only_node
from tests.broker.redis_server import RedisServer, running_redis

KEYS = Keys("fanway", 0)
LIMITED = ("--maxmemory", "100mb")


async def wait_for_notices(member: RunningNode, *notices: Notice) -> None:
    await eventually(lambda: member.notices == [*notices])


async def test_a_redis_that_is_lost_and_restored(tmp_path: Path) -> None:
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


async def test_a_redis_that_lost_writes(server: RedisServer, fleet: Fleet) -> None:
    one = await fleet.launch()
    server.execute("FLUSHALL")
    await wait_for_notices(one, WritesLost())


async def test_a_lost_lease(server: RedisServer, fleet: Fleet) -> None:
    one = await fleet.launch()
    reap_only_node(server)
    await wait_for_notices(one, LeaseLost())


async def test_a_reaped_node(server: RedisServer, fleet: Fleet) -> None:
    one = await fleet.launch(lease=LEASE_SECONDS)
    now = int(server.execute("TIME")[0]) * 1000
    server.execute("ZADD", KEYS.nodes, now + 1_000, "n9~gone")
    await wait_for_notices(one, NodeReaped("n9~gone"))


async def test_missing_routes(server: RedisServer, fleet: Fleet) -> None:
    one = await fleet.launch()
    for name in ("a", "b"):
        await one.broker.subscribe(name, KEPT)
    server.execute("DEL", KEYS.route("a"), KEYS.route("b"))
    await wait_for_notices(one, RoutesMissing(2))


async def test_a_key_of_another_application_gives_one_notice(server: RedisServer, fleet: Fleet) -> None:
    one = await fleet.launch()
    for name in ("a", "b"):
        server.execute("SET", KEYS.meta(name), "of another application")
        for _ in range(2):
            with pytest.raises(BrokerUnavailable, match="set broker"):
                await publish(one.broker, name, 1)
    assert one.broker.ready()
    (notice,) = one.notices
    assert isinstance(notice, CallRejected)
    assert notice.reason.startswith(
        "a key of this gateway holds a value that it did not write: set broker.prefix ("
    )


async def test_a_missing_acl_right_that_only_some_calls_need_gives_one_notice(server: RedisServer) -> None:
    server.execute("ACL", "SETUSER", "gateway", "on", ">secret", "~*", "+@all", "-xadd")
    async with Fleet(server.url, credentials=Credentials("gateway", "secret")) as fleet:
        one = await fleet.launch()
        for _ in range(2):
            with pytest.raises(BrokerUnavailable):
                await publish(one.broker, "a", 1)
        (notice,) = one.notices
        assert isinstance(notice, CallRejected)
        assert notice.reason.startswith("Redis' ACL forbids this user a command or a key (")


async def test_nodes_that_start_and_stop_give_no_notice(fleet: Fleet) -> None:
    one, two = await fleet.launch(), await fleet.launch()
    await two.broker.subscribe("a", KEPT)
    await two.broker.close()
    assert (one.notices, two.notices) == ([], [])


# ---------------------------------------------------------------- eviction


@pytest.mark.parametrize("policy", ["allkeys-lru", "volatile-ttl"])
async def test_a_redis_with_an_eviction_policy(tmp_path: Path, policy: str) -> None:
    with running_redis(tmp_path, *LIMITED, "--maxmemory-policy", policy) as server:
        async with Fleet(server.url) as fleet:
            one = await fleet.launch()
            await wait_for_notices(one, EvictionEnabled(f"127.0.0.1:{server.port}", policy))


@pytest.mark.parametrize(
    "options",
    [(*LIMITED, "--maxmemory-policy", "noeviction"), ("--maxmemory-policy", "allkeys-lru")],
    ids=["noeviction", "no memory limit"],
)
async def test_a_redis_that_never_evicts(tmp_path: Path, options: tuple[str, ...]) -> None:
    with running_redis(tmp_path, *options) as server:
        assert await check_maxmemory_policy(connect(server), 5.0) is None


async def test_the_policy_of_a_redis_that_is_down_is_unknown(tmp_path: Path) -> None:
    with running_redis(tmp_path) as server:
        pass
    assert await check_maxmemory_policy(connect(server), 5.0) is None


async def test_a_redis_whose_acl_forbids_info_gives_no_notice(tmp_path: Path) -> None:
    with running_redis(tmp_path, *LIMITED, "--maxmemory-policy", "allkeys-lru") as server:
        server.execute("ACL", "SETUSER", "gateway", "on", ">secret", "~*", "+@all", "-@admin", "-@dangerous")
        async with Fleet(server.url, credentials=Credentials("gateway", "secret")) as fleet:
            one = await fleet.launch()
            with server.client() as client:
                await eventually(lambda: [each["object"] for each in client.acl_log()] == ["info"])
            assert one.broker.ready()
            assert one.broker.statistics()["failures"] == 0
            assert one.notices == []


def connect(server: RedisServer) -> RedisConnection:
    return RedisConnection(FixedPrimary(Server.from_url(server.url)), connect_timeout=5.0)
