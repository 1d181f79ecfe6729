"""Three gateways whose primary is replaced by its replica: what the replica has missed is told, to everybody.

CHAOS_SEED repeats the chances of a run; what the machine does meanwhile is its own.
"""

import asyncio
from pathlib import Path

from tests.broker.redis_fleet import eventually
from tests.broker.redis_sentinels import SentinelSetup, sentinel_setup, wait_until
from tests.chaos.cluster import CHANNELS, CLIENTS, EACH, NODES, Nodes
from tests.chaos.fleet import Fleet
from tests.chaos.history import Reset
from tests.chaos.verdict import Verdict
from tests.e2e.wire import PATIENCE

LEASE = 1.5
MISSED = 5
"""Messages that were acknowledged, and that the replica has never heard of, at least."""


async def test_a_failover_that_loses_acknowledged_messages_is_told_to_everybody(
    tmp_path: Path, seed: int
) -> None:
    with sentinel_setup(tmp_path / "redis") as servers:
        verdict = await failed_over(tmp_path, seed, servers, parted=True)
    lost = {told.channel for told in verdict.told}
    assert lost == set(CHANNELS), "a new epoch is for every channel of its shard"


async def test_a_failover_to_a_replica_that_has_everything_costs_a_pause_at_most(
    tmp_path: Path, seed: int
) -> None:
    """Who is told nevertheless is told no lie: nobody knows that the replica has the last milliseconds."""
    with sentinel_setup(tmp_path / "redis") as servers:
        await failed_over(tmp_path, seed, servers, parted=False)


async def failed_over(home: Path, seed: int, servers: SentinelSetup, *, parted: bool) -> Verdict:
    """Kill the primary while all goes on; *parted* says that its replica has missed the last messages."""
    urls = [servers.url] * NODES
    async with Nodes.at(home, urls, lease=LEASE) as nodes, Fleet.launch(seed) as fleet:
        await fleet.join("k", nodes.public, CHANNELS, count=CLIENTS, each=EACH)
        async with fleet.publishing(nodes.internal, CHANNELS, insists=PATIENCE) as statuses:
            await asyncio.sleep(1.0)
            if parted:
                await asyncio.to_thread(servers.disconnect_replica)
                before = statuses[200]
                await eventually(lambda: statuses[200] >= before + MISSED)
            fleet.history.record(Reset())
            former = servers.primary
            await asyncio.to_thread(former.kill)
            await asyncio.to_thread(wait_until, lambda: servers.primary is not former)
            # What was on its way to the former primary may be numbered by the new one.
            fleet.history.record(Reset())
            after = statuses[200]
            await eventually(lambda: statuses[200] >= after + 50)
        verdict = await fleet.verdict(nodes, CHANNELS, home)
        assert not any(client.ends for client in fleet.clients), "no connection ends over Redis"
        return verdict
