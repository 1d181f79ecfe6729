"""Three gateways whose primary is replaced by its replica: clients get notices of what the replica missed.

CHAOS_SEED repeats the random choices of a run; the timing of the machine is not repeatable.
"""

import asyncio
from pathlib import Path

from tests.broker.redis_fleet import eventually
from tests.broker.redis_sentinels import SentinelSetup, sentinel_setup, wait_until
from tests.chaos.cluster import CHANNELS, CHANNELS_PER_CLIENT, CLIENTS, NODES, NodeGroup
from tests.chaos.history import HistoryReset
from tests.chaos.verdict import Verdict
from tests.chaos.workload import Workload
from tests.e2e.clients import TIMEOUT_SECONDS

LEASE_SECONDS = 1.5
MIN_MISSED = 5
"""How many acknowledged messages the replica lacks, at least."""


async def test_failover_that_loses_acknowledged_messages_causes_notices_in_every_channel(
    tmp_path: Path, seed: int
) -> None:
    with sentinel_setup(tmp_path / "redis") as servers:
        verdict, subscribed = await fail_over(tmp_path, seed, servers, replica_behind=True)
    channels = {notice.channel for notice in verdict.notices}
    assert channels == subscribed, "a new epoch is for every channel of its shard"


async def test_failover_to_a_complete_replica_loses_no_message(tmp_path: Path, seed: int) -> None:
    """Notices are allowed: no node knows whether the replica has the writes of the last milliseconds."""
    with sentinel_setup(tmp_path / "redis") as servers:
        await fail_over(tmp_path, seed, servers, replica_behind=False)


async def fail_over(
    home: Path, seed: int, servers: SentinelSetup, *, replica_behind: bool
) -> tuple[Verdict, set[str]]:
    """Kill the primary under load; return the verdict, and the channels with a subscriber.

    With *replica_behind*, the replica lacks messages. Some seeds leave a channel without a subscriber.
    """
    urls = [servers.url] * NODES
    async with (
        NodeGroup.start(home, urls, lease_seconds=LEASE_SECONDS) as nodes,
        Workload.open(seed) as workload,
    ):
        await workload.add_clients(
            "k", nodes.public_ports, CHANNELS, count=CLIENTS, channels_each=CHANNELS_PER_CLIENT
        )
        # A replica that lacks messages lacks their idempotency keys as well: a retry would store them twice.
        retry_seconds = 0.0 if replica_behind else TIMEOUT_SECONDS
        async with workload.publishing(
            nodes.internal_ports, CHANNELS, retry_seconds=retry_seconds
        ) as statuses:
            await asyncio.sleep(1.0)
            if replica_behind:
                await asyncio.to_thread(servers.disconnect_replica)
                before = statuses[200]
                await eventually(lambda: statuses[200] >= before + MIN_MISSED)
            workload.history.record(HistoryReset())
            former = servers.primary
            await asyncio.to_thread(former.kill)
            await asyncio.to_thread(wait_until, lambda: servers.primary is not former)
            # Writes that were sent to the former primary may be numbered by the new one.
            workload.history.record(HistoryReset())
            after = statuses[200]
            await eventually(lambda: statuses[200] >= after + 50)
        verdict = await workload.verdict(nodes, CHANNELS, home)
        assert not any(client.close_codes for client in workload.clients), (
            "a failover of Redis ended connections"
        )
        return verdict, {channel for client in workload.clients for channel in client.channels}
