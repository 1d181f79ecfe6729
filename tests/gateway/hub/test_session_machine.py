"""Clients that come, go, stall and resume: what each one heard adds up, whatever happened in between."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.broker.memory.broker import MemoryBroker
from gateway.hub.services import SessionLimits
from protocol.codec import JSON, MSGPACK
from protocol.messages import (
    Connect,
    Connected,
    Gap,
    Message,
    Resume,
    ServerMessage,
    Subscribe,
    Subscribed,
    Unsubscribe,
)
from protocol.position import MessageId
from tests.gateway.node import RULES, Client, Node, memory_broker, running_node
from tests.gateway.virtual_time import advance, no_deadline, on_virtual_time, until_idle

CHANNELS = ["h:a", "h:b", "dropping:c", "newest:d"]
HISTORY, TTL, META_TTL = 12, 60.0, 100.0
TRAVELLERS = 3

STEPS = st.one_of(
    *(st.tuples(st.just("say"), st.sampled_from(CHANNELS), st.integers(1, 9)) for _ in range(5)),
    st.tuples(st.just("say much"), st.sampled_from(CHANNELS), st.integers(15, 70)),
    *(
        st.tuples(st.just(what), st.integers(0, TRAVELLERS - 1), st.sampled_from(CHANNELS))
        for what in (
            *["come"] * 4,
            "go",
            "go",
            *["fill"] * 3,
            "drain",
            "stop following",
            "follow",
            "look back",
        )
    ),
    st.tuples(st.sampled_from(["sweep", "clear"]), st.sampled_from(CHANNELS), st.just(0)),
    st.tuples(st.just("wait"), st.sampled_from([1.0, 30.0, 70.0, 200.0]), st.just(0)),
)


@dataclass
class Spoken:
    """Everything that one channel ever said, and the positions that were given out."""

    count: int = 0
    positions: dict[MessageId, int] = field(default_factory=dict)


class World:
    """A node, its channels, and those who travel to and from it."""

    def __init__(self, node: Node, broker: MemoryBroker) -> None:
        self.node = node
        self.broker = broker
        self.channels = {name: Spoken() for name in CHANNELS}
        self.travellers = [Traveller(self, number) for number in range(TRAVELLERS)]

    async def do(self, step: str, first: Any, second: Any) -> None:
        if step.startswith("say"):
            for _ in range(second):
                await self.say(first)
        elif step == "sweep":
            self.broker.sweep()
        elif step == "clear":
            await self.broker.clear(first)
        elif step == "wait":
            await advance(first)
        else:
            await self.travellers[first].do(step, second)
        await until_idle()
        await self.note()
        for traveller in self.travellers:
            traveller.listen()

    async def note(self) -> None:
        """Note the positions at which channels stand: a history that was forgotten begins at a new one."""
        for name, spoken in self.channels.items():
            spoken.positions.setdefault((await self.broker.read(name)).position, spoken.count)

    async def say(self, channel: str) -> None:
        spoken = self.channels[channel]
        receipt = await self.node.publish(channel, [spoken.count, "x" * 100])
        spoken.count += 1
        assert receipt.id is not None
        spoken.positions[receipt.id] = spoken.count


class Traveller:
    """One client in all its connections: what it has heard of each channel, and up to where."""

    def __init__(self, world: World, number: int) -> None:
        self.world = world
        self.codec = MSGPACK if number else JSON
        self.client: Client | None = None
        self.reached: dict[str, MessageId] = {}
        self.following: set[str] = set()

    async def do(self, step: str, channel: str) -> None:
        if step == "come" and self.client is None:
            await self.come()
        elif self.client is not None and self.client.transport.is_open:
            self.act(self.client, step, channel)

    async def come(self) -> None:
        client = self.client = self.world.node.open(self.codec)
        subs = {channel: Resume(since=position) for channel, position in self.reached.items()}
        reply = await client.connect(Connect(1, subs=subs))
        first, *pushed = client.transport.read()
        assert first == reply
        self.connected(reply)
        self.take(pushed)

    def act(self, client: Client, step: str, channel: str) -> None:
        if step == "go":
            client.disconnect()
            self.client = None
            self.following.clear()
        elif step == "fill":
            client.transport.fill()
        elif step == "drain":
            client.transport.drain()
        elif step == "follow" and channel not in self.following:
            client.send(Subscribe(client.next_id(), channel, since=self.reached.get(channel)))
        elif step == "stop following" and channel in self.following:
            client.send(Unsubscribe(client.next_id(), channel))
        elif step == "look back" and channel not in self.following:
            self.reached.pop(channel, None)
            client.send(Subscribe(client.next_id(), channel, rewind=5))

    # ------------------------------------------------------------ what it hears

    def listen(self) -> None:
        """Hold everything that came against what was said."""
        self.take(self.client.transport.read() if self.client is not None else ())

    def take(self, messages: Iterable[ServerMessage]) -> None:
        for message in messages:
            if isinstance(message, Subscribed):
                self.subscribed(message)
            elif isinstance(message, Message):
                self.heard(message)
            elif isinstance(message, Gap):
                assert message.position is not None
                assert self.number(message.channel, message.position) >= self.upto(message.channel)
                self.reached[message.channel] = message.position
            elif message.type == "unsubscribed":
                self.following.discard(message.channel)  # type: ignore[union-attr]

    def connected(self, reply: Connected) -> None:
        assert set(reply.subs) == set(self.reached)
        for sub in reply.subs.values():
            assert isinstance(sub, Subscribed)
            self.subscribed(sub)

    def subscribed(self, reply: Subscribed) -> None:
        channel = reply.channel
        self.following.add(channel)
        assert reply.position is not None
        if reply.recovered:
            for message in reply.messages:
                self.heard(message)
            assert self.number(channel, reply.position) == self.upto(channel)
        elif channel in self.reached:
            assert list(reply.messages) == []
        else:
            numbers = [message.data.value[0] for message in reply.messages]
            last = self.number(channel, reply.position)
            assert numbers == list(range(last - len(numbers), last))
        self.reached[channel] = reply.position

    def heard(self, message: Message) -> None:
        assert message.message is not None
        assert message.data.value[0] == self.upto(message.channel), "the next one, neither earlier nor later"
        self.reached[message.channel] = message.message

    def upto(self, channel: str) -> int:
        """Return how many messages of *channel* this traveller has heard or been told of."""
        return self.number(channel, self.reached[channel])

    def number(self, channel: str, position: MessageId) -> int:
        return self.world.channels[channel].positions[position]


@settings(no_deadline, max_examples=60)
@given(st.lists(STEPS, min_size=20, max_size=60))
def test_every_client_received_what_its_subscriptions_promise(steps: list[tuple[str, Any, Any]]) -> None:
    on_virtual_time(what_each_client_heard_adds_up)(steps)


async def what_each_client_heard_adds_up(steps: list[tuple[str, Any, Any]]) -> None:
    rules = {
        name: replace(each, history=each.history and HISTORY, history_ttl=TTL) for name, each in RULES.items()
    }
    broker = memory_broker(meta_ttl=META_TTL)
    limits = SessionLimits(outbox=4_000, catch_up_batch=3, connect_timeout=1e9)
    async with running_node(broker=broker, rules=rules, limits=limits, interval=20_000.0) as node:
        world = World(node, broker)
        await world.note()
        for number in range(TRAVELLERS):
            await world.do("come", number, "")
            for channel in CHANNELS:
                await world.do("follow", number, channel)
        for step in steps:
            await world.do(*step)
        for traveller in world.travellers:
            if traveller.client is not None and traveller.client.transport.is_open:
                traveller.client.transport.drain()
                await until_idle()
                traveller.listen()
                for channel in traveller.following:
                    assert traveller.upto(channel) == world.channels[channel].count, "and nothing is left out"
