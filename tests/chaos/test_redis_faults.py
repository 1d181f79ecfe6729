"""Three gateways whose Redis dies, hangs, lags, fills up, forgets: who misses something is told, nobody else.

CHAOS_SEED repeats the chances of a run; what the machine does meanwhile is its own.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from tests.chaos.cluster import (
    BLOCKED,
    CHANNELS,
    CLIENTS,
    DURABLE,
    EACH,
    HASTY,
    LEASE,
    SECOND,
    Cluster,
    cut_off,
    shaped,
)
from tests.chaos.fleet import Fleet, answered
from tests.chaos.flow import CLEAR, Line
from tests.chaos.history import Result, offset
from tests.chaos.leases import KEYS
from tests.chaos.proxy import Proxy
from tests.chaos.publisher import DOUBTFUL_IN_A_CLUSTER, Publisher
from tests.chaos.verdict import Told
from tests.e2e.wire import PATIENCE

ENOUGH = 60
"""Messages that are taken before something happens, and after it."""

FAR = 200
"""Messages: more than a node remembers of a channel, beside those that clients had before they slept."""


@asynccontextmanager
async def crowded(
    home: Path, seed: int, *, redis: Sequence[str] = (), told: bool = False, insists: float = 0.0
) -> AsyncIterator[tuple[Cluster, Fleet, Counter[int]]]:
    """Run a cluster with its clients and backends; yields how these are answered.

    The verdict must be clean; everybody must be told in every channel that is *told*, else nobody anything.
    """
    async with Cluster.open(home, redis=redis) as cluster, Fleet.launch(seed) as fleet:
        await fleet.join("k", cluster.public, CHANNELS, count=CLIENTS, each=EACH)
        async with fleet.publishing(cluster.internal, CHANNELS, insists=insists) as statuses:
            await answered(statuses, ENOUGH)
            yield cluster, fleet, statuses
            await answered(statuses, ENOUGH)
        verdict = await fleet.verdict(cluster, CHANNELS, home)
        places = {(client.name, channel) for client in fleet.clients for channel in client.channels}
        assert {(each.client, each.channel) for each in verdict.told} == (places if told else set())
        assert not any(client.ends for client in fleet.clients), "no connection ends over Redis"


async def test_a_redis_that_was_killed_with_all_on_disk_costs_a_pause(tmp_path: Path, seed: int) -> None:
    async with crowded(tmp_path, seed, redis=DURABLE, insists=PATIENCE) as (cluster, _, _):
        await cluster.kill_redis()
        await asyncio.sleep(0.5)
        await cluster.start_redis()


async def test_a_redis_that_lost_its_last_second_is_told_to_everybody(tmp_path: Path, seed: int) -> None:
    """All of its channels are of one shard, which begins a new epoch: also who missed nothing is told."""
    async with crowded(tmp_path, seed, redis=HASTY, told=True) as (cluster, fleet, _):
        await cluster.cut_power(SECOND, fleet.history)
        await cluster.start_redis()


async def test_a_redis_that_was_flushed_is_told_to_everybody(tmp_path: Path, seed: int) -> None:
    async with crowded(tmp_path, seed, told=True) as (cluster, fleet, _):
        await cluster.flush_redis(fleet.history)


async def test_a_redis_that_hangs_for_two_seconds_costs_a_pause(tmp_path: Path, seed: int) -> None:
    async with crowded(tmp_path, seed) as (cluster, _, _):
        with cluster.redis_stopped():
            await asyncio.sleep(2.0)


async def test_a_redis_that_answers_a_second_late_costs_a_second(tmp_path: Path, seed: int) -> None:
    async with crowded(tmp_path, seed) as (cluster, _, _):
        with shaped(cluster.ways, Line(delay=1.0)):
            await asyncio.sleep(3.0)


async def test_a_node_cut_off_from_redis_for_ten_seconds_keeps_its_clients(tmp_path: Path, seed: int) -> None:
    async with crowded(tmp_path, seed) as (cluster, fleet, _):
        way = fleet.random.choice(cluster.ways)
        # Refused and reset, or silent: a node finds out at once, or by its deadlines.
        with cut_off(way) if fleet.random.random() < 0.5 else shaped([way], BLOCKED):
            await asyncio.sleep(10.0)


async def test_a_redis_without_memory_refuses_and_loses_nothing(tmp_path: Path, seed: int) -> None:
    async with crowded(tmp_path, seed) as (cluster, _, statuses), cluster.redis_without_memory():
        await answered(statuses, ENOUGH, status=507)
        await asyncio.sleep(LEASE)


# ---------------------------------------------------------------- one message, one history


async def test_a_publish_that_is_retried_through_ten_resets_is_stored_once(tmp_path: Path, seed: int) -> None:
    """Its answers are lost: on the way from the node, and on the way from Redis to the node."""
    async with (
        Cluster.open(tmp_path) as cluster,
        Proxy.open(cluster.internal[0]) as first,
        Proxy.open(cluster.internal[1]) as second,
        Fleet.launch(seed) as fleet,
    ):
        await fleet.join("k", cluster.public, ["c"], count=3, each=1)
        opened = Publisher.open(
            "b",
            [first.port, second.port],
            fleet.history,
            random=fleet.random,
            insists=3 * PATIENCE,
            doubtful=DOUBTFUL_IN_A_CLUSTER,
        )
        async with opened as backend, asyncio.TaskGroup() as tasks:
            for network in (first, second, *cluster.ways[:2]):
                network.shape(down=BLOCKED)
            publish = tasks.create_task(backend.publish("c", 100))
            while backend.statuses[0] < 10:
                await asyncio.sleep(fleet.random.uniform(0, 0.1))
                for network in fleet.random.sample([first, second, *cluster.ways[:2]], 2):
                    network.cut()
            for network in (first, second, *cluster.ways[:2]):
                network.shape(down=CLEAR)
        assert publish.result() is Result.OK
        assert await cluster.ask("XLEN", KEYS.log("c")) == 1
        verdict = await fleet.verdict(cluster, ["c"], tmp_path)
        assert (verdict.delivered, verdict.told) == (3, ())


async def test_who_sleeps_while_history_is_trimmed_is_told_and_gets_no_part_of_it(
    tmp_path: Path, seed: int
) -> None:
    """What is trimmed by the number that is kept, and what somebody trims in Redis; the rest is kept."""
    short, cut, kept = "short:s", "trimmed", "kept"
    channels = [short, cut, kept]
    async with (
        Cluster.open(tmp_path) as cluster,
        AsyncExitStack() as stack,
        Fleet.launch(seed) as fleet,
    ):
        doors = [await stack.enter_async_context(Proxy.open(node.public)) for node in cluster.nodes]
        ports = [door.port for door in doors]
        await fleet.join("k", ports, channels, count=30, each=len(channels))
        async with fleet.publishing(cluster.internal, channels) as statuses:
            await answered(statuses, ENOUGH)
        await fleet.reach(await cluster.newest(channels))
        for door in doors:
            door.refuse()
            door.cut()
        # More than a node itself remembers of a channel; nobody is told when that is.
        async with fleet.publishing(cluster.internal, channels, rate=600, backends=12):
            while min(map(offset, (await cluster.newest(channels)).values())) < FAR:  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        newest = await cluster.newest([cut])
        await cluster.ask("XTRIM", KEYS.log(cut), "MINID", f"{offset(newest[cut]) - 3}-0")
        for door in doors:
            door.accept()
        verdict = await fleet.verdict(cluster, channels, tmp_path)
        assert Counter(verdict.told) == Counter(
            Told(client.name, channel, "recovered: false")
            for client in fleet.clients
            for channel in (short, cut)
        )
