"""The registry of one node: its sessions, its channels, and what is routed to it."""

from __future__ import annotations

import asyncio
from typing import Any

from gateway.broker.base import Delivery, PossibleLoss
from gateway.delivery.encoding import MESSAGE_OVERHEAD_BYTES
from gateway.hub.channel import CACHED_MESSAGES, Channel
from protocol.codec import MSGPACK
from protocol.messages import (
    Gap,
    Join,
    Leave,
    Member,
    Message,
    Subscribe,
    Subscribed,
    Unsubscribe,
    Unsubscribed,
)
from protocol.payload import Payload
from tests.gateway.hub.interleavings import (
    GatedBroker,
    all_interleavings,
    publish_and_deliver,
    run_interleaved,
    unavailable,
)
from tests.gateway.node import RULES, running_node
from tests.gateway.slow_clients import LIMITS, drain, publish_each
from tests.gateway.virtual_time import on_virtual_time, until_idle

# ---------------------------------------------------------------- sessions


@on_virtual_time
async def test_a_hub_lists_its_sessions_users_and_subscribed_channels() -> None:
    async with running_node() as node:
        ann, again, nobody = [await node.connect(user=user) for user in ("ann", "ann", "")]
        waiting = node.open()
        for client in (ann, again, nobody):
            await client.subscribe("h:a")
        await nobody.subscribe("h:b")
        assert node.hub.subscribed_channels() == {"h:a": 3, "h:b": 1, "@ann": 2}
        assert node.hub.subscribed_channels("h:") == {"h:a": 3, "h:b": 1}
        records = node.hub.connections("ann")
        assert [record.connection for record in records] == [
            ann.session.connection,
            again.session.connection,
        ]
        assert node.hub.connections("ben") == []
        record = node.hub.as_record()
        assert (record.node, record.connections, record.channels, record.subscriptions) == ("n1", 3, 3, 6)
        assert record.figures["users"] == 1
        assert repr(node.hub) == "<Hub n1 3 sessions 3 channels>"
        waiting.disconnect()
        assert len(node.hub.sessions) == 3


@on_virtual_time
async def test_messages_and_deliveries_are_counted() -> None:
    async with running_node() as node:
        clients = [await node.connect() for _ in range(3)]
        for client in clients:
            await client.subscribe("h:a")
        await node.publish("h:a", 1, 2)
        await node.publish("h:a", 3, exclude=frozenset({clients[0].session.connection}))
        await node.publish("nobody:there", 4)
        await until_idle()
        figures = node.hub.statistics()
        assert (figures["messages"], figures["deliveries"]) == (3, 9)
        assert clients[0].values() == [1, 2]
        assert clients[1].values() == [1, 2, 3]


@on_virtual_time
async def test_bytes_of_the_newest_messages_are_counted_over_all_channels() -> None:
    async with running_node() as node:
        client = await node.connect()
        for channel in ("h:a", "h:b", "open"):
            await client.subscribe(channel)
        for channel in ("h:a", "h:b", "open"):
            await node.publish(channel, "12345678")
        await until_idle()
        one = MESSAGE_OVERHEAD_BYTES + 2 * len('"12345678"')  # the data, and the frame for JSON
        assert node.hub.statistics()["cached_bytes"] == 2 * one
        await node.publish("h:a", *(CACHED_MESSAGES * ["1"]))
        await until_idle()
        assert node.hub.statistics()["cached_bytes"] == one + CACHED_MESSAGES * (
            MESSAGE_OVERHEAD_BYTES + 2 * len('"1"')
        )
        await client.request(Unsubscribe(client.next_id(), "h:a"))
        assert node.hub.statistics()["cached_bytes"] == one


@on_virtual_time
async def test_subscriptions_that_are_behind_are_counted_until_they_are_live_or_end() -> None:
    async with running_node(limits=LIMITS) as node:
        clients = [await node.connect() for _ in range(3)]
        for client in clients:
            await client.subscribe("h:a")
            await client.subscribe("h:b")
        for client in clients[1:]:
            client.transport.fill()
        await publish_each(node, "h:a", *range(30))
        await publish_each(node, "h:b", *range(30))
        behind = sum(client.session.statistics()["behind"] for client in clients)
        assert node.hub.statistics()["behind"] == behind == 4
        clients[1].disconnect()
        assert node.hub.statistics()["behind"] == 2
        await drain(clients[2])
        assert node.hub.statistics()["behind"] == 0


@on_virtual_time
async def test_envelopes_of_channels_without_subscribers_are_ignored() -> None:
    async with running_node() as node:
        node.hub.deliver(Join("p:a", Member("c1", "ann")))
        node.hub.deliver(Leave("p:a", Member("c1", "ann")))
        await node.broker.clear("p:a")
        assert node.hub.channels == {}


class Poison(Payload):
    """A payload that cannot be encoded as MessagePack."""

    @property
    def msgpack(self) -> bytes:
        raise ValueError("poison")


@on_virtual_time
async def test_a_message_that_cannot_be_encoded_does_not_stop_other_channels() -> None:
    async with running_node() as node:
        text, binary = await node.connect(), await node.connect(MSGPACK)
        for client in (text, binary):
            for channel in ("a", "b"):
                await client.subscribe(channel)
        node.hub.deliver(Delivery(Message("a", Poison(b"1"))))
        await node.publish("b", 2)
        await until_idle()
        await node.publish("a", 3)
        await until_idle()
        assert text.values() == [1, 2, 3]
        assert binary.values() == [2, 3]
        (error,) = node.errors
        assert str(error) == "poison"
        node.errors.clear()


# ---------------------------------------------------------------- routes


def rules(name: str) -> Any:
    return RULES[name.partition(":")[0]]


@on_virtual_time
async def test_only_the_first_caller_for_a_channel_asks_the_broker() -> None:
    broker = GatedBroker(only=frozenset({"subscribe"}))
    async with running_node(broker=broker) as node:
        clients = [await node.connect() for _ in range(5)]
        for client in clients:
            client.send(Subscribe(10, "h:a"))
        await broker.pass_all()
        assert all(isinstance(client.reply(10), Subscribed) for client in clients)
        assert broker.calls == ["subscribe"]
        late = await node.connect()
        await late.subscribe("h:a")
        assert broker.calls == ["subscribe"]


@on_virtual_time
async def test_callers_that_wait_for_one_route_share_its_failure_and_leave_nothing() -> None:
    broker = GatedBroker(only=frozenset({"subscribe"}))
    async with running_node(broker=broker) as node:
        clients = [await node.connect() for _ in range(3)]
        broker.failures["subscribe"] = unavailable()
        for client in clients:
            client.send(Subscribe(10, "h:a"))
        await broker.pass_all()
        assert [client.reply(10).code for client in clients] == ["unavailable"] * 3
        assert (node.hub.channels, broker.calls) == ({}, ["subscribe"])
        broker.failures.clear()
        clients[0].send(Subscribe(11, "h:a"))
        await broker.pass_all()
        assert isinstance(clients[0].reply(11), Subscribed)


@on_virtual_time
async def test_a_caller_right_after_a_failure_asks_again() -> None:
    broker = GatedBroker(only=frozenset({"subscribe"}))
    async with running_node(broker=broker) as node:
        first, second, third = [await node.connect() for _ in range(3)]
        broker.failures["subscribe"] = unavailable()
        first.send(Subscribe(10, "h:a"))
        second.send(Subscribe(10, "h:a"))
        await until_idle()
        routing = node.hub.channels["h:a"].routing
        assert routing is not None
        routing.add_done_callback(lambda _: broker.failures.clear())
        routing.add_done_callback(lambda _: third.send(Subscribe(10, "h:a")))
        await broker.pass_all()
        assert [client.reply(10).type for client in (first, second, third)] == [
            "error",
            "error",
            "subscribed",
        ]
        await publish_and_deliver(node, "h:a", 1)
        assert third.values() == [1]


@on_virtual_time
async def test_a_caller_cancelled_while_it_asks_leaves_that_to_another() -> None:
    broker = GatedBroker(only=frozenset({"subscribe"}))
    async with running_node(broker=broker) as node:
        loop = asyncio.get_running_loop()
        holds = [loop.create_task(node.hub.acquire_channel("h:a", rules("h:a"))) for _ in range(3)]
        await until_idle()
        holds[0].cancel()
        await broker.pass_all()
        channels = await asyncio.gather(*holds[1:])
        assert channels[0] is channels[1] is node.hub.channels["h:a"]
        assert (holds[0].cancelled(), broker.calls) == (True, ["subscribe", "subscribe"])
        for channel in channels:
            node.hub.release_channel(channel)
        await broker.pass_all()


@on_virtual_time
async def test_all_callers_for_a_route_may_be_cancelled() -> None:
    broker = GatedBroker(only=frozenset({"subscribe"}))
    async with running_node(broker=broker) as node:
        loop = asyncio.get_running_loop()
        holds = [loop.create_task(node.hub.acquire_channel("h:a", rules("h:a"))) for _ in range(3)]
        await until_idle()
        for hold in reversed(holds):
            hold.cancel()
        await until_idle()
        assert node.hub.channels == {}


@on_virtual_time
async def test_a_channel_released_and_acquired_again_is_routed_in_every_interleaving() -> None:
    for choices in all_interleavings():
        broker = GatedBroker()
        async with running_node(broker=broker) as node:
            client, other = await node.connect(), await node.connect()
            client.send(Subscribe(10, "h:a"))
            await broker.pass_all()
            client.send(Unsubscribe(11, "h:a"), Subscribe(12, "h:a"))
            other.send(Subscribe(10, "h:a"))
            await run_interleaved(broker, choices)
            await broker.pass_all()
            assert broker.routes == {"h:a"}
            await publish_and_deliver(node, "h:a", "x")
            assert (client.values(), other.values()) == (["x"], ["x"])
            client.send(Unsubscribe(13, "h:a"))
            other.disconnect()
            await broker.pass_all()
            assert (broker.routes, node.hub.channels) == (set(), {})


@on_virtual_time
async def test_a_failed_unsubscribe_delays_no_session() -> None:
    broker = GatedBroker(only=frozenset({"unsubscribe"}))
    async with running_node(broker=broker) as node:
        client = await node.connect()
        await client.subscribe("h:a")
        broker.failures["unsubscribe"] = unavailable()
        client.send(Unsubscribe(10, "h:a"), Subscribe(11, "h:a"))
        await broker.pass_all()
        assert isinstance(client.reply(10), Unsubscribed)
        assert isinstance(client.reply(11), Subscribed)
        client.disconnect()
        await broker.pass_all()
        assert broker.routes == {"h:a"}, "until the lease of the node ends"


class Rejecting(GatedBroker):
    """A broker whose calls raise without waiting."""

    async def unsubscribe(self, channel: str) -> None:
        raise unavailable()

    async def leave(self, channel: str, connection: str, *, grace: float = 0.0) -> None:
        raise unavailable()


@on_virtual_time
async def test_a_session_ends_completely_although_the_broker_fails_at_once() -> None:
    async with running_node(broker=Rejecting(only=frozenset())) as node:
        client = await node.connect(user="ann")
        for channel in ("hp:a", "hp:b"):
            await client.subscribe(channel)
        client.disconnect()
        assert node.released == [client.session.connection]


@on_virtual_time
async def test_messages_that_arrive_before_the_route_is_confirmed_are_delivered() -> None:
    for choices in all_interleavings():
        broker = GatedBroker(only=frozenset({"subscribe"}))
        async with running_node(broker=broker) as node:
            client = await node.connect()
            client.send(Subscribe(10, "a"))
            await run_interleaved(broker, choices, lambda: publish_and_deliver(node, "a", 1))
            await broker.pass_all()
            await publish_and_deliver(node, "a", 2)
            assert client.values() in ([1, 2], [2])
            assert (client.reply(10).position, client.reply(10).messages) == (None, ())


@on_virtual_time
async def test_a_channel_replaced_by_a_newer_one_is_not_discarded() -> None:
    async with running_node() as node:
        stale = Channel("h:a", rules("h:a"))
        client = await node.connect()
        await client.subscribe("h:a")
        node.hub.discard_if_idle(stale)
        assert node.hub.subscribed_channels() == {"h:a": 1}
        client.send(Unsubscribe(10, "h:a"))
        node.hub.discard_if_idle(stale)


# ---------------------------------------------------------------- what no history tells


@on_virtual_time
async def test_possible_loss_is_a_gap_for_subscribers_that_watch_presence() -> None:
    async with running_node() as node:
        watching, other = await node.connect(), await node.connect()
        await watching.subscribe("hp:a")
        await other.subscribe("hp:a", join_leave=False)
        receipt = await node.publish("hp:a", 1)
        node.hub.deliver(PossibleLoss("hp:a"))
        node.hub.deliver(PossibleLoss("hp:nobody"))
        await node.publish("hp:a", 2)
        await until_idle()
        kinds = [type(each) for each in watching.transport.messages if isinstance(each, Message | Gap)]
        assert kinds == [Message, Gap, Message]
        assert Gap("hp:a", "trimmed", receipt.id) in watching.transport.messages
        assert other.values("hp:a") == [1, 2]
        assert not any(isinstance(each, Gap) for each in other.transport.messages)
