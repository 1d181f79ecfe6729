"""One gateway under faults of the network, restarts, kills and pauses: nothing is lost silently.

CHAOS_SEED repeats the random choices of a run; the timing of the machine is not repeatable.
"""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from random import Random

from protocol.client import BackoffBounds
from tests.chaos.client_policy import ClientPolicy
from tests.chaos.history import HistoryReset, offset
from tests.chaos.network_faults import inject_network_faults
from tests.chaos.node_process import NodeProcess
from tests.chaos.proxy import Proxy
from tests.chaos.relay import UNIMPAIRED, LinkConditions
from tests.chaos.verdict import LossNotice
from tests.chaos.workload import Workload
from tests.e2e.clients import TIMEOUT_SECONDS

CHANNELS = [f"c{number}" for number in range(20)]
CLIENTS, CHANNELS_PER_CLIENT = 60, 5

LONG_HISTORY = """
[channels.default]
subscribe = "anyone"
history = 2000
"""

POLICIES = {"catch_up": 2000, "short": 5, "conflate": 2000, "drop_oldest": 2000, "disconnect": 2000}
"""Namespaces for slow clients, each with the size of its history."""

SLOW_CLIENT_CONFIG = "\n".join(
    f"[channels.{name}]\nsubscribe = 'anyone'\nhistory = {history}\n"
    f"on_slow = '{'catch_up' if name == 'short' else name}'"
    for name, history in POLICIES.items()
)

BEYOND_ALL_BUFFERS = 100
"""Messages: more than a hub caches of a channel and all buffers between it and a client hold together."""

SMALL_BUFFERS = {
    "LISTEN__PUBLIC__SEND_BUFFER": "8KiB",
    "LIMITS__MESSAGE_SIZE": "16KiB",
    "OUTBOX__SIZE": "32KiB",
    "OUTBOX__HIGH_WATER": "8KiB",
    "OUTBOX__LOW_WATER": "2KiB",
}
"""Settings with which clients are slow after few messages."""


async def test_network_faults_lose_no_message(tmp_path: Path, seed: int) -> None:
    policy = ClientPolicy(BackoffBounds(0.02, 0.3), idle_seconds=0.4, reply_seconds=0.8)
    async with (
        NodeProcess.open(tmp_path, LONG_HISTORY) as node,
        Proxy.open(node.public, random=Random(seed)) as client_proxy,
        Proxy.open(node.internal, random=Random(seed)) as publisher_proxy,
        Workload.open(seed) as workload,
    ):
        await workload.add_clients(
            "k",
            [client_proxy.port],
            CHANNELS,
            count=CLIENTS,
            channels_each=CHANNELS_PER_CLIENT,
            policy=policy,
        )
        async with (
            workload.publishing([publisher_proxy.port], CHANNELS, timeout_seconds=1.0),
            asyncio.TaskGroup() as faults,
        ):
            faults.create_task(inject_network_faults(client_proxy, workload.random, seconds=3.5, rate=50.0))
            faults.create_task(inject_network_faults(publisher_proxy, workload.random, seconds=3.5, rate=3.0))
        verdict = await workload.verdict(node, CHANNELS, tmp_path)
        assert sum(client.close_codes.total() for client in workload.clients) > 10, (
            "too few connections were cut to test anything"
        )
        assert not verdict.notices, "history has everything that any client missed"


async def test_slow_clients_get_notices_and_others_are_not_affected(tmp_path: Path, seed: int) -> None:
    channels = {policy: [f"{policy}:{number}" for number in range(4)] for policy in POLICIES}
    del channels["short"][1:]
    every = [channel for own in channels.values() for channel in own]
    async with (
        NodeProcess.open(tmp_path, SLOW_CLIENT_CONFIG, **SMALL_BUFFERS) as node,
        Proxy.open(node.public) as fast_proxy,
        Proxy.open(node.public, buffer_bytes=8 * 1024) as slow_proxy,
        Workload.open(seed) as workload,
    ):
        fast = await workload.add_clients(
            "fast", [fast_proxy.port], every, count=50, channels_each=CHANNELS_PER_CLIENT
        )
        slow = [
            client
            for policy, own in channels.items()
            for client in await workload.add_clients(
                policy, [slow_proxy.port], own, count=2, channels_each=len(own)
            )
        ]
        slow_proxy.impair(down=LinkConditions(bytes_per_second=4_000))
        # A third goes to the short history: clients must miss more there than the hub itself caches.
        weighted = every + channels["short"] * 7
        async with workload.publishing([node.internal], weighted, size=4_000, rate=130):
            await wait_for_overflows(node, channels["short"])
        positions = await node.newest_positions(every)
        await workload.wait_for_positions(positions, fast)
        assert not any(client.has_reached(positions) for client in slow), (
            "the slow clients must be behind at this point"
        )
        slow_proxy.impair(down=UNIMPAIRED)
        verdict = await workload.verdict(node, every, tmp_path)
    notices = {(notice.client.partition("-")[0], notice.reason) for notice in verdict.notices}
    # Disconnected clients may have missed more than one reply holds.
    notices.discard(("disconnect", "recovered: false"))
    assert notices == {("short", "trimmed"), ("conflate", "overflow"), ("drop_oldest", "overflow")}


async def wait_for_overflows(node: NodeProcess, short: Sequence[str]) -> None:
    """Wait until every `on_slow` policy was applied, and slow clients are far behind in *short*."""
    names = [f"outbox_dropped_{policy}_total" for policy in ("catch_up", "conflate", "drop_oldest")]
    names.append('hub_closed_total{code="4006"}')
    async with asyncio.timeout(TIMEOUT_SECONDS):
        metrics: Mapping[str, float] = {}
        published = 0
        while published < BEYOND_ALL_BUFFERS or not all(metrics.get(name) for name in names):
            await asyncio.sleep(0.1)
            metrics = await node.process.metrics()
            published = min(map(offset, (await node.newest_positions(short)).values()))


async def test_drain_and_restart_give_every_client_one_notice_per_channel(tmp_path: Path, seed: int) -> None:
    await check_restart(tmp_path, seed, NodeProcess.drain)


async def test_kill_and_restart_give_every_client_one_notice_per_channel(tmp_path: Path, seed: int) -> None:
    await check_restart(tmp_path, seed, NodeProcess.kill)


async def check_restart(home: Path, seed: int, end: Callable[[NodeProcess], Awaitable[None]]) -> None:
    """The memory broker's history ends with its process: the next process knows no position of it."""
    async with (
        NodeProcess.open(home, LONG_HISTORY) as node,
        Proxy.open(node.public) as proxy,
        Workload.open(seed) as workload,
    ):
        await workload.add_clients(
            "k", [proxy.port], CHANNELS, count=CLIENTS, channels_each=CHANNELS_PER_CLIENT
        )
        async with workload.publishing([node.internal], CHANNELS):
            await asyncio.sleep(1.2)
            await end(node)
            workload.history.record(HistoryReset())
            await node.start()
            await workload.wait_for_positions({})
            await asyncio.sleep(1.2)
        verdict = await workload.verdict(node, CHANNELS, home)
        pairs = {(client.name, channel) for client in workload.clients for channel in client.channels}
        assert Counter(verdict.notices) == Counter(LossNotice(*pair, "recovered: false") for pair in pairs)


async def test_paused_gateway_continues_without_a_loss(tmp_path: Path, seed: int) -> None:
    """Some clients wait, others reconnect; their handshakes that were waiting meanwhile are obsolete then."""
    quick_to_give_up = ClientPolicy(BackoffBounds(0.02, 0.3), idle_seconds=0.2, reply_seconds=0.3)
    async with (
        NodeProcess.open(tmp_path, LONG_HISTORY) as node,
        Proxy.open(node.public) as proxy,
        Workload.open(seed) as workload,
    ):
        await workload.add_clients(
            "waiting", [proxy.port], CHANNELS, count=CLIENTS // 2, channels_each=CHANNELS_PER_CLIENT
        )
        await workload.add_clients(
            "quick",
            [proxy.port],
            CHANNELS,
            count=CLIENTS // 2,
            channels_each=CHANNELS_PER_CLIENT,
            policy=quick_to_give_up,
        )
        async with workload.publishing([node.internal], CHANNELS, timeout_seconds=0.5):
            await asyncio.sleep(1.0)
            async with node.paused():
                await asyncio.sleep(2.0)
            await asyncio.sleep(1.0)
        verdict = await workload.verdict(node, CHANNELS, tmp_path)
        assert not verdict.notices
        assert verdict.published["unknown"], "a publisher must have given up"
        assert all(client.name.startswith("quick") == bool(client.close_codes) for client in workload.clients)
