"""Clients that connect, disconnect, stall and resume: each receives what its subscriptions promise."""

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
CLIENTS = 3

STEPS = st.one_of(
    *(st.tuples(st.just("publish"), st.sampled_from(CHANNELS), st.integers(1, 9)) for _ in range(5)),
    st.tuples(st.just("publish much"), st.sampled_from(CHANNELS), st.integers(15, 70)),
    *(
        st.tuples(st.just(what), st.integers(0, CLIENTS - 1), st.sampled_from(CHANNELS))
        for what in (
            *["connect"] * 4,
            "disconnect",
            "disconnect",
            *["fill"] * 3,
            "drain",
            "unsubscribe",
            "subscribe",
            "rewind",
        )
    ),
    st.tuples(st.sampled_from(["sweep", "clear"]), st.sampled_from(CHANNELS), st.just(0)),
    st.tuples(st.just("wait"), st.sampled_from([1.0, 30.0, 70.0, 200.0]), st.just(0)),
)


@dataclass
class Published:
    """How many messages one channel has had, and how many of them each of its positions comes after."""

    count: int = 0
    positions: dict[MessageId, int] = field(default_factory=dict)


class Model:
    """A node, its channels, and the clients that connect to it."""

    def __init__(self, node: Node, broker: MemoryBroker) -> None:
        self.node = node
        self.broker = broker
        self.channels = {name: Published() for name in CHANNELS}
        self.clients = [ResumingClient(self, number) for number in range(CLIENTS)]

    async def do(self, step: str, first: Any, second: Any) -> None:
        if step.startswith("publish"):
            for _ in range(second):
                await self.publish(first)
        elif step == "sweep":
            self.broker.sweep()
        elif step == "clear":
            await self.broker.clear(first)
        elif step == "wait":
            await advance(first)
        else:
            await self.clients[first].do(step, second)
        await until_idle()
        await self.record_positions()
        for client in self.clients:
            client.check_received()

    async def record_positions(self) -> None:
        """Record the position of each channel: a history that expired starts at a new one."""
        for name, published in self.channels.items():
            published.positions.setdefault((await self.broker.read(name)).position, published.count)

    async def publish(self, channel: str) -> None:
        published = self.channels[channel]
        receipt = await self.node.publish(channel, [published.count, "x" * 100])
        published.count += 1
        assert receipt.id is not None
        published.positions[receipt.id] = published.count


class ResumingClient:
    """One client over all its connections: the position that it has reached in each channel."""

    def __init__(self, model: Model, number: int) -> None:
        self.model = model
        self.codec = MSGPACK if number else JSON
        self.connection: Client | None = None
        self.reached: dict[str, MessageId] = {}
        self.subscribed_to: set[str] = set()

    async def do(self, step: str, channel: str) -> None:
        if step == "connect" and self.connection is None:
            await self.connect()
        elif self.connection is not None and self.connection.transport.is_open:
            self.act(self.connection, step, channel)

    async def connect(self) -> None:
        client = self.connection = self.model.node.open(self.codec)
        subs = {channel: Resume(since=position) for channel, position in self.reached.items()}
        reply = await client.connect(Connect(1, subs=subs))
        first, *pushed = client.transport.read()
        assert first == reply
        self.connected(reply)
        self.check(pushed)

    def act(self, client: Client, step: str, channel: str) -> None:
        if step == "disconnect":
            client.disconnect()
            self.connection = None
            self.subscribed_to.clear()
        elif step == "fill":
            client.transport.fill()
        elif step == "drain":
            client.transport.drain()
        elif step == "subscribe" and channel not in self.subscribed_to:
            client.send(Subscribe(client.next_id(), channel, since=self.reached.get(channel)))
        elif step == "unsubscribe" and channel in self.subscribed_to:
            client.send(Unsubscribe(client.next_id(), channel))
        elif step == "rewind" and channel not in self.subscribed_to:
            self.reached.pop(channel, None)
            client.send(Subscribe(client.next_id(), channel, rewind=5))

    # ------------------------------------------------------------ what it receives

    def check_received(self) -> None:
        """Check everything received since the last call."""
        self.check(self.connection.transport.read() if self.connection is not None else ())

    def check(self, messages: Iterable[ServerMessage]) -> None:
        for message in messages:
            if isinstance(message, Subscribed):
                self.subscribed(message)
            elif isinstance(message, Message):
                self.received(message)
            elif isinstance(message, Gap):
                assert message.position is not None
                assert self.number(message.channel, message.position) >= self.reached_number(message.channel)
                self.reached[message.channel] = message.position
            elif message.type == "unsubscribed":
                self.subscribed_to.discard(message.channel)  # type: ignore[union-attr]

    def connected(self, reply: Connected) -> None:
        assert set(reply.subs) == set(self.reached)
        for sub in reply.subs.values():
            assert isinstance(sub, Subscribed)
            self.subscribed(sub)

    def subscribed(self, reply: Subscribed) -> None:
        channel = reply.channel
        self.subscribed_to.add(channel)
        assert reply.position is not None
        if reply.recovered:
            for message in reply.messages:
                self.received(message)
            assert self.number(channel, reply.position) == self.reached_number(channel)
        elif channel in self.reached:
            assert list(reply.messages) == []
        else:
            numbers = [message.data.value[0] for message in reply.messages]
            last = self.number(channel, reply.position)
            assert numbers == list(range(last - len(numbers), last))
        self.reached[channel] = reply.position

    def received(self, message: Message) -> None:
        assert message.message is not None
        assert message.data.value[0] == self.reached_number(message.channel), (
            "the next message, neither an earlier nor a later one"
        )
        self.reached[message.channel] = message.message

    def reached_number(self, channel: str) -> int:
        """Return how many messages of *channel* this client has received, or knows of by a gap."""
        return self.number(channel, self.reached[channel])

    def number(self, channel: str, position: MessageId) -> int:
        return self.model.channels[channel].positions[position]


@settings(no_deadline, max_examples=60)
@given(st.lists(STEPS, min_size=20, max_size=60))
def test_every_client_received_what_its_subscriptions_promise(steps: list[tuple[str, Any, Any]]) -> None:
    on_virtual_time(check_every_client)(steps)


async def check_every_client(steps: list[tuple[str, Any, Any]]) -> None:
    rules = {
        name: replace(each, history=each.history and HISTORY, history_ttl=TTL) for name, each in RULES.items()
    }
    broker = memory_broker(meta_ttl=META_TTL)
    limits = SessionLimits(outbox=4_000, catch_up_batch=3, connect_timeout=1e9)
    async with running_node(broker=broker, rules=rules, limits=limits, interval=20_000.0) as node:
        model = Model(node, broker)
        await model.record_positions()
        for number in range(CLIENTS):
            await model.do("connect", number, "")
            for channel in CHANNELS:
                await model.do("subscribe", number, channel)
        for step in steps:
            await model.do(*step)
        for client in model.clients:
            if client.connection is not None and client.connection.transport.is_open:
                client.connection.transport.drain()
                await until_idle()
                client.check_received()
                for channel in client.subscribed_to:
                    assert client.reached_number(channel) == model.channels[channel].count, (
                        "no message is missing"
                    )
