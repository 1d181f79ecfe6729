"""Three gateways whose Redis fails: clients that miss messages get a notice, all others get none.

CHAOS_SEED repeats the random choices of a run; the timing of the machine is not repeatable.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from tests.chaos.cluster import (
    AOF_BYTES_PER_SECOND,
    BLOCKED,
    CHANNELS,
    CHANNELS_PER_CLIENT,
    CLIENTS,
    FSYNC_ALWAYS,
    FSYNC_EVERY_SECOND,
    LEASE_SECONDS,
    Cluster,
    disconnected,
    impaired,
)
from tests.chaos.history import PublishResult, offset
from tests.chaos.proxy import Proxy
from tests.chaos.publisher import UNKNOWN_RESULT_STATUSES_WITH_REDIS, Publisher
from tests.chaos.redis_leases import KEYS
from tests.chaos.relay import UNIMPAIRED, LinkConditions
from tests.chaos.verdict import LossNotice
from tests.chaos.workload import Workload, wait_for_answers
from tests.e2e.clients import TIMEOUT_SECONDS

ANSWERS = 60
"""Messages that are published before the fault, and after it."""

BEYOND_NODE_CACHE = 200
"""Messages: more than a node caches of a channel, in addition to those that the clients have already."""


@asynccontextmanager
async def cluster_under_load(
    home: Path, seed: int, *, redis: Sequence[str] = (), notices: bool = False, retry_seconds: float = 0.0
) -> AsyncIterator[tuple[Cluster, Workload, Counter[int]]]:
    """Run a cluster under load; yields the count of each status that its publishers are answered.

    Afterwards the verdict must be clean, and no connection may have ended.

    Args:
        home: The folder of its nodes and its Redis.
        seed: Of its random choices.
        redis: Command-line options of its Redis.
        notices: Whether every client must have got a notice in every channel; else none may have got any.
        retry_seconds: How long its publishers repeat each publish.
    """
    async with Cluster.open(home, redis=redis) as cluster, Workload.open(seed) as workload:
        await workload.add_clients(
            "k", cluster.public_ports, CHANNELS, count=CLIENTS, channels_each=CHANNELS_PER_CLIENT
        )
        async with workload.publishing(
            cluster.internal_ports, CHANNELS, retry_seconds=retry_seconds
        ) as statuses:
            await wait_for_answers(statuses, ANSWERS)
            yield cluster, workload, statuses
            await wait_for_answers(statuses, ANSWERS)
        verdict = await workload.verdict(cluster, CHANNELS, home)
        pairs = {(client.name, channel) for client in workload.clients for channel in client.channels}
        assert {(each.client, each.channel) for each in verdict.notices} == (pairs if notices else set())
        assert not any(client.close_codes for client in workload.clients), (
            "a fault of Redis ended connections"
        )


async def test_redis_killed_with_all_data_on_disk_loses_no_message(tmp_path: Path, seed: int) -> None:
    async with cluster_under_load(tmp_path, seed, redis=FSYNC_ALWAYS, retry_seconds=TIMEOUT_SECONDS) as (
        cluster,
        _,
        _,
    ):
        await cluster.kill_redis()
        await asyncio.sleep(0.5)
        await cluster.start_redis()


async def test_redis_that_lost_its_last_second_causes_notices_in_every_channel(
    tmp_path: Path, seed: int
) -> None:
    """All channels are on one shard, which begins a new epoch: clients get notices even without a loss."""
    async with cluster_under_load(tmp_path, seed, redis=FSYNC_EVERY_SECOND, notices=True) as (
        cluster,
        workload,
        _,
    ):
        await cluster.kill_redis_losing(AOF_BYTES_PER_SECOND, workload.history)
        await cluster.start_redis()


async def test_flushed_redis_causes_notices_in_every_channel(tmp_path: Path, seed: int) -> None:
    async with cluster_under_load(tmp_path, seed, notices=True) as (cluster, workload, _):
        await cluster.flush_redis(workload.history)


async def test_redis_paused_for_two_seconds_loses_no_message(tmp_path: Path, seed: int) -> None:
    async with cluster_under_load(tmp_path, seed) as (cluster, _, _):
        with cluster.redis_paused():
            await asyncio.sleep(2.0)


async def test_redis_that_answers_a_second_late_loses_no_message(tmp_path: Path, seed: int) -> None:
    async with cluster_under_load(tmp_path, seed) as (cluster, _, _):
        with impaired(cluster.redis_proxies, LinkConditions(delay_seconds=1.0)):
            await asyncio.sleep(3.0)


async def test_node_disconnected_from_redis_for_ten_seconds_keeps_its_clients(
    tmp_path: Path, seed: int
) -> None:
    async with cluster_under_load(tmp_path, seed) as (cluster, workload, _):
        proxy = workload.random.choice(cluster.redis_proxies)
        # Reset and refused, which a node notices at once; or blocked, which it notices by its deadlines.
        with disconnected(proxy) if workload.random.random() < 0.5 else impaired([proxy], BLOCKED):
            await asyncio.sleep(10.0)


async def test_redis_out_of_memory_rejects_publishes_and_loses_no_message(tmp_path: Path, seed: int) -> None:
    async with cluster_under_load(tmp_path, seed) as (cluster, _, statuses), cluster.redis_out_of_memory():
        await wait_for_answers(statuses, ANSWERS, status=507)
        await asyncio.sleep(LEASE_SECONDS)


# ---------------------------------------------------------------- retries and trimming


async def test_publish_retried_through_ten_resets_is_stored_once(tmp_path: Path, seed: int) -> None:
    """Answers are lost between the node and the publisher, and between Redis and the node."""
    async with (
        Cluster.open(tmp_path) as cluster,
        Proxy.open(cluster.internal_ports[0]) as first_proxy,
        Proxy.open(cluster.internal_ports[1]) as second_proxy,
        Workload.open(seed) as workload,
    ):
        await workload.add_clients("k", cluster.public_ports, ["c"], count=3, channels_each=1)
        opened = Publisher.open(
            "b",
            [first_proxy.port, second_proxy.port],
            workload.history,
            random=workload.random,
            retry_seconds=3 * TIMEOUT_SECONDS,
            unknown_statuses=UNKNOWN_RESULT_STATUSES_WITH_REDIS,
        )
        async with opened as publisher, asyncio.TaskGroup() as tasks:
            for proxy in (first_proxy, second_proxy, *cluster.redis_proxies[:2]):
                proxy.impair(down=BLOCKED)
            publish = tasks.create_task(publisher.publish("c", 100))
            while publisher.statuses[0] < 10:
                await asyncio.sleep(workload.random.uniform(0, 0.1))
                for proxy in workload.random.sample(
                    [first_proxy, second_proxy, *cluster.redis_proxies[:2]], 2
                ):
                    proxy.cut()
            for proxy in (first_proxy, second_proxy, *cluster.redis_proxies[:2]):
                proxy.impair(down=UNIMPAIRED)
        assert publish.result() is PublishResult.OK
        assert await cluster.execute_redis("XLEN", KEYS.log("c")) == 1
        verdict = await workload.verdict(cluster, ["c"], tmp_path)
        assert (verdict.delivered, verdict.notices) == (3, ())


async def test_clients_away_while_history_is_trimmed_get_a_notice_instead_of_a_part_of_it(
    tmp_path: Path, seed: int
) -> None:
    """One channel is trimmed by its history size, one by XTRIM in Redis; the third one is not trimmed."""
    short, cut, kept = "short:s", "trimmed", "kept"
    channels = [short, cut, kept]
    async with (
        Cluster.open(tmp_path) as cluster,
        AsyncExitStack() as stack,
        Workload.open(seed) as workload,
    ):
        client_proxies = [await stack.enter_async_context(Proxy.open(node.public)) for node in cluster.nodes]
        ports = [proxy.port for proxy in client_proxies]
        await workload.add_clients("k", ports, channels, count=30, channels_each=len(channels))
        async with workload.publishing(cluster.internal_ports, channels) as statuses:
            await wait_for_answers(statuses, ANSWERS)
        await workload.wait_for_positions(await cluster.newest_positions(channels))
        for proxy in client_proxies:
            proxy.refuse()
            proxy.cut()
        # There is no notification of positions, so they are polled.
        async with workload.publishing(cluster.internal_ports, channels, rate=600, publishers=12):
            while min(map(offset, (await cluster.newest_positions(channels)).values())) < BEYOND_NODE_CACHE:  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        newest = await cluster.newest_positions([cut])
        await cluster.execute_redis("XTRIM", KEYS.log(cut), "MINID", f"{offset(newest[cut]) - 3}-0")
        for proxy in client_proxies:
            proxy.accept()
        verdict = await workload.verdict(cluster, channels, tmp_path)
        assert Counter(verdict.notices) == Counter(
            LossNotice(client.name, channel, "recovered: false")
            for client in workload.clients
            for channel in (short, cut)
        )
