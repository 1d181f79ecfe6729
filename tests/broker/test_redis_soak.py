"""Random faults for some seconds: afterwards every node has received every message of the history, once."""

import asyncio
import contextlib
import random
from pathlib import Path

import pytest

from gateway.broker.base import Delivery, Envelope, Retention
from gateway.errors import GatewayError
from protocol.messages import Gap, Join, Leave, Member
from protocol.position import MessageId
from tests.broker.recording_node import publication, values
from tests.broker.redis_fleet import Fleet, RunningNode, eventually
from tests.broker.redis_proxy import Proxy
from tests.broker.redis_server import DURABLE, RedisServer, running_redis

LONG = Retention(100_000, 600.0)
CHANNELS = [f"c{n}" for n in range(6)]
FAULTS = 10
LEASE = 0.6
"""Seconds: faults are shorter, and longer."""


class Publishers:
    """Publish to any channel by any node until `stopped`; record what was acknowledged."""

    def __init__(self, nodes: list[RunningNode], chance: random.Random) -> None:
        self._nodes = nodes
        self._chance = chance
        self.stopped = False
        self.acknowledged: dict[str, tuple[str, MessageId | None]] = {}

    async def run(self, name: int) -> None:
        number = 0
        while not self.stopped:
            number += 1
            value = f"{name}-{number}"
            channel, node = self._chance.choice(CHANNELS), self._chance.choice(self._nodes)
            key = value if self._chance.random() < 0.5 else None
            try:
                receipt = await node.broker.publish(publication(channel, value, retention=LONG, key=key))
                self.acknowledged[value] = (channel, receipt.id)
            except GatewayError:
                await asyncio.sleep(0.01)


async def fault(kind: str, chance: random.Random, server: RedisServer, proxies: list[Proxy]) -> None:
    """Let something go wrong, and be well again."""
    proxy = chance.choice(proxies)
    if kind == "kill":
        server.kill()
        await asyncio.sleep(chance.random() * 0.5)
        server.start()
    elif kind == "hold":
        proxy.hold()
        await asyncio.sleep(chance.random() * 1.5)
        if chance.random() < 0.3:
            proxy.cut()
        proxy.release()
    elif kind == "cut":
        proxy.cut()
    else:
        server.execute("SCRIPT", "FLUSH")


def received_ids(node: RunningNode, channel: str) -> list[MessageId | None]:
    """The ids that *node* was given in *channel*, in order."""
    return [
        each.message.message
        for each in node.node.envelopes
        if isinstance(each, Delivery) and each.message.channel == channel
    ]


def last_presence_envelopes(envelopes: list[Envelope], channel: str) -> dict[str, type]:
    """Return whether each member of *channel* joined or left last; none may leave twice in a row."""
    last: dict[str, type] = {}
    for each in envelopes:
        if isinstance(each, (Join, Leave)) and each.channel == channel:
            connection = each.member.connection
            assert not (isinstance(each, Leave) and last.get(connection) is Leave), each
            last[connection] = type(each)
    return last


async def count_members(node: RunningNode, channel: str) -> int:
    with contextlib.suppress(GatewayError):
        return (await node.broker.presence(channel)).connections
    return 0


@pytest.mark.parametrize("seed", [1, 2])
async def test_no_message_is_lost_doubled_or_reordered_by_random_faults(seed: int, tmp_path: Path) -> None:
    chance = random.Random(seed)
    with running_redis(tmp_path, *DURABLE) as server:
        async with Proxy(server.port) as near, Proxy(server.port) as far, Fleet(server.url) as fleet:
            nodes = [await fleet.launch(*urls, lease=LEASE) for urls in ([near.url], [far.url], [])]
            for node in nodes:
                for channel in CHANNELS:
                    await node.broker.subscribe(channel, LONG)
                    await node.broker.join(channel, Member(node.node.name, "ann"))
            publishers = Publishers(nodes, chance)
            running = [asyncio.ensure_future(publishers.run(name)) for name in range(4)]
            for _ in range(FAULTS):
                await asyncio.sleep(chance.random() * 0.3)
                await fault(
                    chance.choice(["kill", "hold", "hold", "cut", "flush"]), chance, server, [near, far]
                )
            publishers.stopped = True
            await asyncio.gather(*running)
            for node in nodes:
                await eventually(node.broker.ready)
            for channel in CHANNELS:
                await check(channel, nodes, publishers)
            assert publishers.acknowledged


async def check(channel: str, nodes: list[RunningNode], publishers: Publishers) -> None:
    history = await nodes[2].broker.read(channel)
    ids = [message.message for message in history.messages]
    assert [id and id.offset for id in ids] == list(range(1, len(ids) + 1))
    stored_values = values(history.messages)
    assert len(set(stored_values)) == len(stored_values), "no message twice, although publishes are retried"
    kept = dict(zip(stored_values, ids, strict=True))
    for value, (where, id) in publishers.acknowledged.items():
        assert where != channel or kept[value] == id, "what was acknowledged is there"
    everybody = [node.node.name for node in nodes]
    for node in nodes:
        await check_node(node, channel, ids, everybody)


async def check_node(
    node: RunningNode, channel: str, ids: list[MessageId | None], everybody: list[str]
) -> None:
    await eventually(lambda: received_ids(node, channel)[-1:] == ids[-1:])
    assert received_ids(node, channel) == ids
    assert not any(isinstance(each, Gap) for each in node.node.envelopes)

    async def complete() -> bool:
        return await count_members(node, channel) == len(everybody)

    await eventually(complete)
    if node.broker.statistics()["incarnations"] == 1:
        # Who slept through its lease has missed comings and goings, which no history keeps.
        await eventually(lambda: Leave not in last_presence_envelopes(node.node.envelopes, channel).values())
