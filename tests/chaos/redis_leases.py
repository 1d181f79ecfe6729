"""The leases of nodes as Redis has them, by Redis' own clock (docs/redis.md)."""

import asyncio
from dataclasses import dataclass

from gateway.broker.redis.keys import Keys
from tests.chaos.cluster import Cluster
from tests.e2e.clients import TIMEOUT_SECONDS

KEYS = Keys("fanway", 0)

READ_LEASES = """
local time = redis.call('TIME')
return {time[1] * 1000 + math.floor(time[2] / 1000), redis.call('ZRANGE', KEYS[1], 0, -1, 'WITHSCORES')}
"""

POLL_SECONDS = 0.01
"""Redis sends no notification of leases: they are polled."""


@dataclass(frozen=True, slots=True)
class Leases:
    """Every lease at one moment; times in milliseconds."""

    now: int
    expiries: dict[str, int]
    """When the lease of each node expires, by name; 0 where it has expired and the node is being reaped."""


async def read_leases(cluster: Cluster) -> Leases:
    """Return every lease as it is now."""
    now, listed = await cluster.execute_redis("EVAL", READ_LEASES, 1, KEYS.nodes)
    pairs = zip(listed[::2], listed[1::2], strict=True)
    return Leases(now, {node.decode().partition("~")[0]: int(expiry) for node, expiry in pairs})


async def wait_for_lease(cluster: Cluster, node: str) -> None:
    """Wait until *node* has a lease."""
    async with asyncio.timeout(TIMEOUT_SECONDS):
        while node not in (await read_leases(cluster)).expiries:  # noqa: ASYNC110
            await asyncio.sleep(POLL_SECONDS)


async def wait_for_renewal(cluster: Cluster, node: str, *, since: Leases) -> None:
    """Wait until *node* has renewed its lease after *since* was read."""
    async with asyncio.timeout(TIMEOUT_SECONDS):
        while (await read_leases(cluster)).expiries[node] <= since.expiries[node]:  # noqa: ASYNC110
            await asyncio.sleep(POLL_SECONDS)


async def wait_until_reaped(cluster: Cluster, node: str) -> list[int]:
    """Wait until another node has reaped *node*; return how often each of the others renewed meanwhile.

    A live node renews three times per lease: renewals are time as nodes measure it, however slow the machine.
    """
    seen: dict[str, set[int]] = {}
    async with asyncio.timeout(TIMEOUT_SECONDS):
        while node in (expiries := (await read_leases(cluster)).expiries):
            for other in expiries.keys() - {node}:
                seen.setdefault(other, set()).add(expiries[other])
            await asyncio.sleep(POLL_SECONDS)
    return [len(renewals) - 1 for renewals in seen.values()]
