"""One gateway under everything that a network, an operator and a kernel do to it: nothing is lost silently.

CHAOS_SEED repeats the chances of a run; what the machine does meanwhile is its own.
"""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from random import Random

from tests.chaos.client_policy import Habits
from tests.chaos.fleet import Fleet
from tests.chaos.flow import CLEAR, Line
from tests.chaos.history import Reset, offset
from tests.chaos.network_faults import storm
from tests.chaos.node import Node
from tests.chaos.proxy import Proxy
from tests.chaos.verdict import Told
from tests.e2e.wire import PATIENCE

CHANNELS = [f"c{number}" for number in range(20)]
CLIENTS, EACH = 60, 5

KEEPS_ALL = """
[channels.default]
subscribe = "anyone"
history = 2000
"""

POLICIES = {"catch_up": 2000, "short": 5, "conflate": 2000, "drop_oldest": 2000, "disconnect": 2000}
"""Namespaces for slow clients, each with what it keeps."""

SLOW = "\n".join(
    f"[channels.{name}]\nsubscribe = 'anyone'\nhistory = {history}\n"
    f"on_slow = '{'catch_up' if name == 'short' else name}'"
    for name, history in POLICIES.items()
)

FAR = 100
"""Messages that are more than a hub remembers of a channel and all buffers on the way to a client hold."""

SMALL_BUFFERS = {
    "LISTEN__PUBLIC__SEND_BUFFER": "8KiB",
    "LIMITS__MESSAGE_SIZE": "16KiB",
    "OUTBOX__SIZE": "32KiB",
    "OUTBOX__HIGH_WATER": "8KiB",
    "OUTBOX__LOW_WATER": "2KiB",
}
"""Slow clients show early."""


async def test_a_bad_network_costs_nobody_a_message(tmp_path: Path, seed: int) -> None:
    habits = Habits(first=0.02, longest=0.3, silence=0.4, answer=0.8)
    async with (
        Node.open(tmp_path, KEEPS_ALL) as node,
        Proxy.open(node.public, random=Random(seed)) as to_clients,
        Proxy.open(node.internal, random=Random(seed)) as to_backends,
        Fleet.launch(seed) as fleet,
    ):
        await fleet.join("k", [to_clients.port], CHANNELS, count=CLIENTS, each=EACH, habits=habits)
        async with (
            fleet.publishing([to_backends.port], CHANNELS, timeout=1.0),
            asyncio.TaskGroup() as storms,
        ):
            storms.create_task(storm(to_clients, fleet.random, seconds=3.5, rate=50.0))
            storms.create_task(storm(to_backends, fleet.random, seconds=3.5, rate=3.0))
        verdict = await fleet.verdict(node, CHANNELS, tmp_path)
        assert sum(client.ends.total() for client in fleet.clients) > 10, "that was no storm"
        assert not verdict.told, "history has everything that anybody missed"


async def test_who_reads_slowly_hurts_nobody_else_and_is_told_the_price(tmp_path: Path, seed: int) -> None:
    channels = {policy: [f"{policy}:{number}" for number in range(4)] for policy in POLICIES}
    del channels["short"][1:]
    every = [channel for own in channels.values() for channel in own]
    async with (
        Node.open(tmp_path, SLOW, **SMALL_BUFFERS) as node,
        Proxy.open(node.public) as fast_line,
        Proxy.open(node.public, buffer=8 * 1024) as slow_line,
        Fleet.launch(seed) as fleet,
    ):
        fast = await fleet.join("fast", [fast_line.port], every, count=50, each=EACH)
        slow = [
            client
            for policy, own in channels.items()
            for client in await fleet.join(policy, [slow_line.port], own, count=2, each=len(own))
        ]
        slow_line.shape(down=Line(rate=4_000))
        # A third of all goes where little is kept: more must be missed there than the hub itself remembers.
        spread = every + channels["short"] * 7
        async with fleet.publishing([node.internal], spread, size=4_000, rate=130):
            await overwhelmed(node, channels["short"])
        positions = await node.newest(every)
        await fleet.reach(positions, fast)
        assert not any(client.has_reached(positions) for client in slow), "these were to be slow"
        slow_line.shape(down=CLEAR)
        verdict = await fleet.verdict(node, every, tmp_path)
    told = {(told.client.partition("-")[0], told.how) for told in verdict.told}
    # Who was disconnected may have missed more than one reply brings.
    told.discard(("disconnect", "recovered: false"))
    assert told == {("short", "trimmed"), ("conflate", "overflow"), ("drop_oldest", "overflow")}


async def overwhelmed(node: Node, short: Sequence[str]) -> None:
    """Wait until every policy had something to do about slow clients, and *short* is far ahead of them."""
    signs = [f"outbox_dropped_{policy}_total" for policy in ("catch_up", "conflate", "drop_oldest")]
    signs.append('hub_closed_total{code="4006"}')
    async with asyncio.timeout(PATIENCE):
        figures: Mapping[str, float] = {}
        furthest = 0
        while furthest < FAR or not all(figures.get(sign) for sign in signs):
            await asyncio.sleep(0.1)
            figures = await node.served.figures()
            furthest = min(map(offset, (await node.newest(short)).values()))


async def test_a_drain_and_a_restart_are_told_to_everybody_once(tmp_path: Path, seed: int) -> None:
    await restarted(tmp_path, seed, Node.drain)


async def test_a_kill_and_a_restart_are_told_to_everybody_once(tmp_path: Path, seed: int) -> None:
    await restarted(tmp_path, seed, Node.kill)


async def restarted(home: Path, seed: int, end: Callable[[Node], Awaitable[None]]) -> None:
    """The memory broker's history ends with its process: a new one knows no position of the old one."""
    async with (
        Node.open(home, KEEPS_ALL) as node,
        Proxy.open(node.public) as network,
        Fleet.launch(seed) as fleet,
    ):
        await fleet.join("k", [network.port], CHANNELS, count=CLIENTS, each=EACH)
        async with fleet.publishing([node.internal], CHANNELS):
            await asyncio.sleep(1.2)
            await end(node)
            fleet.history.record(Reset())
            await node.start()
            await fleet.reach({})
            await asyncio.sleep(1.2)
        verdict = await fleet.verdict(node, CHANNELS, home)
        pairs = {(client.name, channel) for client in fleet.clients for channel in client.channels}
        assert Counter(verdict.told) == Counter(Told(*pair, "recovered: false") for pair in pairs)


async def test_a_gateway_that_stood_still_goes_on_as_if_nothing_was(tmp_path: Path, seed: int) -> None:
    """Some clients wait, others take it for dead and come again; what they asked meanwhile is stale then."""
    hasty = Habits(first=0.02, longest=0.3, silence=0.2, answer=0.3)
    async with (
        Node.open(tmp_path, KEEPS_ALL) as node,
        Proxy.open(node.public) as network,
        Fleet.launch(seed) as fleet,
    ):
        await fleet.join("patient", [network.port], CHANNELS, count=CLIENTS // 2, each=EACH)
        await fleet.join("hasty", [network.port], CHANNELS, count=CLIENTS // 2, each=EACH, habits=hasty)
        async with fleet.publishing([node.internal], CHANNELS, timeout=0.5):
            await asyncio.sleep(1.0)
            async with node.stopped():
                await asyncio.sleep(2.0)
            await asyncio.sleep(1.0)
        verdict = await fleet.verdict(node, CHANNELS, tmp_path)
        assert not verdict.told
        assert verdict.published["unknown"], "somebody must have given up"
        assert all(client.name.startswith("hasty") == bool(client.ends) for client in fleet.clients)
