"""Three gateways with one Redis: no client misses anything when nodes are killed, paused or drained.

CHAOS_SEED repeats the random choices of a run; the timing of the machine is not repeatable.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from protocol.client import BackoffBounds
from tests.chaos.client_policy import FAST_RECONNECT, ClientPolicy
from tests.chaos.cluster import CHANNELS, CHANNELS_PER_CLIENT, CLIENTS, LEASE_SECONDS, Cluster
from tests.chaos.redis_leases import wait_for_lease, wait_until_reaped
from tests.chaos.workload import Workload, wait_for_answers
from tests.e2e.clients import TIMEOUT_SECONDS

SHORT_LEASE_SECONDS = 1.0

QUICK_TO_GIVE_UP = ClientPolicy(BackoffBounds(0.02, 0.5), idle_seconds=0.4, reply_seconds=0.8)
"""Reconnects to another node when its own is silent."""


ANSWERS = 60
"""Messages that are published before the fault, and after it."""


@asynccontextmanager
async def cluster_under_load(
    home: Path,
    seed: int,
    *,
    lease_seconds: float = LEASE_SECONDS,
    quick: int = CLIENTS // 3,
    timeout_seconds: float = TIMEOUT_SECONDS,
    retry_seconds: float = 0.0,
    **settings: str,
) -> AsyncIterator[tuple[Cluster, Workload]]:
    """Run a cluster under load, and check afterwards that no client got a notice of a loss.

    Args:
        home: The folder of its nodes and its Redis.
        seed: Of its random choices.
        lease_seconds: Of its nodes.
        quick: How many of its clients are quick to give up a silent node; the others wait.
        timeout_seconds: Of each request of its publishers.
        retry_seconds: How long its publishers repeat each publish.
        settings: Of its nodes, as SECTION__KEY.
    """
    async with (
        Cluster.open(home, lease_seconds=lease_seconds, **settings) as cluster,
        Workload.open(seed) as workload,
    ):
        for name, count, policy in (
            ("quick", quick, QUICK_TO_GIVE_UP),
            ("waiting", CLIENTS - quick, FAST_RECONNECT),
        ):
            await workload.add_clients(
                name,
                cluster.public_ports,
                CHANNELS,
                count=count,
                channels_each=CHANNELS_PER_CLIENT,
                policy=policy,
            )
        async with workload.publishing(
            cluster.internal_ports, CHANNELS, timeout_seconds=timeout_seconds, retry_seconds=retry_seconds
        ) as statuses:
            await wait_for_answers(statuses, ANSWERS)
            yield cluster, workload
            await wait_for_answers(statuses, ANSWERS)
        verdict = await workload.verdict(cluster, CHANNELS, home)
        assert not verdict.notices, "history has everything that any client missed"


async def test_killed_node_loses_no_message(tmp_path: Path, seed: int) -> None:
    async with cluster_under_load(tmp_path, seed) as (cluster, workload):
        await workload.random.choice(cluster.nodes).kill()


async def test_node_paused_for_three_leases_delivers_nothing_stale(tmp_path: Path, seed: int) -> None:
    """Some clients wait for it, others reconnect elsewhere; publishers give up what it does not answer."""
    async with cluster_under_load(tmp_path, seed, lease_seconds=SHORT_LEASE_SECONDS, timeout_seconds=0.5) as (
        cluster,
        workload,
    ):
        # A node that is slow to renew so short a lease refuses connections: its clients are elsewhere then.
        serving = {client.node for client in workload.clients if client.name.startswith("waiting")}
        node = workload.random.choice([node for node in cluster.nodes if node.name in serving])
        waiting = [client for client in workload.clients_of(node.name) if client.name.startswith("waiting")]
        connections = [client.connection for client in waiting]
        async with node.paused():
            await asyncio.sleep(3 * SHORT_LEASE_SECONDS)
            await wait_until_reaped(cluster, node.name)
        await wait_for_lease(cluster, node.name)
        await workload.wait_for_positions(await cluster.newest_positions(CHANNELS), waiting)
        assert [client.connection for client in waiting] == connections, (
            "these clients must keep their connections"
        )


async def test_clients_of_a_drained_node_reconnect_elsewhere(tmp_path: Path, seed: int) -> None:
    async with cluster_under_load(tmp_path, seed, quick=0, DRAIN__WINDOW="1s") as (cluster, workload):
        node = workload.random.choice(cluster.nodes)
        own = workload.clients_of(node.name)
        await node.drain()
        await workload.wait_for_positions({})
        for client in workload.clients:
            assert client.close_codes == ({4000: 1} if client in own else {}), client


async def test_restarting_all_nodes_in_turn_loses_no_message(tmp_path: Path, seed: int) -> None:
    """Each node is drained, as by a deploy, or killed."""
    async with cluster_under_load(tmp_path, seed, retry_seconds=TIMEOUT_SECONDS) as (cluster, workload):
        for node in workload.random.sample(cluster.nodes, len(cluster.nodes)):
            await workload.random.choice([node.drain, node.kill])()
            await node.start()
        assert all(client.close_codes for client in workload.clients), "every node was restarted once"
