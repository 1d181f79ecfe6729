"""Nodes with other servers or shards than the running nodes do not join: they would not reach each other."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.errors import BrokerUnavailable
from tests.broker.recording_node import KEPT, publish
from tests.broker.redis_fleet import LEASE_SECONDS, Fleet, eventually, wait_until_rejected
from tests.broker.redis_server import DURABLE, RedisServer, running_redis


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    with running_redis(tmp_path, *DURABLE) as server:
        yield server


async def wait_for_layout_error(fleet: Fleet, *urls: str, why: str, **options: float | str) -> None:
    await wait_until_rejected(await fleet.launch(*urls, start_timeout=0.0, **options), re.escape(why))


async def test_a_node_with_other_shards_does_not_join(server: RedisServer) -> None:
    async with Fleet(server.url) as fleet:
        one = await fleet.launch()
        why = "others have server 1 of 1 with 1 shards each, this node has server 1 of 1 with 2 shards each"
        await wait_for_layout_error(fleet, why=why, shards_per_server=2)
        # Two clusters of nodes in one Redis, with different prefixes, are independent.
        other = await fleet.launch(prefix="another", shards_per_server=2)
        await publish(other.broker, "room", 1)
        await publish(one.broker, "room", 1)


async def test_a_node_with_the_same_servers_in_another_order_does_not_join(
    server: RedisServer, tmp_path: Path
) -> None:
    folder = tmp_path / "second"
    folder.mkdir()
    with running_redis(folder) as second:
        async with Fleet(server.url, second.url) as fleet:
            await fleet.launch()
            await wait_for_layout_error(fleet, second.url, server.url, why="others have server")


@pytest.mark.parametrize("servers", [("first", "second"), ("second", "first")], ids=["behind", "before"])
async def test_a_node_with_one_more_server_serves_no_channel(
    server: RedisServer, tmp_path: Path, servers: tuple[str, str]
) -> None:
    """It gets a lease on the server that only it has, but messages there would reach no other node."""
    folder = tmp_path / "second"
    folder.mkdir()
    with running_redis(folder) as second:
        urls = {"first": server.url, "second": second.url}
        async with Fleet(server.url) as fleet:
            one = await fleet.launch(lease=LEASE_SECONDS)
            other = await fleet.launch(*(urls[name] for name in servers), lease=LEASE_SECONDS)
            for number in range(10):
                await wait_until_rejected(
                    other, "this node has other servers or shards than the running nodes", f"c{number}"
                )
                with pytest.raises(BrokerUnavailable):
                    await other.broker.subscribe(f"c{number}", KEPT)
            assert other.broker.statistics()["leases"] == 1
            await publish(one.broker, "room", 1)
            await one.broker.close()
            await eventually(other.broker.ready)
            for number in range(10):
                await publish(other.broker, f"c{number}", 1)


@pytest.mark.parametrize("deletes", [("FLUSHALL",), ("DEL", "fanway:layout")], ids=["all", "after a lease"])
async def test_a_node_with_another_layout_does_not_replace_the_running_ones(
    server: RedisServer, deletes: tuple[str, ...]
) -> None:
    async with Fleet(server.url) as fleet:
        one = await fleet.launch()
        excluded = await fleet.launch(start_timeout=0.1, shards_per_server=2)
        for number in range(5):
            server.execute(*deletes)
            await eventually(lambda: server.execute("EXISTS", "fanway:layout") == 1)
            await eventually(one.broker.ready)
            await publish(one.broker, "room", number)
            assert not excluded.broker.ready()


async def test_the_layout_may_change_once_no_node_runs(server: RedisServer) -> None:
    async with Fleet(server.url) as fleet:
        one = await fleet.launch(lease=LEASE_SECONDS)
        await publish(one.broker, "room", 1)
        await one.broker.close()
        other = await fleet.launch(lease=LEASE_SECONDS, shards_per_server=2, start_timeout=0.1)
        await eventually(other.broker.ready)  # after two leases: no node says that it will not return
