"""Random faults in a cluster under load: afterwards every client has everything, or got a notice."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from protocol.client import BackoffBounds
from tests.chaos.client_policy import FAST_RECONNECT, ClientPolicy
from tests.chaos.cluster import (
    AOF_BYTES_PER_SECOND,
    BLOCKED,
    CHANNELS,
    CHANNELS_PER_CLIENT,
    CLIENTS,
    FSYNC_ALWAYS,
    Cluster,
    disconnected,
    impaired,
)
from tests.chaos.library.application import LOUNGE, ApplicationOptions
from tests.chaos.library.python_application import PythonApplication
from tests.chaos.network_faults import inject_network_faults
from tests.chaos.presence_watcher import PresenceEntry, presence_entries
from tests.chaos.proxy import Proxy
from tests.chaos.relay import LinkConditions
from tests.chaos.verdict import Verdict
from tests.chaos.workload import Workload, rotated
from tests.e2e.clients import TIMEOUT_SECONDS

LEASE_SECONDS = 2.5
LONG_FAULT_SECONDS = 5.0
"""Two leases."""

QUICK_TO_GIVE_UP = ClientPolicy(
    BackoffBounds(first_seconds=0.02, longest_seconds=0.5), idle_seconds=0.5, reply_seconds=1.0
)
ROOMS = [f"room:{number}" for number in range(10)]
"""Channels with joins and leaves. No history has those that a node missed, so clients get a `trimmed` gap."""

ROOM_CLIENTS = 30

CLIENT_KINDS = ("protocol", "python", "typescript")
"""The clients of the tests, and applications on the client libraries."""

APPLICATIONS = 15
"""On each client library."""


@dataclass(frozen=True, slots=True)
class RoundResult:
    """What happened in a round without violations."""

    verdict: Verdict
    kind: str
    """The kind of faults, of `FAULT_KINDS`."""
    faults: int
    """Of nodes and Redis."""
    network_faults: int
    """Of connections of clients and backends."""

    def __str__(self) -> str:
        faults = f"{self.faults} faults ({self.kind}) and {self.network_faults} of the network"
        return f"{self.verdict} after {faults}"


@dataclass
class FaultRound:
    """One round: the cluster, its load, and a log of the injected faults."""

    home: Path
    cluster: Cluster
    workload: Workload
    random: Random
    started: float = field(default_factory=time.monotonic)
    log: list[str] = field(default_factory=list)
    """What happened when, in seconds since the start of the round."""
    faults: int = 0
    """How many faults of nodes and Redis were injected."""

    def note(self, text: str) -> None:
        self.log.append(f"{time.monotonic() - self.started:7.3f} {text}")

    async def sleep_up_to(self, seconds: float) -> None:
        await asyncio.sleep(self.random.uniform(0, seconds))


Fault = Callable[[FaultRound], Awaitable[None]]
"""Injects one fault and ends it again."""

# ---------------------------------------------------------------- nodes


async def kill_node(fault_round: FaultRound) -> None:
    node = fault_round.random.choice(fault_round.cluster.nodes)
    fault_round.note(f"{node.name} is killed")
    await node.kill()
    await fault_round.sleep_up_to(LONG_FAULT_SECONDS)
    await node.start()
    fault_round.note(f"{node.name} is running again")


async def drain_node(fault_round: FaultRound) -> None:
    node = fault_round.random.choice(fault_round.cluster.nodes)
    fault_round.note(f"{node.name} is drained")
    await node.drain()
    await fault_round.sleep_up_to(LEASE_SECONDS)
    await node.start()
    fault_round.note(f"{node.name} is running again")


async def pause_node(fault_round: FaultRound) -> None:
    node = fault_round.random.choice(fault_round.cluster.nodes)
    fault_round.note(f"{node.name} is paused")
    async with node.paused():
        await fault_round.sleep_up_to(LONG_FAULT_SECONDS)
    fault_round.note(f"{node.name} continues")


# ---------------------------------------------------------------- Redis


async def kill_redis(fault_round: FaultRound) -> None:
    fault_round.note("Redis is killed")
    await fault_round.cluster.kill_redis()
    await fault_round.sleep_up_to(LONG_FAULT_SECONDS)
    await fault_round.cluster.start_redis()
    fault_round.note("Redis is running again")


async def pause_redis(fault_round: FaultRound) -> None:
    fault_round.note("Redis is paused")
    with fault_round.cluster.redis_paused():
        await fault_round.sleep_up_to(3.0)
    fault_round.note("Redis continues")


async def delay_redis(fault_round: FaultRound) -> None:
    proxies = fault_round.random.sample(
        fault_round.cluster.redis_proxies,
        fault_round.random.randint(1, len(fault_round.cluster.redis_proxies)),
    )
    delay = fault_round.random.uniform(0.01, 1.0)
    fault_round.note(f"Redis is {delay:.2f} s away from {len(proxies)} nodes")
    with impaired(proxies, LinkConditions(delay, fragmented=fault_round.random.random() < 0.3)):
        await fault_round.sleep_up_to(3.0)
    fault_round.note("Redis is close to all nodes")


async def disconnect_node_from_redis(fault_round: FaultRound) -> None:
    proxy = fault_round.random.choice(fault_round.cluster.redis_proxies)
    silent = fault_round.random.random() < 0.5
    name = f"n{fault_round.cluster.redis_proxies.index(proxy) + 1}"
    fault_round.note(f"{name} is disconnected from Redis, {'without a reset' if silent else 'by resets'}")
    with impaired([proxy], BLOCKED) if silent else disconnected(proxy):
        await fault_round.sleep_up_to(LONG_FAULT_SECONDS)
    if fault_round.random.random() < 0.5:
        proxy.cut()
    fault_round.note(f"{name} can reach Redis")


async def reset_redis_connections(fault_round: FaultRound) -> None:
    fault_round.note("all connections to Redis are reset")
    for proxy in fault_round.cluster.redis_proxies:
        proxy.cut()


async def exhaust_redis_memory(fault_round: FaultRound) -> None:
    fault_round.note("Redis is out of memory")
    async with fault_round.cluster.redis_out_of_memory():
        await fault_round.sleep_up_to(LONG_FAULT_SECONDS)
    fault_round.note("Redis has memory")


async def flush_redis_scripts(fault_round: FaultRound) -> None:
    fault_round.note("Redis' scripts are flushed")
    await fault_round.cluster.execute_redis("SCRIPT", "FLUSH")


# ---------------------------------------------------------------- losses of data


async def flush_redis(fault_round: FaultRound) -> None:
    fault_round.note("Redis is flushed")
    await fault_round.cluster.flush_redis(fault_round.workload.history)


async def truncate_redis_file(fault_round: FaultRound) -> None:
    size = fault_round.random.randint(1, 3 * AOF_BYTES_PER_SECOND)
    fault_round.note(f"Redis is killed, and the last {size} bytes of its file are lost")
    await fault_round.cluster.kill_redis_losing(size, fault_round.workload.history)
    await fault_round.sleep_up_to(LEASE_SECONDS)
    await fault_round.cluster.start_redis()
    fault_round.note("Redis is running again")


NODE_FAULTS: tuple[Fault, ...] = (kill_node, drain_node, pause_node)

REDIS_FAULTS: tuple[Fault, ...] = (
    kill_redis,
    pause_redis,
    delay_redis,
    disconnect_node_from_redis,
    disconnect_node_from_redis,
    reset_redis_connections,
    exhaust_redis_memory,
    flush_redis_scripts,
)

DATA_LOSSES: tuple[Fault, ...] = (flush_redis, truncate_redis_file)

FAULT_KINDS: Mapping[str, tuple[tuple[Fault, ...], ...]] = {
    "all": (NODE_FAULTS, REDIS_FAULTS),
    "nodes": (NODE_FAULTS,),
    # Only the node that wrote what is lost notices the loss, so nodes keep running here (docs/redis.md).
    "losses": ((*REDIS_FAULTS, *DATA_LOSSES, *DATA_LOSSES),),
}
"""The faults of each kind. A round injects those of each inner tuple one after the other, and the tuples
concurrently."""


async def inject_in_sequence(fault_round: FaultRound, faults: tuple[Fault, ...], seconds: float) -> None:
    """Inject random ones of *faults*, one after the other; the last one has ended when this returns."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        await fault_round.sleep_up_to(1.5)
        fault_round.faults += 1
        await fault_round.random.choice(faults)(fault_round)


async def run_round(
    home: Path, seed: int, *, seconds: float, kind: str = "", clients: Sequence[str] = CLIENT_KINDS
) -> RoundResult:
    """Run one round in *home*, with random choices from *seed*, and return its verdict and its faults.

    Args:
        home: The folder of the nodes, of Redis, and of the history where there are violations.
        seed: Chooses faults, their order and their duration.
        seconds: How long faults are injected.
        kind: One of `FAULT_KINDS`; where it is empty, *seed* chooses.
        clients: Those of `CLIENT_KINDS` that take part.

    Raises:
        AssertionError: There are violations, clients got notices of losses without a loss, or presence is
            wrong afterwards. The log of the faults is added as a note.
    """
    random = Random(seed)
    random_kind = random.choice(list(FAULT_KINDS))
    kind = kind or random_kind
    lossless = kind != "losses"
    async with AsyncExitStack() as stack:
        cluster = await stack.enter_async_context(
            Cluster.open(home, redis=FSYNC_ALWAYS, lease_seconds=LEASE_SECONDS)
        )
        client_proxies = [await stack.enter_async_context(Proxy.open(port)) for port in cluster.public_ports]
        publisher_proxies = [
            await stack.enter_async_context(Proxy.open(port)) for port in cluster.internal_ports
        ]
        workload = await stack.enter_async_context(Workload.open(seed, timeout_seconds=3 * TIMEOUT_SECONDS))
        fault_round = FaultRound(home, cluster, workload, random)
        try:
            proxied = [proxy.port for proxy in client_proxies]
            if "protocol" in clients:
                await _add_clients(workload, cluster, proxied)
            await stack.enter_async_context(
                workload.running_applications(home, _applications(workload, cluster, proxied, clients))
            )
            channels = [*CHANNELS, *ROOMS]
            without_retry = workload.publishing(
                cluster.internal_ports, channels, publishers=4, rate=60, timeout_seconds=2.0
            )
            with_retry = workload.publishing(
                [proxy.port for proxy in publisher_proxies],
                channels,
                publishers=4,
                rate=40,
                timeout_seconds=1.0,
                # Where data is lost, idempotency keys are lost with it.
                retry_seconds=TIMEOUT_SECONDS if lossless else 0.0,
            )
            async with without_retry, with_retry, asyncio.TaskGroup() as tasks:
                for faults in FAULT_KINDS[kind]:
                    tasks.create_task(inject_in_sequence(fault_round, faults, seconds))
                network_faults = [
                    tasks.create_task(inject_network_faults(proxy, random, seconds=seconds, rate=rate))
                    for proxies, rate in ((client_proxies, 2.0), (publisher_proxies, 0.5))
                    for proxy in proxies
                ]
                if lossless and workload.applications:
                    # Libraries repeat publishes under keys, which are lost where data is lost.
                    tasks.create_task(workload.publish_by_applications(seconds))
            verdict = await workload.verdict(cluster, channels, home)
            unexpected = [
                notice
                for notice in verdict.notices
                if not (notice.channel in ROOMS and notice.reason == "trimmed")
            ]
            assert not (lossless and unexpected), unexpected
            await check_presence(fault_round)
            await check_presence_of_applications(fault_round)
            await wait_for_refreshed_tokens(workload)
        except BaseException as error:
            error.add_note(f"{kind}:\n" + "\n".join(fault_round.log))
            raise
    injected = sum(task.result() for task in network_faults)
    return RoundResult(verdict, kind, fault_round.faults, injected)


async def _add_clients(workload: Workload, cluster: Cluster, proxied: list[int]) -> None:
    await workload.add_clients(
        "room", proxied, ROOMS, count=ROOM_CLIENTS, channels_each=2, policy=QUICK_TO_GIVE_UP
    )
    await workload.add_clients(
        "quick",
        proxied,
        CHANNELS,
        count=CLIENTS // 3,
        channels_each=CHANNELS_PER_CLIENT,
        policy=QUICK_TO_GIVE_UP,
    )
    await workload.add_clients(
        "waiting",
        cluster.public_ports,
        CHANNELS,
        count=CLIENTS // 2,
        channels_each=CHANNELS_PER_CLIENT,
        policy=FAST_RECONNECT,
    )


def _applications(
    workload: Workload, cluster: Cluster, proxied: Sequence[int], clients: Sequence[str]
) -> dict[str, list[ApplicationOptions]]:
    """Return the applications of each library; one in three loads the state of its channels."""
    return {
        library: [
            ApplicationOptions(
                f"{library}-{number}",
                rotated(proxied, number),
                workload.random.sample(CHANNELS, CHANNELS_PER_CLIENT),
                loads_state=number % 3 == 0,
                state_ports=rotated(cluster.internal_ports, number),
            )
            for number in range(APPLICATIONS)
        ]
        for library in ("python", "typescript")
        if library in clients
    }


async def check_presence_of_applications(fault_round: FaultRound) -> None:
    """Wait until every application sees whom the gateways list, which is every application, once each."""
    applications = fault_round.workload.applications
    listed, seen = set[str](), dict[str, set[str]]()
    try:
        async with asyncio.timeout(3 * TIMEOUT_SECONDS):
            while True:
                node = fault_round.random.choice(fault_round.cluster.nodes)
                listed = {connection for _, connection in await node.present([LOUNGE])}
                seen = {each.name: await each.present() for each in applications}
                if len(listed) == len(applications) and all(each == listed for each in seen.values()):
                    return
                await asyncio.sleep(0.2)
    except TimeoutError:
        wrong = {
            name: {"missing": listed - each, "extra": each - listed}
            for name, each in seen.items()
            if each != listed
        }
        for each in applications:
            if isinstance(each, PythonApplication):
                log = fault_round.home / f"{each.name}.presence.log"
                log.write_text("\n".join([*each.presence_log, f"at the end: {seen[each.name]}"]))
        raise AssertionError(
            f"{len(applications)} applications, {len(listed)} listed; seen otherwise: {wrong}"
        ) from None


async def wait_for_refreshed_tokens(workload: Workload) -> None:
    """Wait until every application was asked for another token than its first."""
    async with asyncio.timeout(TIMEOUT_SECONDS):
        for application in workload.applications:
            # Applications send no notification of it.
            while await application.tokens() < 2:  # noqa: ASYNC110
                await asyncio.sleep(0.1)


async def check_presence(fault_round: FaultRound) -> None:
    """Wait until presence at every node lists exactly the connected clients; else `AssertionError`."""
    members = [client for client in fault_round.workload.clients if client.name.startswith("room")]
    for node in fault_round.cluster.nodes:
        present, expected = set[PresenceEntry](), presence_entries(members)
        try:
            async with asyncio.timeout(3 * TIMEOUT_SECONDS):
                # Clients may still reconnect meanwhile; there is no notification of the last one.
                while (present := await node.present(ROOMS)) != (expected := presence_entries(members)):  # noqa: ASYNC110
                    await asyncio.sleep(0.1)
        except TimeoutError:
            ghosts, missing = present - expected, expected - present
            raise AssertionError(f"{node.name}: ghosts {ghosts}, not present {missing}") from None
