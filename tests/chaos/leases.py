"""What Redis knows of the lives of nodes, by its own clock."""

import asyncio
from dataclasses import dataclass

from gateway.broker.redis.keys import Keys
from tests.chaos.cluster import Cluster
from tests.e2e.wire import PATIENCE

KEYS = Keys("fanway", 0)

LOOK = """
local time = redis.call('TIME')
return {time[1] * 1000 + math.floor(time[2] / 1000), redis.call('ZRANGE', KEYS[1], 0, -1, 'WITHSCORES')}
"""


@dataclass(frozen=True, slots=True)
class Look:
    """Every lease at one moment; milliseconds."""

    now: int
    ends: dict[str, int]
    """When the lease of each node ends, by name; 0 where it is over and the node is cleaned up after."""


async def look(cluster: Cluster) -> Look:
    """Return every lease as it is now."""
    now, told = await cluster.ask("EVAL", LOOK, 1, KEYS.nodes)
    ends = zip(told[::2], told[1::2], strict=True)
    return Look(now, {node.decode().partition("~")[0]: int(end) for node, end in ends})


async def arrival(cluster: Cluster, node: str) -> None:
    """Wait until *node* has a lease."""
    async with asyncio.timeout(PATIENCE):
        # Redis tells nobody of it.
        while node not in (await look(cluster)).ends:  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def renewal(cluster: Cluster, node: str, *, since: Look) -> None:
    """Wait until *node* has renewed its lease since that look."""
    async with asyncio.timeout(PATIENCE):
        while (await look(cluster)).ends[node] <= since.ends[node]:  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def burial(cluster: Cluster, node: str) -> list[int]:
    """Wait until others have cleaned up after *node*; return how often each of them renewed meanwhile.

    A survivor renews three times in one lease: this is time as nodes have it, however slow the machine.
    """
    seen: dict[str, set[int]] = {}
    async with asyncio.timeout(PATIENCE):
        while node in (ends := (await look(cluster)).ends):
            for other in ends.keys() - {node}:
                seen.setdefault(other, set()).add(ends[other])
            await asyncio.sleep(0.01)
    return [len(renewals) - 1 for renewals in seen.values()]
