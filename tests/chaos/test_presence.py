"""Who is said to be here while nodes die and freeze: who is gone leaves once, who is there never."""

import asyncio
from collections import Counter
from contextlib import AsyncExitStack
from pathlib import Path

from gateway.broker.redis.membership.lease import RENEWALS
from tests.chaos.cluster import Cluster, cut_off
from tests.chaos.fleet import Fleet
from tests.chaos.leases import burial, look, renewal
from tests.chaos.watcher import Watcher, places
from tests.e2e.gateway import publish

ROOMS = [f"room:{number}" for number in range(10)]
GUESTS, EACH = 60, 2


async def watching(stack: AsyncExitStack, cluster: Cluster) -> list[Watcher]:
    """Return a watcher at every node but the first; they have heard of each other."""
    watchers = [
        await stack.enter_async_context(Watcher.open(node.public, ROOMS)) for node in cluster.nodes[1:]
    ]
    await heard_all(cluster, watchers, "begin")
    for watcher in watchers:
        watcher.joined.clear()
    return watchers


async def heard_all(cluster: Cluster, watchers: list[Watcher], until: str) -> None:
    """Let *watchers* hear all joins and leaves until now."""
    for room in ROOMS:
        await publish(cluster.internal[1], room, until)
    for watcher in watchers:
        await watcher.hear_all(until)


async def test_members_of_a_dead_node_leave_once_each_within_twice_the_lease(
    tmp_path: Path, seed: int
) -> None:
    lease = 3.0
    async with (
        Cluster.open(tmp_path, lease=lease) as cluster,
        Fleet.launch(seed) as fleet,
        AsyncExitStack() as stack,
    ):
        await fleet.join("k", cluster.public, ROOMS, count=GUESTS, each=EACH)
        watchers = await watching(stack, cluster)
        doomed, *_ = cluster.nodes
        gone, here = places(fleet.at(doomed.name)), places(fleet.clients)
        assert gone
        await doomed.kill()
        left = await look(cluster)
        assert left.ends[doomed.name] - left.now <= lease * 1000
        assert min(await burial(cluster, doomed.name)) <= 2 * RENEWALS
        await fleet.reach({})
        await heard_all(cluster, watchers, "end")
        back = places(fleet.clients) - here
        assert len(back) == len(gone)
        beside = {(room, watcher.connection) for room in ROOMS for watcher in watchers}
        for watcher, node in zip(watchers, cluster.nodes[1:], strict=True):
            assert watcher.left == Counter(gone)
            assert watcher.joined == Counter(back)
            assert await node.present(ROOMS) == places(fleet.clients) | beside


async def test_nobody_leaves_whose_node_is_back_within_its_lease(tmp_path: Path, seed: int) -> None:
    async with (
        Cluster.open(tmp_path, lease=10.0) as cluster,
        Fleet.launch(seed) as fleet,
        AsyncExitStack() as stack,
    ):
        await fleet.join("k", cluster.public, ROOMS, count=GUESTS, each=EACH)
        watchers = await watching(stack, cluster)
        here = places(fleet.clients)
        first, *_ = cluster.nodes
        async with first.stopped():
            await asyncio.sleep(0.5)
        with cut_off(cluster.ways[0]):
            cut = await look(cluster)
            await asyncio.sleep(0.5)
        await renewal(cluster, first.name, since=cut)
        await heard_all(cluster, watchers, "end")
        for watcher in watchers:
            assert not watcher.left
            assert not watcher.joined
        assert places(fleet.clients) == here
