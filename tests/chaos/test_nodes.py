"""Three gateways at one Redis: nodes die, freeze, drain and come back, and nobody misses anything."""

import asyncio
from pathlib import Path

from tests.chaos.cluster import CHANNELS, CLIENTS, EACH, Cluster
from tests.chaos.fleet import Fleet
from tests.chaos.habits import Habits

WARY = Habits(first=0.02, longest=0.5, silence=1.0, answer=2.0)


async def test_a_killed_node_costs_nobody_a_message(tmp_path: Path, seed: int) -> None:
    async with Cluster.open(tmp_path) as cluster, Fleet.launch(seed) as fleet:
        await fleet.join("k", cluster.public, CHANNELS, count=CLIENTS, each=EACH, habits=WARY)
        async with fleet.publishing(cluster.internal, CHANNELS):
            await asyncio.sleep(1.0)
            await fleet.random.choice(cluster.nodes).kill()
            await asyncio.sleep(2.0)
        verdict = await fleet.verdict(cluster, CHANNELS, tmp_path)
        assert not verdict.told, "history has everything that anybody missed"
