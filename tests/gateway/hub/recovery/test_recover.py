"""History, then live: every subscriber gets every message once and in order, in every interleaving."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace
from functools import partial
from typing import Any

import pytest

from gateway.hub.services import SessionLimits
from protocol.codec import JSON, MSGPACK, Codec
from protocol.messages import Connect, Connected, Error, Gap, Resume, Subscribe, Subscribed
from protocol.position import MessageId
from tests.gateway.hub.interleavings import (
    Choices,
    GatedBroker,
    all_interleavings,
    random_interleavings,
    run_interleaved,
    unavailable,
)
from tests.gateway.node import RULES, Client, Node, running_node, values_of
from tests.gateway.virtual_time import on_virtual_time, until_idle

EARLIER = [1, 2, 3]
CACHED = 64


class PublishedChannel:
    """A channel of a node with a gated broker; it records what is published there."""

    def __init__(self, node: Node, broker: GatedBroker, channel: str = "h:a") -> None:
        self.node = node
        self.broker = broker
        self.channel = channel
        self.ids: list[MessageId] = []
        self.published: list[Any] = []

    async def publish(self, *values: Any) -> None:
        for value in values:
            receipt = await self.broker.inner.publish(self.node.publication(self.channel, value))
            assert receipt.id is not None
            self.ids.append(receipt.id)
            self.published.append(value)

    def to_publish(self, *values: Any) -> list[Callable[[], Awaitable[None]]]:
        return [partial(self.publish, value) for value in values]

    def after(self, position: MessageId | None) -> list[Any]:
        """Return everything published after *position*."""
        if position is None or position.offset == 0:
            return list(self.published)
        return self.published[self.ids.index(position) + 1 :]

    def check(self, client: Client, reply: Subscribed, *, since: MessageId | None = None) -> None:
        """Check everything that *client* received of the channel."""
        pushed = values_of(client.transport.messages, self.channel)
        assert pushed == self.after(reply.position), "every message after the position, once, in order"
        if since is not None and reply.recovered:
            assert values_of(reply.messages) + pushed == self.after(since)
        elif since is not None:
            assert list(reply.messages) == []


async def started(
    choices: Choices, client: Client, channel: PublishedChannel, command: Any, *actions: Any
) -> Any:
    client.send(command)
    await run_interleaved(channel.broker, choices, *actions)
    await channel.broker.pass_all()
    return client.reply(command.id)


WAYS = {
    "first on the node": 0,
    "beside another": 0,
    "beside another, long after": CACHED + 3,
}


@pytest.mark.parametrize("lag", [False, True], ids=["", "lag"])
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("since", [0, 2, 3])
@on_virtual_time
async def test_a_resume_interleaved_with_publishes_misses_nothing(way: str, since: int, lag: bool) -> None:
    for choices in all_interleavings():
        broker = GatedBroker(lag=lag)
        async with running_node(broker=broker) as node:
            channel = PublishedChannel(node, broker)
            beginning = (await broker.inner.read("h:a")).position
            await channel.publish(*EARLIER)
            other = await node.connect()
            if way != "first on the node":
                other.send(Subscribe(50, "h:a"))
                await broker.pass_all()
            await channel.publish(*range(10, 10 + WAYS[way]))
            await broker.pass_all()
            client = await node.connect()
            position = [beginning, *channel.ids][since]
            ask = Subscribe(60, "h:a", since=position)
            reply = await started(choices, client, channel, ask, *channel.to_publish("x", "y"))
            assert reply.recovered
            channel.check(client, reply, since=position)
            if way != "first on the node":
                channel.check(other, other.reply(50))
            await leave(node, broker)


async def leave(node: Node, broker: GatedBroker) -> None:
    """Disconnect all clients, and let the broker carry out what follows."""
    for client in node.clients:
        client.disconnect()
    await broker.pass_all()
    assert broker.routes == set()


@pytest.mark.parametrize("name", ["h:a", "hp:a"])
@pytest.mark.parametrize("lag", [False, True], ids=["", "lag"])
@on_virtual_time
async def test_a_plain_subscription_gets_every_message_after_its_position(name: str, lag: bool) -> None:
    for choices in all_interleavings():
        broker = GatedBroker(lag=lag)
        async with running_node(broker=broker) as node:
            channel = PublishedChannel(node, broker, name)
            await channel.publish(*EARLIER)
            client = await node.connect()
            ask = Subscribe(60, name)
            reply = await started(choices, client, channel, ask, *channel.to_publish("x", "y"))
            assert (list(reply.messages), reply.recovered) == ([], False)
            channel.check(client, reply)
            await leave(node, broker)


@pytest.mark.parametrize("rewind", [1, 2, 5])
@pytest.mark.parametrize("lag", [False, True], ids=["", "lag"])
@on_virtual_time
async def test_a_rewind_gets_the_newest_and_then_every_message(rewind: int, lag: bool) -> None:
    for choices in all_interleavings():
        broker = GatedBroker(lag=lag)
        async with running_node(broker=broker) as node:
            channel = PublishedChannel(node, broker)
            await channel.publish(*EARLIER)
            client = await node.connect()
            ask = Subscribe(60, "h:a", rewind=rewind)
            reply = await started(choices, client, channel, ask, *channel.to_publish("x", "y"))
            channel.check(client, reply)
            shown = values_of(reply.messages)
            until = channel.published[: len(channel.published) - len(channel.after(reply.position))]
            assert shown == until[len(until) - len(shown) :]
            assert len(shown) + len(client.values()) >= rewind, "some of the last may still be on their way"
            assert not reply.recovered
            await leave(node, broker)


@on_virtual_time
async def test_the_interleavings_are_many_and_all_different() -> None:
    seen = set()
    for choices in all_interleavings():
        broker = GatedBroker()
        async with running_node(broker=broker) as node:
            channel = PublishedChannel(node, broker)
            client = await node.connect()
            await started(choices, client, channel, Subscribe(60, "hp:a"), *channel.to_publish("x", "y"))
            assert broker.calls == ["subscribe", "join"]
            await leave(node, broker)
        seen.add(tuple(choices.taken))
    # Two publishes between or after the four steps of two calls.
    assert len(seen) == 15


@on_virtual_time
async def test_a_client_ahead_of_this_node_gets_no_message_twice() -> None:
    for choices in all_interleavings():
        broker = GatedBroker(lag=True)
        async with running_node(broker=broker) as node:
            channel = PublishedChannel(node, broker)
            other = await node.connect()
            other.send(Subscribe(50, "h:a"))
            await broker.pass_all()
            await channel.publish("p", "q", "r")
            assert broker.undelivered == 3
            client = await node.connect()
            ask = Subscribe(60, "h:a", since=channel.ids[1])
            reply = await started(choices, client, channel, ask, *channel.to_publish("x"))
            assert reply.recovered
            assert values_of(reply.messages) + client.values() == ["r", "x"]
            channel.check(client, reply, since=channel.ids[1])
            channel.check(other, other.reply(50))
            await leave(node, broker)


@pytest.mark.parametrize("burst", [CACHED - 1, CACHED, CACHED + 1, 2 * CACHED + 5])
@on_virtual_time
async def test_a_burst_while_the_broker_answers_is_not_missed(burst: int) -> None:
    for choices in all_interleavings():
        broker = GatedBroker()
        rules = {**RULES, "h": replace(RULES["h"], history=1_000)}
        async with running_node(broker=broker, rules=rules) as node:
            channel = PublishedChannel(node, broker)
            await channel.publish(*EARLIER)
            client = await node.connect()
            ask = Subscribe(60, "h:a", since=channel.ids[0])
            reply = await started(
                choices, client, channel, ask, partial(channel.publish, *range(10, 10 + burst))
            )
            assert reply.recovered
            channel.check(client, reply, since=channel.ids[0])
            await leave(node, broker)


@on_virtual_time
async def test_a_resume_overtaken_by_the_channel_is_completed_by_catch_up() -> None:
    broker = GatedBroker(only=frozenset({"read"}))
    rules = {**RULES, "h": replace(RULES["h"], history=10_000)}
    async with running_node(broker=broker, rules=rules) as node:
        channel = PublishedChannel(node, broker)
        await channel.publish(*EARLIER)
        client = await node.connect()
        client.send(Subscribe(60, "h:a", since=channel.ids[0]))
        await until_idle()
        while len(channel.published) < 1_000:
            await channel.publish(*range(CACHED + 1))
            broker.open(broker.gates[0])
            await until_idle()
        await broker.pass_all()
        reply = client.reply(60)
        assert reply.recovered
        await channel.publish("x")
        await until_idle()
        channel.check(client, reply, since=channel.ids[0])


@on_virtual_time
async def test_a_resume_of_a_history_that_was_reset_meanwhile_is_not_recovered() -> None:
    broker = GatedBroker(only=frozenset({"join"}))
    async with running_node(broker=broker) as node:
        channel = PublishedChannel(node, broker, "hp:a")
        await channel.publish(*EARLIER)
        client = await node.connect()
        client.send(Subscribe(60, "hp:a", since=channel.ids[0]))
        await until_idle()
        node.hub.deliver(Gap("hp:a", "reset", MessageId(7, "new")))
        await broker.pass_all()
        reply = client.reply(60)
        assert (list(reply.messages), reply.recovered, reply.position) == ([], False, MessageId(7, "new"))


@on_virtual_time
async def test_messages_trimmed_before_the_catch_up_are_a_gap() -> None:
    async with running_node(limits=batches(2)) as node:
        first = await node.publish("h:a", "begun")
        await node.publish("h:a", *([number, "x" * 500] for number in range(20)))
        client = await node.connect(capacity=1_500)
        reply = await client.subscribe("h:a", since=first.id)
        assert (reply.recovered, len(reply.messages), client.transport.writable) == (True, 3, False)
        await node.publish("h:a", *range(200))
        client.transport.capacity = None
        client.transport.drain()
        await until_idle()
        (gap,) = (message for message in client.transport.messages if isinstance(message, Gap))
        assert (gap.reason, gap.position and gap.position.offset) == ("trimmed", 221)
        await node.publish("h:a", "on")
        await until_idle()
        assert client.values()[-1] == "on"


@pytest.mark.parametrize("options", [{}, {"since": True}, {"rewind": 2}], ids=["", "since", "rewind"])
@on_virtual_time
async def test_messages_delivered_while_presence_is_joined_are_not_lost_silently(
    options: dict[str, Any],
) -> None:
    broker = GatedBroker(only=frozenset({"join"}))
    rules = {**RULES, "hp": replace(RULES["hp"], history=1_000)}
    async with running_node(broker=broker, rules=rules) as node:
        channel = PublishedChannel(node, broker, "hp:a")
        await channel.publish(*EARLIER)
        client = await node.connect()
        if "since" in options:
            options = {"since": channel.ids[0]}
        client.send(Subscribe(60, "hp:a", **options))
        await until_idle()
        await channel.publish(*range(10, 10 + CACHED + 1))
        await broker.pass_all()
        reply = client.reply(60)
        assert reply.recovered is ("since" in options)
        assert reply.recovered or list(reply.messages) == []
        await channel.publish("x")
        await until_idle()
        channel.check(client, reply, since=options.get("since"))


@pytest.mark.parametrize("options", [{"since": MessageId(1, "x")}, {"rewind": 3}])
@on_virtual_time
async def test_without_history_a_resume_is_not_recovered(options: dict[str, Any]) -> None:
    async with running_node() as node:
        client = await node.connect()
        reply = await client.subscribe("a", **options)
        assert (reply.position, list(reply.messages), reply.recovered) == (None, [], False)


@on_virtual_time
async def test_an_exclusion_applies_to_live_delivery_and_not_to_replay() -> None:
    async with running_node(limits=SessionLimits(outbox=4_000)) as node:
        client, slow = await node.connect(), await node.connect()
        begun = (await client.subscribe("h:a")).position
        await slow.subscribe("h:a")
        exclude = frozenset({client.session.connection, slow.session.connection})
        slow.transport.fill()
        await node.publish("h:a", *["x" * 1_000] * 5)
        await node.publish("h:a", "an echo", exclude=exclude)
        await node.publish("h:a", "last")
        slow.transport.drain()
        await until_idle()
        assert client.values()[-2:] == ["x" * 1_000, "last"]
        assert slow.values()[-2:] == ["an echo", "last"]
        client.disconnect()
        returned = await node.connect()
        reply = await returned.subscribe("h:a", since=begun)
        await until_idle()
        assert [*values_of(reply.messages), *returned.values()][-2:] == ["an echo", "last"]


# ---------------------------------------------------------------- several at once, and before anything else


@pytest.mark.parametrize("codec", [JSON, MSGPACK], ids=["json", "msgpack"])
@on_virtual_time
async def test_no_message_overtakes_the_reply_to_connect(codec: Codec) -> None:
    for choices in all_interleavings():
        broker = GatedBroker()
        async with running_node(broker=broker) as node:
            first, second = PublishedChannel(node, broker, "h:a"), PublishedChannel(node, broker, "h:b")
            await first.publish(*EARLIER)
            client = node.open(codec)
            subs = {"h:a": Resume(since=first.ids[0]), "h:b": Resume()}
            actions = [*first.to_publish("x"), *second.to_publish("y", "z")]
            reply = await started(choices, client, first, Connect(1, subs=subs), *actions)
            assert isinstance(reply, Connected)
            assert client.transport.messages[0] == reply
            for channel, name in ((first, "h:a"), (second, "h:b")):
                subscribed = reply.subs[name]
                assert isinstance(subscribed, Subscribed)
                channel.check(client, subscribed)
            resumed = reply.subs["h:a"]
            assert isinstance(resumed, Subscribed)
            assert resumed.recovered
            assert values_of(resumed.messages) + client.values("h:a") == first.published[1:]
            await leave(node, broker)


@on_virtual_time
async def test_the_leave_of_a_too_slow_session_does_not_overtake_the_reply() -> None:
    broker = GatedBroker(only=frozenset())
    async with running_node(broker=broker, limits=SessionLimits(outbox=4_000)) as node:
        slow = await node.connect()
        for channel in ("p:a", "strict:a"):
            await slow.subscribe(channel)
        slow.transport.fill()
        while slow.session.statistics()["waiting"] < 3_000:
            await node.publish("strict:a", "x" * 200)
            await until_idle()
        broker.only = frozenset({"subscribe"})
        client = node.open()
        client.send(Connect(1, subs=dict.fromkeys(("p:a", "strict:a", "h:c"), Resume())))
        await until_idle()
        broker.open(broker.gates[0])
        await until_idle()
        # What is published right after the response still waits when the command goes on, in the same turn.
        broker.open(broker.gates[0])
        await node.publish("strict:a", "y" * 1_500)
        await until_idle()
        assert slow.transport.closed == (4006, "slow_consumer")
        first, *rest = client.transport.messages
        assert isinstance(first, Connected)
        assert [message for message in rest if message.type == "leave"] == []


@on_virtual_time
async def test_a_rejected_channel_does_not_delay_the_others() -> None:
    for choices in all_interleavings():
        broker = GatedBroker()
        async with running_node(broker=broker) as node:
            channel = PublishedChannel(node, broker)
            client = node.open()
            subs = {"h:a": Resume(), "nobody:x": Resume(), "hp:b": Resume()}
            broker.failures["join"] = unavailable()
            reply = await started(choices, client, channel, Connect(1, subs=subs), *channel.to_publish("x"))
            assert isinstance(reply.subs["h:a"], Subscribed)
            errors = [sub.code for sub in reply.subs.values() if isinstance(sub, Error)]
            assert errors == ["permission_denied", "unavailable"]
            channel.check(client, reply.subs["h:a"])
            assert set(node.hub.channels) == {"h:a"}
            await leave(node, broker)


# ---------------------------------------------------------------- after a slow phase


def batches(size: int, **limits: Any) -> SessionLimits:
    return SessionLimits(outbox=4_000, catch_up_batch=size, **limits)


@pytest.mark.parametrize("lag", [False, True], ids=["", "lag"])
@pytest.mark.parametrize("batch", [1, 2, 7])
@on_virtual_time
async def test_a_catch_up_interleaved_with_publishes_loses_nothing(batch: int, lag: bool) -> None:
    for choices in random_interleavings(100) if lag else all_interleavings():
        broker = GatedBroker(lag=lag, only=frozenset({"read"}))
        async with running_node(broker=broker, limits=batches(batch)) as node:
            channel = PublishedChannel(node, broker)
            client, other = await node.connect(), await node.connect()
            for each in (client, other):
                await each.subscribe("h:a")
            client.transport.fill()
            for number in range(CACHED + 2 * batch):
                await channel.publish([number, "x" * 200])
                broker.deliver_next(broker.undelivered)
                await until_idle()
            assert client.session.statistics()["behind"] == 1
            await channel.publish("last")
            client.transport.drain()
            actions = [*channel.to_publish("a"), fill(client), *channel.to_publish("b"), drain(client)]
            await run_interleaved(broker, choices, *actions)
            await broker.pass_all()
            assert client.session.statistics()["behind"] == 0
            assert client.values() == other.values() == channel.published
            await leave(node, broker)


def fill(client: Client) -> Callable[[], Awaitable[None]]:
    async def act() -> None:
        client.transport.fill()

    return act


def drain(client: Client) -> Callable[[], Awaitable[None]]:
    async def act() -> None:
        client.transport.drain()

    return act
