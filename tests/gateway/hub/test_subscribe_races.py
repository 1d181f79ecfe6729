"""Subscribing while others publish, the loop's callbacks in any order: history, then live, as it was said.

FANWAY_SEEDS in the environment is how many orders are tried.
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
    """As a broker of many nodes: who has been unrouted is given nothing more of what waits."""

    async def _unroute(self, channel: str) -> None:
        await super()._unroute(channel)
        self._undelivered = [
            each
            for each in self._undelivered
            if not (isinstance(each, Delivery) and each.message.channel == channel)
        ]


class Talk:
    """Some publish, some come and go, and the broker's answers and messages come whenever they please."""

    def __init__(self, node: Node, broker: GatedBroker, chance: Random) -> None:
        self.node = node
        self.broker = broker
        self.chance = chance
        self.ids: dict[str, list[MessageId]] = {name: [] for name in CHANNELS}
        self.resumed = 0

    async def happens(self) -> None:
        publishers = [self.publish() for _ in range(2)]
        subscribers = [self.come_and_go(client) for client in [await self.connected() for _ in range(4)]]
        talking = asyncio.gather(*publishers, *subscribers)
        while not talking.done():
            self.let_through()
            await asyncio.sleep(0)
        await talking

    async def connected(self) -> Client:
        return await self.node.connect()

    def let_through(self) -> None:
        """Let an answer or a message come, or not."""
        gates = self.broker.gates
        if gates and self.chance.random() < 0.5:
            self.broker.open(self.chance.choice(gates))
        if self.broker.undelivered and self.chance.random() < 0.5:
            self.broker.deliver_next(self.chance.randint(1, self.broker.undelivered))

    async def turns(self, most: int = 6) -> None:
        for _ in range(self.chance.randrange(most)):
            await asyncio.sleep(0)

    # ------------------------------------------------------------ who talks

    async def publish(self) -> None:
        for _ in range(self.chance.choice([5, 30, 150])):
            await self.turns()
            channel = self.chance.choice(CHANNELS)
            receipt = await self.broker.inner.publish(self.node.publication(channel, "x"))
            assert receipt.id is not None
            self.ids[channel].append(receipt.id)

    async def come_and_go(self, client: Client) -> None:
        """Follow a channel from now on, from the last messages on, or from some position; then no longer."""
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
        # The client has no other way to hear of it.
        while not client.replies(command.id):  # noqa: ASYNC110
            await asyncio.sleep(0)
        return client.reply(command.id)

    # ------------------------------------------------------------ what they heard

    def check(self, client: Client, reply: Subscribed, since: MessageId | None) -> None:
        """Judge what came between *reply* and the end of the subscription, which has just come."""
        start = client.transport.messages.index(reply)
        pushed = of(client.transport.messages[start:], reply.channel)
        assert reply.position is not None
        self.one_run(reply.channel, [reply.position, *pushed])
        shown = of(reply.messages, reply.channel)
        if since is not None:
            assert reply.recovered
            self.one_run(reply.channel, [since, *shown, *pushed])
            assert [since, *shown][-1] == reply.position
            self.resumed += 1
        elif shown:
            self.one_run(reply.channel, [*shown, *pushed])

    def one_run(self, channel: str, heard: Sequence[MessageId]) -> None:
        """Fail where *heard* has a hole, or says something twice or in another order."""
        for earlier, later in pairwise(heard):
            assert later.follows(earlier), f"{channel}: {later} after {earlier}"
        said = {*self.ids[channel]}
        assert all(each in said or each.offset == 0 for each in heard)


def of(messages: Sequence[Any], channel: str) -> list[MessageId]:
    """The ids of the messages of *channel* among *messages*."""
    found = [each.message for each in messages if isinstance(each, Message) and each.channel == channel]
    return [each for each in found if each is not None]


def test_a_subscriber_gets_history_and_then_every_message_while_others_publish() -> None:
    resumed = 0

    async def scenario(chance: Random) -> None:
        nonlocal resumed
        broker = OneInbox(lag=chance.random() < 0.7, only=frozenset({"subscribe", "read", "unsubscribe"}))
        async with running_node(broker=broker, rules=LONG) as node:
            talk = Talk(node, broker, chance)
            await talk.happens()
            await broker.pass_all()
            for client in node.clients:
                client.disconnect()
            await broker.pass_all()
            resumed += talk.resumed

    run_shuffled(SEEDS, scenario)
    assert resumed > SEEDS
