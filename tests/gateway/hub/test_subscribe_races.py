"""Subscribing while others publish, with callbacks in any order: history, then live, as published.

The environment variable FANWAY_SEEDS says how many orders are tried.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from random import Random
from typing import Any

from gateway.broker.base import Delivery
from protocol.messages import Message, Subscribe, Subscribed, Unsubscribe
from protocol.position import MessageId
from tests.gateway.hub.interleavings import GatedBroker
from tests.gateway.node import RULES, Client, Node, running_node
from tests.gateway.shuffled_loop import run_shuffled

SEEDS = int(os.environ.get("FANWAY_SEEDS", "60"))
CHANNELS = ["h:a", "h:b"]
LONG = {**RULES, "h": replace(RULES["h"], history=100_000)}


class OneInbox(GatedBroker):
    """Like a broker of many nodes: after an unsubscribe, deliveries of that channel are discarded."""

    async def _unroute(self, channel: str) -> None:
        await super()._unroute(channel)
        self._undelivered = [
            each
            for each in self._undelivered
            if not (isinstance(each, Delivery) and each.message.channel == channel)
        ]


class RandomScenario:
    """Publishers and subscribers at the same time; responses and deliveries come at random times."""

    def __init__(self, node: Node, broker: GatedBroker, chance: Random) -> None:
        self.node = node
        self.broker = broker
        self.chance = chance
        self.ids: dict[str, list[MessageId]] = {name: [] for name in CHANNELS}
        self.resumed = 0

    async def run(self) -> None:
        publishers = [self.publish() for _ in range(2)]
        subscribers = [
            self.subscribe_and_unsubscribe(client) for client in [await self.connected() for _ in range(4)]
        ]
        clients = asyncio.gather(*publishers, *subscribers)
        while not clients.done():
            self.open_or_deliver()
            await asyncio.sleep(0)
        await clients

    async def connected(self) -> Client:
        return await self.node.connect()

    def open_or_deliver(self) -> None:
        """Open a gate and deliver messages, each with a probability of a half."""
        gates = self.broker.gates
        if gates and self.chance.random() < 0.5:
            self.broker.open(self.chance.choice(gates))
        if self.broker.undelivered and self.chance.random() < 0.5:
            self.broker.deliver_next(self.chance.randint(1, self.broker.undelivered))

    async def turns(self, most: int = 6) -> None:
        for _ in range(self.chance.randrange(most)):
            await asyncio.sleep(0)

    # ------------------------------------------------------------ publishers and subscribers

    async def publish(self) -> None:
        for _ in range(self.chance.choice([5, 30, 150])):
            await self.turns()
            channel = self.chance.choice(CHANNELS)
            receipt = await self.broker.inner.publish(self.node.publication(channel, "x"))
            assert receipt.id is not None
            self.ids[channel].append(receipt.id)

    async def subscribe_and_unsubscribe(self, client: Client) -> None:
        """Subscribe from now on, with the newest messages, or since a position; then unsubscribe; repeat."""
        for _ in range(4):
            await self.turns(20)
            channel, options = self.chance.choice(CHANNELS), dict[str, Any]()
            if self.ids[channel] and self.chance.random() < 0.6:
                options = {"since": self.chance.choice(self.ids[channel])}
            elif self.chance.random() < 0.5:
                options = {"rewind": 3}
            reply = await self.replied(client, Subscribe(client.next_id(), channel, **options))
            assert isinstance(reply, Subscribed), reply
            await self.turns(40)
            await self.replied(client, Unsubscribe(client.next_id(), channel))
            self.check(client, reply, options.get("since"))

    async def replied(self, client: Client, command: Any) -> Any:
        client.send(command)
        # A client has no other way to learn of a reply.
        while not client.replies(command.id):  # noqa: ASYNC110
            await asyncio.sleep(0)
        return client.reply(command.id)

    # ------------------------------------------------------------ what they received

    def check(self, client: Client, reply: Subscribed, since: MessageId | None) -> None:
        """Check what was received from *reply* to the end of the subscription, just confirmed."""
        start = client.transport.messages.index(reply)
        pushed = of(client.transport.messages[start:], reply.channel)
        assert reply.position is not None
        self.assert_consecutive(reply.channel, [reply.position, *pushed])
        replayed = of(reply.messages, reply.channel)
        if since is not None:
            assert reply.recovered
            self.assert_consecutive(reply.channel, [since, *replayed, *pushed])
            assert [since, *replayed][-1] == reply.position
            self.resumed += 1
        elif replayed:
            self.assert_consecutive(reply.channel, [*replayed, *pushed])

    def assert_consecutive(self, channel: str, received: Sequence[MessageId]) -> None:
        """Fail where *received* has a hole, a duplicate or another order."""
        for earlier, later in pairwise(received):
            assert later.follows(earlier), f"{channel}: {later} after {earlier}"
        published = {*self.ids[channel]}
        assert all(each in published or each.offset == 0 for each in received)


def of(messages: Sequence[Any], channel: str) -> list[MessageId]:
    """Return the ids of the messages of *channel* among *messages*."""
    found = [each.message for each in messages if isinstance(each, Message) and each.channel == channel]
    return [each for each in found if each is not None]


def test_a_subscriber_gets_history_and_then_every_message_while_others_publish() -> None:
    resumed = 0

    async def scenario(chance: Random) -> None:
        nonlocal resumed
        broker = OneInbox(lag=chance.random() < 0.7, only=frozenset({"subscribe", "read", "unsubscribe"}))
        async with running_node(broker=broker, rules=LONG) as node:
            scenario_run = RandomScenario(node, broker, chance)
            await scenario_run.run()
            await broker.pass_all()
            for client in node.clients:
                client.disconnect()
            await broker.pass_all()
            resumed += scenario_run.resumed

    run_shuffled(SEEDS, scenario)
    assert resumed > SEEDS
