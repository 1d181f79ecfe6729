"""Many channels in one connect: prepared at once, in order in the reply; a disconnect leaves nothing."""

from __future__ import annotations

import gc
from collections.abc import Sequence

import pytest

from gateway.delivery.reply_size import messages_size
from gateway.hub.recovery.recover import Recovery
from gateway.hub.recovery.reply_budget import CONCURRENT_READS
from gateway.hub.services import SessionLimits
from protocol.conversation import State
from protocol.messages import Connect, Connected, Error, Resume, Subscribed
from protocol.position import MessageId
from tests.gateway.hub.interleavings import (
    GatedBroker,
    all_interleavings,
    random_interleavings,
    run_interleaved,
    unavailable,
)
from tests.gateway.node import Client, Node, running_node, values_of
from tests.gateway.virtual_time import advance, on_virtual_time, until_idle

STEPS = ("subscribe request", "subscribe response", "join request", "join response")
READING = frozenset({"read"})
ARRIVAL_TIMEOUT_SECONDS = 3.0
"""How long a resume waits for a node whose deliveries lag."""


def waiting(broker: GatedBroker) -> list[str]:
    """Return the names of the gates that are closed."""
    return [gate.name for gate in broker.gates]


def open_all(broker: GatedBroker) -> None:
    for gate in list(broker.gates):
        broker.open(gate)


def names(count: int, namespace: str = "hp") -> list[str]:
    return [f"{namespace}:{number}" for number in range(count)]


def restored(client: Client) -> Connected:
    reply = client.reply(1)
    assert isinstance(reply, Connected)
    return reply


async def publish_in(node: Node, channels: Sequence[str], count: int, size: int = 1_000) -> dict[str, Resume]:
    """Publish *count* messages in each of *channels*; return how to resume before them."""
    asked = {}
    for channel in channels:
        asked[channel] = Resume(since=(await node.publish(channel, "begun")).id)
        await node.publish(channel, *([number, "x" * size] for number in range(count)))
    return asked


# ---------------------------------------------------------------- at once


@on_virtual_time
async def test_all_channels_of_a_connect_are_prepared_at_the_same_time() -> None:
    broker = GatedBroker()
    async with running_node(broker=broker) as node:
        client = node.open()
        client.send(Connect(1, subs=dict.fromkeys(names(10), Resume())))
        for step in STEPS:
            await until_idle()
            assert waiting(broker) == [step] * 10
            open_all(broker)
        await until_idle()
        assert list(restored(client).subs) == names(10)
        client.disconnect()
        await broker.pass_all()


@on_virtual_time
async def test_a_connect_with_a_broker_that_never_waits_needs_no_task() -> None:
    async with running_node() as node:
        asked = await publish_in(node, names(20), 3, size=100)
        client = node.open()
        client.send(Connect(1, subs=asked))
        assert client.session.state is State.CONNECTED
        assert list(client.session.subscriptions) == names(20)
        assert node.tasks.statistics() == {"running": 0}


@on_virtual_time
async def test_the_number_of_concurrent_history_reads_is_bounded() -> None:
    broker = GatedBroker(only=READING)
    count = 2 * CONCURRENT_READS + 3
    async with running_node(broker=broker) as node:
        asked = await publish_in(node, names(count), 2, size=100)
        broker.calls.clear()
        client = node.open()
        client.send(Connect(1, subs=asked))
        for expected in (CONCURRENT_READS, CONCURRENT_READS, 3):
            for step in ("read request", "read response"):
                await until_idle()
                assert waiting(broker) == [step] * expected
                open_all(broker)
        await until_idle()
        for channel, sub in restored(client).subs.items():
            assert isinstance(sub, Subscribed)
            assert [value[0] for value in values_of(sub.messages)] == [0, 1], channel


@on_virtual_time
async def test_no_more_channels_are_prepared_at_once_than_subscriptions_are_free() -> None:
    broker = GatedBroker(only=frozenset({"subscribe"}))
    async with running_node(broker=broker, limits=SessionLimits(channels=3)) as node:
        client = node.open()
        subs = dict.fromkeys(["h:0", "nobody:a", "h:1", "nobody:b", "h:2", "h:3"], Resume())
        client.send(Connect(1, subs=subs))
        for expected in (2, 1):
            for step in STEPS[:2]:
                await until_idle()
                assert waiting(broker) == [step] * expected
                open_all(broker)
        await until_idle()
        codes = [sub.code if isinstance(sub, Error) else "ok" for sub in restored(client).subs.values()]
        assert codes == ["ok", "permission_denied", "ok", "permission_denied", "ok", "limit_exceeded"]
        assert broker.calls == ["subscribe"] * 3


@on_virtual_time
async def test_a_channel_that_fails_does_not_fail_the_others() -> None:
    class Broken(GatedBroker):
        async def _route(self, channel: str, retention: object) -> MessageId | None:
            if channel == "hp:1":
                raise unavailable()
            return await super()._route(channel, retention)  # type: ignore[arg-type]

    broker = Broken()
    async with running_node(broker=broker) as node:
        client = node.open()
        client.send(Connect(1, subs=dict.fromkeys(names(3), Resume())))
        await broker.pass_all()
        first, second, third = restored(client).subs.values()
        assert isinstance(first, Subscribed)
        assert isinstance(second, Error)
        assert isinstance(third, Subscribed)
        assert (second.code, second.retry_after_ms) == ("unavailable", 500)
        client.disconnect()
        await broker.pass_all()


@on_virtual_time
async def test_an_unexpected_error_fails_the_connect_and_leaves_nothing() -> None:
    broker = GatedBroker()
    broker.failures = {"join": RuntimeError("a bug")}
    async with running_node(broker=broker) as node:
        client = node.open()
        client.send(Connect(1, subs=dict.fromkeys(["h:0", *names(2)], Resume())))
        await broker.pass_all()
        assert client.reply(1).code == "internal"
        assert client.transport.closed is not None
        assert client.transport.closed[0] == 4011
        assert (node.hub.channels, broker.routes) == ({}, set())
        assert {str(error) for error in node.errors} == {"a bug"}
        node.errors.clear()


# ---------------------------------------------------------------- in the order asked


@on_virtual_time
async def test_the_first_channels_of_a_reply_get_the_room_in_whatever_order_reads_return() -> None:
    for choices in all_interleavings():
        broker = GatedBroker(only=READING)
        async with running_node(broker=broker, limits=SessionLimits(outbox=20_000)) as node:
            asked = await publish_in(node, names(3, "h"), 6)
            client = node.open()
            client.send(Connect(1, subs=asked))
            await until_idle()
            assert waiting(broker) == ["read request"] * 3
            await run_interleaved(broker, choices)
            replied = {}
            for channel, sub in restored(client).subs.items():
                assert isinstance(sub, Subscribed)
                assert sub.recovered
                replied[channel] = [value[0] for value in values_of(sub.messages)]
            assert replied == {"h:0": [0, 1, 2, 3, 4, 5], "h:1": [0, 1], "h:2": []}
            for channel, in_reply in replied.items():
                assert in_reply + [value[0] for value in client.values(channel)] == [0, 1, 2, 3, 4, 5]


@on_virtual_time
async def test_a_rewind_gets_the_newest_messages_that_fit() -> None:
    for choices in random_interleavings(20):
        broker = GatedBroker(only=READING)
        async with running_node(broker=broker, limits=SessionLimits(outbox=20_000)) as node:
            await publish_in(node, names(3, "h"), 6)
            client = node.open()
            client.send(Connect(1, subs=dict.fromkeys(names(3, "h"), Resume(rewind=6))))
            await run_interleaved(broker, choices)
            replayed = [
                [value[0] for value in values_of(sub.messages)]
                for sub in restored(client).subs.values()
                if isinstance(sub, Subscribed)
            ]
            assert replayed == [[0, 1, 2, 3, 4, 5], [4, 5], []]


@on_virtual_time
async def test_a_channel_rejected_after_its_read_takes_no_room_in_the_reply() -> None:
    broker = GatedBroker(only=frozenset({"join"}))
    async with running_node(broker=broker, limits=SessionLimits(channels=1, outbox=20_000)) as node:
        asked = await publish_in(node, ["hp:0", "h:1"], 6)
        broker.failures = {"join": unavailable()}
        client = node.open()
        client.send(Connect(1, subs=asked))
        await broker.pass_all()
        refused, restored_after_all = restored(client).subs.values()
        assert isinstance(refused, Error)
        assert isinstance(restored_after_all, Subscribed)
        assert len(restored_after_all.messages) == 6


@on_virtual_time
async def test_no_more_messages_are_held_than_the_reply_has_room_for() -> None:
    broker = GatedBroker(only=frozenset({"read", "join"}))
    async with running_node(broker=broker, limits=SessionLimits(outbox=20_000)) as node:
        asked = await publish_in(node, names(2 * CONCURRENT_READS), 6)
        client = node.open()
        client.send(Connect(1, subs=asked))
        await until_idle()
        while reading := [gate for gate in broker.gates if gate.name.startswith("read")]:
            broker.open(reading[-1])
            await until_idle()
        assert waiting(broker) == ["join request"] * 2 * CONCURRENT_READS
        held = [
            each.messages
            for each in gc.get_objects()
            if type(each) is Recovery and each.channel is node.hub.channels.get(each.channel.name)
        ]
        assert len(held) == 2 * CONCURRENT_READS
        assert 5_000 < sum(map(messages_size, held)) <= 10_000
        await broker.pass_all()
        first, *_ = restored(client).subs.values()
        assert isinstance(first, Subscribed)
        assert len(first.messages) == 6


# ---------------------------------------------------------------- disconnects at any step


async def assert_nothing_left(node: Node, broker: GatedBroker) -> None:
    """Fail where anything of a session is left, in the hub or with the broker."""
    assert (node.hub.channels, broker.routes) == ({}, set())
    for channel in names(4):
        assert (await broker.inner.presence(channel)).connections == 0


@pytest.mark.parametrize("opened", range(30))
@on_virtual_time
async def test_a_disconnect_at_any_step_of_a_restore_leaves_nothing(opened: int) -> None:
    for choices in random_interleavings(5):
        broker = GatedBroker()
        async with running_node(broker=broker) as node:
            asked = await publish_ungated(node, broker)
            client = node.open()
            client.send(Connect(1, subs={**asked, "hp:3": Resume(rewind=2), "nobody:x": Resume()}))
            for _ in range(opened):
                await until_idle()
                if broker.gates:
                    broker.open(broker.gates[choices.one_of(len(broker.gates))])
            await until_idle()
            client.disconnect()
            begun = len(broker.calls)
            await broker.pass_all()
            assert {*broker.calls[begun:]} <= {"leave", "unsubscribe"}, "no other call was made"
            await assert_nothing_left(node, broker)


@pytest.mark.parametrize("opened", range(24))
@on_virtual_time
async def test_a_node_that_stops_at_any_step_of_a_restore_leaves_nothing(opened: int) -> None:
    broker = GatedBroker()
    async with running_node(broker=broker) as node:
        asked = await publish_ungated(node, broker)
        client = node.open()
        client.send(Connect(1, subs={**asked, "hp:3": Resume(rewind=2)}))
        for number in range(opened):
            await until_idle()
            broker.open(broker.gates[number * 7 % len(broker.gates)])
        client.disconnect()
        broker.only = frozenset()
        await node.tasks.close()
        assert all(channel.pending_subscriptions == 0 for channel in node.hub.channels.values())
        assert node.hub.channels == {}
        for channel in names(4):
            assert (await broker.inner.presence(channel)).connections == 0


async def publish_ungated(node: Node, broker: GatedBroker) -> dict[str, Resume]:
    """Publish in three channels without a gate; return how to resume from the first message of each."""
    asked = {}
    for channel in names(3):
        first, *_ = [await broker.inner.publish(node.publication(channel, value)) for value in range(4)]
        asked[channel] = Resume(since=first.id)
    return asked


@on_virtual_time
async def test_channels_whose_deliveries_lag_are_waited_for_at_the_same_time() -> None:
    broker = GatedBroker(lag=True, only=frozenset())
    channels = names(2 * CONCURRENT_READS, "h")
    async with running_node(broker=broker) as node:
        other = await node.connect()
        asked = {}
        for channel in channels:
            await other.subscribe(channel)
            asked[channel] = Resume(since=(await node.publish(channel, "on its way")).id)
        client = node.open()
        client.send(Connect(1, subs=asked))
        await advance(ARRIVAL_TIMEOUT_SECONDS - 0.1)
        assert client.replies(1) == []
        await advance(0.2)
        codes = [sub.code for sub in restored(client).subs.values() if isinstance(sub, Error)]
        assert codes == ["unavailable"] * len(channels)
