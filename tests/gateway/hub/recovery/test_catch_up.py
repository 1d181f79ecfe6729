"""Clients that read too slowly and catch up: nothing is lost, whatever the broker does meanwhile."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from gateway.broker.base import HistorySlice, PossibleLoss
from gateway.errors import BrokerFull, GatewayError
from gateway.hub.services import SessionLimits
from protocol.codec import JSON, MSGPACK, Codec
from protocol.messages import Gap, Subscribe, Unsubscribe, Unsubscribed
from protocol.position import MessageId
from tests.gateway.hub.interleavings import GatedBroker, unavailable
from tests.gateway.node import RULES, Client, Node, running_node
from tests.gateway.slow_clients import LIMITS, drain, publish_each, pushes
from tests.gateway.virtual_time import advance, on_virtual_time, until_idle

# ---------------------------------------------------------------- catch_up


@pytest.mark.parametrize("codec", [JSON, MSGPACK], ids=["json", "msgpack"])
@pytest.mark.parametrize("count", [5, 20, 60, 95])
@on_virtual_time
async def test_a_catch_up_replays_every_missed_message(count: int, codec: Codec) -> None:
    async with running_node(limits=LIMITS) as node:
        slow, fast = await node.connect(codec), await node.connect()
        for client in (slow, fast):
            await client.subscribe("h:a")
        slow.transport.fill()
        for number in range(count):
            await publish_each(node, "h:a", number)
            assert pushes(fast, "h:a") == list(range(number + 1)), "at once, whatever others do"
        assert pushes(slow, "h:a") == []
        slow.transport.capacity = 1_000
        while slow.session.statistics()["behind"] or slow.session.statistics()["waiting"]:
            slow.transport.drain()
            await until_idle()
        assert pushes(slow, "h:a") == list(range(count))
        await drain(slow)
        await publish_each(node, "h:a", "live")
        assert pushes(slow, "h:a")[-1] == pushes(fast, "h:a")[-1] == "live"


@on_virtual_time
async def test_a_catch_up_includes_messages_published_meanwhile() -> None:
    async with running_node(limits=LIMITS) as node:
        slow = await node.connect()
        await slow.subscribe("h:a")
        slow.transport.fill()
        await publish_each(node, "h:a", *range(40))
        slow.transport.capacity = 800
        for number in range(40, 90):
            slow.transport.drain()
            await publish_each(node, "h:a", number)
        await drain(slow)
        assert pushes(slow, "h:a") == list(range(90))
        assert slow.session.statistics()["behind"] == 0


@pytest.mark.parametrize("kept", [10, 100])
@on_virtual_time
async def test_a_gap_is_sent_where_history_no_longer_reaches_back(kept: int) -> None:
    rules = {**RULES, "h": replace(RULES["h"], history=kept)}
    async with running_node(limits=LIMITS, rules=rules) as node:
        slow = await node.connect()
        await slow.subscribe("h:a")
        await publish_each(node, "h:a", 0)
        slow.transport.fill()
        count = 3 * kept + 64
        await publish_each(node, "h:a", *range(1, count))
        await drain(slow)
        await publish_each(node, "h:a", "live")
        assert pushes(slow, "h:a") == [0, ("trimmed", count), "live"]


@on_virtual_time
async def test_other_channels_catch_up_although_the_first_cannot() -> None:
    rules = {**RULES, "few": replace(RULES["h"], namespace="few", history=2)}
    async with running_node(limits=LIMITS, rules=rules) as node:
        slow = await node.connect()
        for channel in ("few:a", "few:b", "h:a", "h:b"):
            await slow.subscribe(channel)
        slow.transport.fill()
        for number in range(90):
            for channel in ("few:a", "few:b", "h:a", "h:b"):
                await publish_each(node, channel, number)
        assert slow.session.statistics()["behind"] == 4
        await drain(slow)
        for channel in ("few:a", "few:b"):
            assert pushes(slow, channel) == [("trimmed", 90)]
        for channel in ("h:a", "h:b"):
            assert pushes(slow, channel) == list(range(90))
        assert slow.session.statistics()["behind"] == 0


@on_virtual_time
async def test_channels_catch_up_in_turn() -> None:
    async with running_node(limits=LIMITS) as node:
        slow = await node.connect()
        for channel in ("h:a", "h:b"):
            await slow.subscribe(channel)
        slow.transport.fill()
        for number in range(40):
            for channel in ("h:a", "h:b"):
                await publish_each(node, channel, number)
        slow.transport.capacity = 3_000
        slow.transport.drain()
        await until_idle()
        assert len(pushes(slow, "h:a")) == len(pushes(slow, "h:b")) > 0
        await drain(slow)


@on_virtual_time
async def test_unnumbered_messages_leave_a_gap_and_the_others_are_replayed() -> None:
    async with running_node(limits=LIMITS) as node:
        slow = await node.connect()
        await slow.subscribe("h:a")
        slow.transport.fill()
        await publish_each(node, "h:a", *range(10))
        await publish_each(node, "h:a", "not kept", retention=None)
        await publish_each(node, "h:a", *range(10, 30))
        await publish_each(node, "h:a", "not kept either", retention=None)
        await publish_each(node, "h:a", 30)
        await drain(slow)
        await publish_each(node, "h:a", "live", retention=None)
        received = pushes(slow, "h:a")
        assert [each for each in received if not isinstance(each, tuple)] == [*range(31), "live"]
        assert ("overflow", 0) in received, "before the replay, at the position where it begins"
        assert ("overflow", 31) in received, "after the replay, for messages published meanwhile"


@on_virtual_time
async def test_a_replay_is_written_in_batches_of_what_a_socket_takes() -> None:
    limits = SessionLimits(catch_up_batch=128)
    async with running_node(limits=limits) as node:
        slow = await node.connect()
        await slow.subscribe("h:a")
        slow.transport.fill()
        for number in range(60):
            await node.publish("h:a", [number, "x" * 30_000])
            await until_idle()
        slow.transport.capacity = 1
        before = len(slow.transport.writes)
        slow.transport.drain()
        await until_idle()
        while slow.session.statistics()["behind"]:
            assert all(len(data) < 3 * 64 * 1024 for data in slow.transport.writes[before:])
            slow.transport.drain()
            await until_idle()
        await drain(slow)
        assert pushes(slow, "h:a") == list(range(60))


# ---------------------------------------------------------------- catch_up, and the broker


async def fallen_behind(node: Node, *channels: str, count: int = 80) -> Client:
    """Return a client that is behind in *channels*, further than the hub has cached."""
    client = await node.connect()
    for channel in channels:
        await client.subscribe(channel)
    client.transport.fill()
    for number in range(count):
        for channel in channels:
            await publish_each(node, channel, number)
    assert client.session.statistics()["behind"] == len(channels)
    return client


@pytest.mark.parametrize(("error", "wait"), [(unavailable(), 0.5), (BrokerFull("the test wants it so"), 5.0)])
@on_virtual_time
async def test_a_catch_up_is_retried_after_the_broker_was_unavailable(
    error: GatewayError, wait: float
) -> None:
    broker = GatedBroker(only=frozenset())
    async with running_node(broker=broker, limits=LIMITS) as node:
        slow = await fallen_behind(node, "h:a")
        broker.only = frozenset({"read"})
        broker.failures["read"] = error
        slow.transport.drain()
        for _ in range(3):
            await broker.pass_all()
            assert pushes(slow, "h:a") == []
            await advance(wait)
        broker.failures.clear()
        await broker.pass_all()
        await advance(wait)
        await broker.pass_all()
        assert pushes(slow, "h:a") == list(range(80))


@on_virtual_time
async def test_an_ended_session_does_not_retry_its_catch_up() -> None:
    broker = GatedBroker(only=frozenset())
    async with running_node(broker=broker, limits=LIMITS) as node:
        slow = await fallen_behind(node, "h:a")
        broker.only = frozenset({"read"})
        broker.failures["read"] = unavailable()
        slow.transport.drain()
        await broker.pass_all()
        slow.disconnect()
        await advance(5.0)
        assert broker.calls.count("read") == 1


class Stale(GatedBroker):
    """A broker that reads from a replica which does not have the newest messages."""

    async def read(self, channel: str, *, since: MessageId | None = None, **_: Any) -> HistorySlice:
        position = since or MessageId(0, "zero")
        return HistorySlice((), position, recovered=True)


@on_virtual_time
async def test_a_broker_whose_history_is_shorter_than_the_position_is_a_reset() -> None:
    async with running_node(broker=Stale(only=frozenset()), limits=LIMITS) as node:
        slow = await fallen_behind(node, "h:a")
        await drain(slow)
        await publish_each(node, "h:a", "live")
        assert pushes(slow, "h:a") == [("reset", 80), "live"]


@on_virtual_time
async def test_messages_covered_by_a_gap_are_not_sent_after_it() -> None:
    rules = {**RULES, "h": replace(RULES["h"], history=2)}
    async with running_node(limits=LIMITS, rules=rules) as node:
        slow = await fallen_behind(node, "h:a")
        await node.publish("h:a", ["in the same turn", ""])
        slow.transport.drain()
        await until_idle()
        await publish_each(node, "h:a", "live")
        assert pushes(slow, "h:a") == [("trimmed", 81), "live"]


class Failing(GatedBroker):
    """A broker that raises an unexpected error."""

    async def read(self, *_: Any, **__: Any) -> HistorySlice:
        raise RuntimeError("a bug")


@on_virtual_time
async def test_an_unexpected_error_in_a_catch_up_closes_the_session() -> None:
    async with running_node(broker=Failing(only=frozenset()), limits=LIMITS) as node:
        slow = await fallen_behind(node, "h:a")
        slow.transport.drain()
        await until_idle()
        assert slow.transport.closed == (4011, "internal")
        (error,) = node.errors
        assert str(error) == "a bug"
        node.errors.clear()


@on_virtual_time
async def test_a_subscription_that_falls_behind_during_a_catch_up_catches_up_too() -> None:
    broker = GatedBroker(only=frozenset())
    async with running_node(broker=broker, limits=LIMITS) as node:
        slow = await fallen_behind(node, "h:a")
        slow.send(Subscribe(50, "h:b"))
        broker.only = frozenset({"read"})
        slow.transport.drain()
        await until_idle()
        slow.transport.fill()
        await publish_each(node, "h:b", *range(30))
        assert slow.session.statistics()["behind"] == 2
        slow.transport.drain()
        await broker.pass_all()
        assert pushes(slow, "h:a") == list(range(80))
        assert pushes(slow, "h:b") == list(range(30))


@on_virtual_time
async def test_nothing_is_sent_after_the_end_of_a_subscription_that_was_behind() -> None:
    broker = GatedBroker(only=frozenset())
    async with running_node(broker=broker, limits=LIMITS) as node:
        slow = await fallen_behind(node, "h:a")
        broker.only = frozenset({"read"})
        slow.transport.drain()
        await until_idle()
        reply = await slow.request(Unsubscribe(50, "h:a"))
        assert reply == Unsubscribed("h:a", id=50)
        await broker.pass_all()
        await publish_each(node, "h:a", "later")
        assert pushes(slow, "h:a") == []
        assert slow.session.statistics()["behind"] == 0


@on_virtual_time
async def test_queued_messages_of_an_ended_subscription_are_not_replayed_to_the_next_one() -> None:
    async with running_node(limits=LIMITS) as node:
        slow = await node.connect()
        await slow.subscribe("h:a")
        slow.transport.fill()
        await publish_each(node, "h:a", "old")
        slow.send(Unsubscribe(50, "h:a"), Subscribe(51, "h:a"), Subscribe(52, "h:b"))
        await publish_each(node, "h:b", *range(30))
        assert slow.session.statistics()["behind"] == 1
        await drain(slow)
        await publish_each(node, "h:a", "new")
        assert pushes(slow, "h:a") == ["new"]
        assert pushes(slow, "h:b") == list(range(30))


@pytest.mark.parametrize("position", [MessageId(500, "new"), MessageId(3, "new"), None])
@on_virtual_time
async def test_a_reset_is_a_gap_for_live_subscriptions_and_for_those_behind(
    position: MessageId | None,
) -> None:
    async with running_node(limits=LIMITS) as node:
        fast = await node.connect()
        await fast.subscribe("h:a")
        slow = await fallen_behind(node, "h:a")
        node.hub.deliver(Gap("h:a", "reset", position))
        assert slow.session.statistics()["behind"] == 0
        await drain(slow)
        gap = ("reset", position and position.offset)
        assert pushes(fast, "h:a")[-1] == gap
        assert pushes(slow, "h:a") == [gap]


@on_virtual_time
async def test_a_position_that_the_broker_lost_is_a_reset() -> None:
    broker = GatedBroker(only=frozenset())
    async with running_node(broker=broker, limits=LIMITS) as node:
        slow = await fallen_behind(node, "h:a")
        await broker.inner.close()
        reborn = GatedBroker(only=frozenset())
        broker.inner = reborn.inner
        await broker.start(node.hub)
        await drain(slow)
        assert pushes(slow, "h:a") == [("reset", 80)]


@on_virtual_time
async def test_messages_cleared_meanwhile_are_a_gap() -> None:
    async with running_node(limits=LIMITS) as node:
        slow = await fallen_behind(node, "h:a")
        await node.broker.clear("h:a")
        await publish_each(node, "h:a", "after")
        await drain(slow)
        assert pushes(slow, "h:a") == [("trimmed", 81)]


@on_virtual_time
async def test_a_subscription_behind_gets_the_presence_gap_once_it_is_live() -> None:
    async with running_node(limits=LIMITS) as node:
        slow = await node.connect()
        await slow.subscribe("hp:a")
        slow.transport.fill()
        await publish_each(node, "hp:a", *range(30))
        assert slow.session.statistics()["behind"] == 1
        node.hub.deliver(PossibleLoss("hp:a"))
        await drain(slow)
        await publish_each(node, "hp:a", "live")
        assert pushes(slow, "hp:a") == [*range(30), ("overflow", 30), "live"]
