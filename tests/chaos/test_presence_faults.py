"""Presence while nodes are killed and paused: members of a dead node leave once, all others never."""

import asyncio
from collections import Counter
from contextlib import AsyncExitStack
from pathlib import Path

from gateway.broker.redis.timeouts import RENEWALS_PER_LEASE
from tests.chaos.cluster import Cluster, disconnected
from tests.chaos.presence_watcher import PresenceWatcher, presence_entries
from tests.chaos.redis_leases import read_leases, wait_for_renewal, wait_until_reaped
from tests.chaos.workload import Workload
from tests.e2e.gateway import publish

ROOMS = [f"room:{number}" for number in range(10)]
ROOM_CLIENTS, CHANNELS_PER_CLIENT = 60, 2


async def start_watchers(stack: AsyncExitStack, cluster: Cluster) -> list[PresenceWatcher]:
    """Return a watcher at every node but the first, after all of them have received each other's joins."""
    watchers = [
        await stack.enter_async_context(PresenceWatcher.open(node.public, ROOMS))
        for node in cluster.nodes[1:]
    ]
    await receive_all_up_to(cluster, watchers, "begin")
    for watcher in watchers:
        watcher.joins.clear()
    return watchers


async def receive_all_up_to(cluster: Cluster, watchers: list[PresenceWatcher], marker: str) -> None:
    """Let *watchers* receive all joins and leaves up to now."""
    for room in ROOMS:
        await publish(cluster.internal_ports[1], room, marker)
    for watcher in watchers:
        await watcher.receive_up_to(marker)


async def test_members_of_a_dead_node_leave_once_each_within_twice_the_lease(
    tmp_path: Path, seed: int
) -> None:
    lease_seconds = 3.0
    async with (
        Cluster.open(tmp_path, lease_seconds=lease_seconds) as cluster,
        Workload.open(seed) as workload,
        AsyncExitStack() as stack,
    ):
        await workload.add_clients(
            "k", cluster.public_ports, ROOMS, count=ROOM_CLIENTS, channels_each=CHANNELS_PER_CLIENT
        )
        watchers = await start_watchers(stack, cluster)
        killed, *_ = cluster.nodes
        left, before = presence_entries(workload.clients_of(killed.name)), presence_entries(workload.clients)
        assert left
        await killed.kill()
        leases = await read_leases(cluster)
        assert leases.expiries[killed.name] - leases.now <= lease_seconds * 1000
        assert min(await wait_until_reaped(cluster, killed.name)) <= 2 * RENEWALS_PER_LEASE
        await workload.wait_for_positions({})
        await receive_all_up_to(cluster, watchers, "end")
        returned = presence_entries(workload.clients) - before
        assert len(returned) == len(left)
        watching = {(room, watcher.connection) for room in ROOMS for watcher in watchers}
        for watcher, node in zip(watchers, cluster.nodes[1:], strict=True):
            assert watcher.leaves == Counter(left)
            assert watcher.joins == Counter(returned)
            assert await node.present(ROOMS) == presence_entries(workload.clients) | watching


async def test_members_of_a_node_that_returns_within_its_lease_do_not_leave(
    tmp_path: Path, seed: int
) -> None:
    async with (
        Cluster.open(tmp_path, lease_seconds=10.0) as cluster,
        Workload.open(seed) as workload,
        AsyncExitStack() as stack,
    ):
        await workload.add_clients(
            "k", cluster.public_ports, ROOMS, count=ROOM_CLIENTS, channels_each=CHANNELS_PER_CLIENT
        )
        watchers = await start_watchers(stack, cluster)
        before = presence_entries(workload.clients)
        first, *_ = cluster.nodes
        async with first.paused():
            await asyncio.sleep(0.5)
        with disconnected(cluster.redis_proxies[0]):
            disconnected_at = await read_leases(cluster)
            await asyncio.sleep(0.5)
        await wait_for_renewal(cluster, first.name, since=disconnected_at)
        await receive_all_up_to(cluster, watchers, "end")
        for watcher in watchers:
            assert not watcher.leaves
            assert not watcher.joins
        assert presence_entries(workload.clients) == before
