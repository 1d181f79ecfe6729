"""Random mixes of all that may befall a cluster: when it is over, everybody has everything, or was told."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from tests.chaos.client_policy import Habits
from tests.chaos.cluster import BLOCKED, CHANNELS, CLIENTS, DURABLE, EACH, SECOND, Cluster, cut_off, shaped
from tests.chaos.fleet import BRISK, Fleet
from tests.chaos.flow import Line
from tests.chaos.network_faults import storm
from tests.chaos.proxy import Proxy
from tests.chaos.verdict import Verdict
from tests.chaos.watcher import Place, places
from tests.e2e.wire import PATIENCE

LEASE = 2.5
LONG = 5.0
"""Seconds: two leases."""

WARY = Habits(first=0.02, longest=0.5, silence=0.5, answer=1.0)
ROOMS = [f"room:{number}" for number in range(10)]
"""Where joins and leaves are told: no history has those that a node missed, and that is told as `trimmed`."""

GUESTS = 30


@dataclass
class Mix:
    """One round: what is there, and what has befallen it."""

    cluster: Cluster
    fleet: Fleet
    random: Random
    began: float = field(default_factory=time.monotonic)
    log: list[str] = field(default_factory=list)
    """When what began, in seconds since this began."""

    def note(self, what: str) -> None:
        self.log.append(f"{time.monotonic() - self.began:7.3f} {what}")

    async def a_while(self, most: float) -> None:
        await asyncio.sleep(self.random.uniform(0, most))


Fault = Callable[[Mix], Awaitable[None]]

# ---------------------------------------------------------------- nodes


async def killed(mix: Mix) -> None:
    node = mix.random.choice(mix.cluster.nodes)
    mix.note(f"{node.name} is killed")
    await node.kill()
    await mix.a_while(LONG)
    await node.start()
    mix.note(f"{node.name} is back")


async def drained(mix: Mix) -> None:
    node = mix.random.choice(mix.cluster.nodes)
    mix.note(f"{node.name} is drained")
    await node.drain()
    await mix.a_while(LEASE)
    await node.start()
    mix.note(f"{node.name} is back")


async def asleep(mix: Mix) -> None:
    node = mix.random.choice(mix.cluster.nodes)
    mix.note(f"{node.name} sleeps")
    async with node.stopped():
        await mix.a_while(LONG)
    mix.note(f"{node.name} wakes")


# ---------------------------------------------------------------- Redis


async def redis_killed(mix: Mix) -> None:
    mix.note("Redis is killed")
    await mix.cluster.kill_redis()
    await mix.a_while(LONG)
    await mix.cluster.start_redis()
    mix.note("Redis is back")


async def redis_stopped(mix: Mix) -> None:
    mix.note("Redis hangs")
    with mix.cluster.redis_stopped():
        await mix.a_while(3.0)
    mix.note("Redis goes on")


async def redis_far(mix: Mix) -> None:
    ways = mix.random.sample(mix.cluster.ways, mix.random.randint(1, len(mix.cluster.ways)))
    delay = mix.random.uniform(0.01, 1.0)
    mix.note(f"{len(ways)} ways to Redis take {delay:.2f} s")
    with shaped(ways, Line(delay=delay, split=mix.random.random() < 0.3)):
        await mix.a_while(3.0)
    mix.note("ways to Redis are short")


async def redis_cut_off(mix: Mix) -> None:
    way = mix.random.choice(mix.cluster.ways)
    silent = mix.random.random() < 0.5
    name = f"n{mix.cluster.ways.index(way) + 1}"
    mix.note(f"{name} is cut off from Redis, {'in silence' if silent else 'by resets'}")
    with shaped([way], BLOCKED) if silent else cut_off(way):
        await mix.a_while(LONG)
    if mix.random.random() < 0.5:
        way.cut()
    mix.note(f"{name} can reach Redis")


async def redis_reset(mix: Mix) -> None:
    mix.note("all connections to Redis are reset")
    for way in mix.cluster.ways:
        way.cut()


async def redis_full(mix: Mix) -> None:
    mix.note("Redis is full")
    async with mix.cluster.redis_without_memory():
        await mix.a_while(LONG)
    mix.note("Redis has room")


async def redis_without_scripts(mix: Mix) -> None:
    mix.note("Redis forgets its scripts")
    await mix.cluster.ask("SCRIPT", "FLUSH")


# ---------------------------------------------------------------- losses


async def redis_flushed(mix: Mix) -> None:
    mix.note("Redis is flushed")
    await mix.cluster.flush_redis(mix.fleet.history)


async def redis_lost(mix: Mix) -> None:
    size = mix.random.randint(1, 3 * SECOND)
    mix.note(f"Redis is killed, and {size} bytes of its file are gone")
    await mix.cluster.cut_power(size, mix.fleet.history)
    await mix.a_while(LEASE)
    await mix.cluster.start_redis()
    mix.note("Redis is back")


NODE_FAULTS: tuple[Fault, ...] = (killed, drained, asleep)

REDIS_FAULTS: tuple[Fault, ...] = (
    redis_killed,
    redis_stopped,
    redis_far,
    redis_cut_off,
    redis_cut_off,
    redis_reset,
    redis_full,
    redis_without_scripts,
)

LOSSES: tuple[Fault, ...] = (redis_flushed, redis_lost)

LANES: Mapping[str, tuple[tuple[Fault, ...], ...]] = {
    "all": (NODE_FAULTS, REDIS_FAULTS),
    "nodes": (NODE_FAULTS,),
    # What is lost is noticed by the node that wrote it: it must be there (docs/redis.md).
    "losses": ((*REDIS_FAULTS, *LOSSES, *LOSSES),),
}
"""Faults that befall a cluster at the same time, one of each kind."""


async def lane(mix: Mix, faults: tuple[Fault, ...], seconds: float) -> None:
    """Let one of *faults* befall the cluster after the other; all is well again when this returns."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        await mix.a_while(1.5)
        await mix.random.choice(faults)(mix)


async def mixed(home: Path, seed: int, *, seconds: float, kind: str = "") -> Verdict:
    """Run one round in *home*, with chances from *seed*; `AssertionError` says what is wrong with it.

    Without a *kind* of `LANES` it is chosen by chance.
    """
    random = Random(seed)
    by_chance = random.choice(list(LANES))
    kind = kind or by_chance
    lossless = kind != "losses"
    async with AsyncExitStack() as stack:
        cluster = await stack.enter_async_context(Cluster.open(home, redis=DURABLE, lease=LEASE))
        to_clients = [await stack.enter_async_context(Proxy.open(port)) for port in cluster.public]
        to_backends = [await stack.enter_async_context(Proxy.open(port)) for port in cluster.internal]
        fleet = await stack.enter_async_context(Fleet.launch(seed, patience=3 * PATIENCE))
        mix = Mix(cluster, fleet, random)
        try:
            doors = [door.port for door in to_clients]
            await fleet.join("guest", doors, ROOMS, count=GUESTS, each=2, habits=WARY)
            await fleet.join("wary", doors, CHANNELS, count=CLIENTS // 3, each=EACH, habits=WARY)
            await fleet.join("calm", cluster.public, CHANNELS, count=CLIENTS // 2, each=EACH, habits=BRISK)
            channels = [*CHANNELS, *ROOMS]
            once = fleet.publishing(cluster.internal, channels, backends=4, rate=60, timeout=2.0)
            # A key is forgotten with everything else.
            insisting = fleet.publishing(
                [door.port for door in to_backends],
                channels,
                backends=4,
                rate=40,
                timeout=1.0,
                insists=PATIENCE if lossless else 0.0,
            )
            async with once, insisting, asyncio.TaskGroup() as tasks:
                for faults in LANES[kind]:
                    tasks.create_task(lane(mix, faults, seconds))
                for door in to_clients:
                    tasks.create_task(storm(door, random, seconds=seconds, rate=2.0))
                for door in to_backends:
                    tasks.create_task(storm(door, random, seconds=seconds, rate=0.5))
            verdict = await fleet.verdict(cluster, channels, home)
            lost = [told for told in verdict.told if not (told.channel in ROOMS and told.how == "trimmed")]
            assert not (lossless and lost), lost
            await settled(mix)
        except BaseException as error:
            error.add_note(f"{kind}:\n" + "\n".join(mix.log))
            raise
    return verdict


async def settled(mix: Mix) -> None:
    """Wait until every node says that those are present who are there, and nobody else."""
    guests = [client for client in mix.fleet.clients if client.name.startswith("guest")]
    for node in mix.cluster.nodes:
        present, expected = set[Place](), places(guests)
        try:
            async with asyncio.timeout(3 * PATIENCE):
                # They come and go on their own; nobody tells when that is over.
                while (present := await node.present(ROOMS)) != (expected := places(guests)):  # noqa: ASYNC110
                    await asyncio.sleep(0.1)
        except TimeoutError:
            ghosts, missing = present - expected, expected - present
            raise AssertionError(f"{node.name}: ghosts {ghosts}, not present {missing}") from None
