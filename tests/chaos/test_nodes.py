"""Three gateways at one Redis: nodes die, freeze, drain and come back, and nobody misses anything.

CHAOS_SEED repeats the chances of a run; what the machine does meanwhile is its own.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from tests.chaos.client_policy import Habits
from tests.chaos.cluster import CHANNELS, CLIENTS, EACH, LEASE, Cluster
from tests.chaos.fleet import BRISK, Fleet, answered
from tests.chaos.leases import arrival, burial
from tests.e2e.wire import PATIENCE

SHORT_LEASE = 1.0

WARY = Habits(first=0.02, longest=0.5, silence=0.4, answer=0.8)
"""Takes a node for dead that says nothing, and goes elsewhere."""


ENOUGH = 60
"""Messages that are taken before something happens, and after it."""


@asynccontextmanager
async def crowded(
    home: Path,
    seed: int,
    *,
    lease: float = LEASE,
    wary: int = CLIENTS // 3,
    timeout: float = PATIENCE,
    insists: float = 0.0,
    **settings: str,
) -> AsyncIterator[tuple[Cluster, Fleet]]:
    """Run a cluster with its backends and clients, so many of them *wary*; nobody may be told of anything."""
    async with Cluster.open(home, lease=lease, **settings) as cluster, Fleet.launch(seed) as fleet:
        for name, count, habits in (("wary", wary, WARY), ("patient", CLIENTS - wary, BRISK)):
            await fleet.join(name, cluster.public, CHANNELS, count=count, each=EACH, habits=habits)
        async with fleet.publishing(cluster.internal, CHANNELS, timeout=timeout, insists=insists) as statuses:
            await answered(statuses, ENOUGH)
            yield cluster, fleet
            await answered(statuses, ENOUGH)
        verdict = await fleet.verdict(cluster, CHANNELS, home)
        assert not verdict.told, "history has everything that anybody missed"


async def test_a_killed_node_costs_nobody_a_message(tmp_path: Path, seed: int) -> None:
    async with crowded(tmp_path, seed) as (cluster, fleet):
        await fleet.random.choice(cluster.nodes).kill()


async def test_a_node_that_slept_through_three_leases_says_nothing_stale(tmp_path: Path, seed: int) -> None:
    """Some clients wait for it, others go elsewhere; backends give up what it does not answer."""
    async with crowded(tmp_path, seed, lease=SHORT_LEASE, timeout=0.5) as (cluster, fleet):
        node = fleet.random.choice(cluster.nodes)
        waiting = [client for client in fleet.at(node.name) if client.name.startswith("patient")]
        connections = [client.connection for client in waiting]
        assert waiting
        async with node.stopped():
            await asyncio.sleep(3 * SHORT_LEASE)
            await burial(cluster, node.name)
        await arrival(cluster, node.name)
        await fleet.reach(await cluster.newest(CHANNELS), waiting)
        assert [client.connection for client in waiting] == connections, "they were to wait"


async def test_a_drained_node_sends_its_clients_elsewhere(tmp_path: Path, seed: int) -> None:
    async with crowded(tmp_path, seed, wary=0, DRAIN__WINDOW="1s") as (cluster, fleet):
        node = fleet.random.choice(cluster.nodes)
        own = fleet.at(node.name)
        await node.drain()
        await fleet.reach({})
        for client in fleet.clients:
            assert client.ends == ({4000: 1} if client in own else {}), client


async def test_all_nodes_restarted_in_turn_keep_their_clients(tmp_path: Path, seed: int) -> None:
    """By a deploy, or by whatever ends a node in other ways."""
    async with crowded(tmp_path, seed, insists=PATIENCE) as (cluster, fleet):
        for node in fleet.random.sample(cluster.nodes, len(cluster.nodes)):
            await fleet.random.choice([node.drain, node.kill])()
            await node.start()
        assert all(client.ends for client in fleet.clients), "every node was gone once"
