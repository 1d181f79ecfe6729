"""The registry of one node: who is here, what is routed, and what the server's API may do to them."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any

import pytest

from gateway.broker.base import Delivery
from gateway.hub.channel import Channel
from protocol.codec import MSGPACK
from protocol.messages import (
    Connect,
    Connected,
    Join,
    Leave,
    Member,
    Message,
    Ping,
    PongReply,
    Publish,
    Resume,
    Subscribe,
    Subscribed,
    Unsubscribe,
    Unsubscribed,
)
from protocol.payload import Payload, payload_of
from tests.gateway.life import RULES, Client, Life, life
from tests.gateway.racing import RacingBroker, every_order, race, unavailable
from tests.gateway.standing import quiet, standing


async def published(node: Life, channel: str, value: Any) -> None:
    """Publish at the broker's end of the wire, and let it be heard."""
    assert isinstance(node.broker, RacingBroker)
    await node.broker.inner.publish(node.publication(channel, value))
    await quiet()


# ---------------------------------------------------------------- who is here


@standing
async def test_a_hub_knows_who_is_here_and_what_they_follow() -> None:
    async with life() as node:
        ann, again, nobody = [await node.client(user=user) for user in ("ann", "ann", "")]
        waiting = node.open()
        for client in (ann, again, nobody):
            await client.follow("h:a")
        await nobody.follow("h:b")
        assert node.hub.following() == {"h:a": 3, "h:b": 1, "@ann": 2}
        assert node.hub.following("h:") == {"h:a": 3, "h:b": 1}
        records = node.hub.connections("ann")
        assert [record.connection for record in records] == [
            ann.session.connection,
            again.session.connection,
        ]
        assert node.hub.connections("ben") == []
        record = node.hub.record()
        assert (record.node, record.connections, record.channels, record.subscriptions) == ("n1", 3, 3, 6)
        assert record.figures["users"] == 1
        assert repr(node.hub) == "<Hub n1 3 sessions 3 channels>"
        waiting.end()
        assert len(node.hub.sessions) == 3


@standing
async def test_messages_and_deliveries_are_counted() -> None:
    async with life() as node:
        clients = [await node.client() for _ in range(3)]
        for client in clients:
            await client.follow("h:a")
        await node.publish("h:a", 1, 2)
        await node.publish("h:a", 3, exclude=frozenset({clients[0].session.connection}))
        await node.publish("nobody:there", 4)
        await quiet()
        figures = node.hub.statistics()
        assert (figures["messages"], figures["deliveries"]) == (3, 9)
        assert clients[0].got() == [1, 2]
        assert clients[1].got() == [1, 2, 3]


@standing
async def test_joins_and_gaps_of_channels_that_nobody_follows_go_nowhere() -> None:
    async with life() as node:
        node.hub.deliver(Join("p:a", Member("c1", "ann")))
        node.hub.deliver(Leave("p:a", Member("c1", "ann")))
        await node.broker.clear("p:a")
        assert node.hub.channels == {}


class Poison(Payload):
    """A payload that MessagePack cannot be made of."""

    @property
    def msgpack(self) -> bytes:
        raise ValueError("poison")


@standing
async def test_a_message_that_cannot_be_said_silences_nobody_else() -> None:
    async with life() as node:
        text, binary = await node.client(), await node.client(MSGPACK)
        for client in (text, binary):
            for channel in ("a", "b"):
                await client.follow(channel)
        node.hub.deliver(Delivery(Message("a", Poison(b"1"))))
        await node.publish("b", 2)
        await quiet()
        await node.publish("a", 3)
        await quiet()
        assert text.got() == [1, 2, 3]
        assert binary.got() == [2, 3]
        (error,) = node.errors
        assert str(error) == "poison"
        node.errors.clear()


# ---------------------------------------------------------------- routes


def rules(name: str) -> Any:
    return RULES[name.partition(":")[0]]


@standing
async def test_only_the_first_to_hold_a_channel_asks_the_broker() -> None:
    broker = RacingBroker(only=frozenset({"subscribe"}))
    async with life(broker=broker) as node:
        clients = [await node.client() for _ in range(5)]
        for client in clients:
            client.say(Subscribe(10, "h:a"))
        await broker.pass_all()
        assert all(isinstance(client.reply(10), Subscribed) for client in clients)
        assert broker.calls == ["subscribe"]
        late = await node.client()
        await late.follow("h:a")
        assert broker.calls == ["subscribe"]


@standing
async def test_those_who_wait_for_the_same_share_its_failure_and_leave_nothing() -> None:
    broker = RacingBroker(only=frozenset({"subscribe"}))
    async with life(broker=broker) as node:
        clients = [await node.client() for _ in range(3)]
        broker.fails["subscribe"] = unavailable()
        for client in clients:
            client.say(Subscribe(10, "h:a"))
        await broker.pass_all()
        assert [client.reply(10).code for client in clients] == ["unavailable"] * 3
        assert (node.hub.channels, broker.calls) == ({}, ["subscribe"])
        broker.fails.clear()
        clients[0].say(Subscribe(11, "h:a"))
        await broker.pass_all()
        assert isinstance(clients[0].reply(11), Subscribed)


@standing
async def test_who_comes_right_after_a_failure_asks_again() -> None:
    broker = RacingBroker(only=frozenset({"subscribe"}))
    async with life(broker=broker) as node:
        first, second, third = [await node.client() for _ in range(3)]
        broker.fails["subscribe"] = unavailable()
        first.say(Subscribe(10, "h:a"))
        second.say(Subscribe(10, "h:a"))
        await quiet()
        routing = node.hub.channels["h:a"].routing
        assert routing is not None
        routing.add_done_callback(lambda _: broker.fails.clear())
        routing.add_done_callback(lambda _: third.say(Subscribe(10, "h:a")))
        await broker.pass_all()
        assert [client.reply(10).type for client in (first, second, third)] == [
            "error",
            "error",
            "subscribed",
        ]
        await published(node, "h:a", 1)
        assert third.got() == [1]


@standing
async def test_one_who_is_cancelled_while_asking_leaves_it_to_another() -> None:
    broker = RacingBroker(only=frozenset({"subscribe"}))
    async with life(broker=broker) as node:
        loop = asyncio.get_running_loop()
        holds = [loop.create_task(node.hub.hold("h:a", rules("h:a"))) for _ in range(3)]
        await quiet()
        holds[0].cancel()
        await broker.pass_all()
        channels = await asyncio.gather(*holds[1:])
        assert channels[0] is channels[1] is node.hub.channels["h:a"]
        assert (holds[0].cancelled(), broker.calls) == (True, ["subscribe", "subscribe"])
        for channel in channels:
            node.hub.release(channel)
        await broker.pass_all()


@standing
async def test_all_who_ask_may_be_cancelled() -> None:
    broker = RacingBroker(only=frozenset({"subscribe"}))
    async with life(broker=broker) as node:
        loop = asyncio.get_running_loop()
        holds = [loop.create_task(node.hub.hold("h:a", rules("h:a"))) for _ in range(3)]
        await quiet()
        for hold in reversed(holds):
            hold.cancel()
        await quiet()
        assert node.hub.channels == {}


@standing
async def test_a_channel_that_is_left_and_joined_again_is_routed_whatever_the_broker_hears_first() -> None:
    for choices in every_order():
        broker = RacingBroker()
        async with life(broker=broker) as node:
            client, other = await node.client(), await node.client()
            client.say(Subscribe(10, "h:a"))
            await broker.pass_all()
            client.say(Unsubscribe(11, "h:a"), Subscribe(12, "h:a"))
            other.say(Subscribe(10, "h:a"))
            await race(broker, choices)
            await broker.pass_all()
            assert broker.routes == {"h:a"}
            await published(node, "h:a", "x")
            assert (client.got(), other.got()) == (["x"], ["x"])
            client.say(Unsubscribe(13, "h:a"))
            other.end()
            await broker.pass_all()
            assert (broker.routes, node.hub.channels) == (set(), {})


@standing
async def test_a_broker_that_cannot_unroute_holds_nobody_up() -> None:
    broker = RacingBroker(only=frozenset({"unsubscribe"}))
    async with life(broker=broker) as node:
        client = await node.client()
        await client.follow("h:a")
        broker.fails["unsubscribe"] = unavailable()
        client.say(Unsubscribe(10, "h:a"), Subscribe(11, "h:a"))
        await broker.pass_all()
        assert isinstance(client.reply(10), Unsubscribed)
        assert isinstance(client.reply(11), Subscribed)
        client.end()
        await broker.pass_all()
        assert broker.routes == {"h:a"}, "until the lease of the node ends"


class Refusing(RacingBroker):
    """A broker that knows at once that it cannot."""

    async def unsubscribe(self, channel: str) -> None:
        raise unavailable()

    async def leave(self, channel: str, connection: str) -> None:
        raise unavailable()


@standing
async def test_a_session_ends_whole_though_the_broker_refuses_at_once() -> None:
    async with life(broker=Refusing(only=frozenset())) as node:
        client = await node.client(user="ann")
        for channel in ("hp:a", "hp:b"):
            await client.follow(channel)
        client.end()
        assert node.released == [client.session.connection]


@standing
async def test_what_arrives_while_the_route_is_made_is_not_lost() -> None:
    for choices in every_order():
        broker = RacingBroker(only=frozenset({"subscribe"}))
        async with life(broker=broker) as node:
            client = await node.client()
            client.say(Subscribe(10, "a"))
            await race(broker, choices, lambda: published(node, "a", 1))
            await broker.pass_all()
            await published(node, "a", 2)
            assert client.got() in ([1, 2], [2])
            assert (client.reply(10).position, client.reply(10).messages) == (None, ())


@standing
async def test_a_channel_of_another_life_is_not_tidied_away() -> None:
    async with life() as node:
        stale = Channel("h:a", rules("h:a"))
        client = await node.client()
        await client.follow("h:a")
        node.hub.tidy(stale)
        assert node.hub.following() == {"h:a": 1}
        client.say(Unsubscribe(10, "h:a"))
        node.hub.tidy(stale)


# ---------------------------------------------------------------- instructions


@standing
async def test_the_server_subscribes_and_unsubscribes_a_user_everywhere() -> None:
    async with life() as node:
        clients = [await node.client(user="ann") for _ in range(2)]
        other = await node.client(user="ben")
        await node.publish("nobody:a", 0)
        await node.instruct("ann", "subscribe", "nobody:a")
        await node.instruct("ann", "subscribe", "nobody:a")
        await node.publish("nobody:a", 1)
        await quiet()
        assert [client.got("nobody:a") for client in (*clients, other)] == [[1], [1], []]
        for client in clients:
            made = [message for message in client.link.messages if isinstance(message, Subscribed)]
            assert made == [Subscribed("nobody:a")]
        await node.instruct("ann", "unsubscribe", "nobody:a")
        await node.instruct("ann", "unsubscribe", "nobody:a", reason="again")
        await node.publish("nobody:a", 2)
        await quiet()
        for client in clients:
            assert client.got("nobody:a") == [1]
            assert client.link.messages[-1] == Unsubscribed(
                "nobody:a", "unsubscribed", "unsubscribed by the server"
            )
        await node.instruct("ann", "subscribe", "h:a")
        await node.instruct("ann", "unsubscribe", "h:a", reason="enough")
        assert clients[0].link.messages[-1] == Unsubscribed("h:a", "unsubscribed", "enough")


@standing
async def test_the_server_disconnects_a_user_but_for_those_it_spares() -> None:
    async with life() as node:
        clients = [await node.client(user="ann") for _ in range(3)]
        spare = frozenset({clients[1].session.connection})
        await node.instruct("ann", "disconnect", code=4_100, reason="bye", spare=spare)
        assert [client.link.closed for client in clients] == [(4_100, "bye"), None, (4_100, "bye")]
        await node.instruct("ann", "disconnect")
        assert clients[1].link.closed == (4005, "disconnected")
        await node.instruct("ben", "disconnect")


@standing
async def test_what_the_server_may_not_do_either_is_not_done() -> None:
    async with life(strict=True) as node:
        client = await node.client(user="ann")
        await node.instruct("ann", "subscribe", "unheard:of")
        assert node.hub.following() == {"@ann": 1}
        assert await client.ask(Ping(50)) == PongReply(50)


class Buggy(RacingBroker):
    """A broker with a bug."""

    async def join(self, channel: str, member: Member) -> None:
        raise RuntimeError("a bug")


@standing
async def test_a_bug_while_the_server_subscribes_is_heard_of_and_ends_nothing() -> None:
    async with life(broker=Buggy(only=frozenset())) as node:
        client = await node.client(user="ann")
        await node.instruct("ann", "subscribe", "p:a")
        assert client.link.is_open
        (error,) = node.errors
        assert str(error) == "a bug"
        node.errors.clear()
        assert node.hub.following() == {"@ann": 1}


@standing
async def test_a_client_and_the_server_may_subscribe_at_once() -> None:
    for choices in every_order():
        broker = RacingBroker(only=frozenset({"subscribe", "join"}))
        async with life(broker=broker) as node:
            client = await node.client()
            client.end()
            client = node.open()
            client.say(Connect(1, token=node.token("ann")))
            await broker.pass_all()
            client.say(Subscribe(10, "hp:a"))
            await race(broker, choices, lambda: node.instruct("ann", "subscribe", "hp:a"))
            await broker.pass_all()
            made = [message for message in client.link.messages if isinstance(message, Subscribed)]
            assert len(made) == 1
            assert len(node.hub.channels["hp:a"]) == 1
            assert node.hub.channels["hp:a"].holds == 0
            await published(node, "hp:a", "x")
            assert client.got() == ["x"]
            assert (await broker.inner.presence("hp:a")).connections == 1
            client.end()
            await broker.pass_all()
            assert (await broker.inner.presence("hp:a")).connections == 0


@pytest.mark.parametrize(
    "actions", [("subscribe", "unsubscribe"), ("unsubscribe", "subscribe"), ("subscribe", "disconnect")]
)
@standing
async def test_instructions_have_their_effect_in_their_order(actions: tuple[str, str]) -> None:
    for choices in every_order():
        broker = RacingBroker(only=frozenset({"subscribe"}))
        async with life(broker=broker) as node:
            client = node.open()
            client.say(Connect(1, token=node.token("ann")))
            await broker.pass_all()
            acts = [lambda action=action: node.instruct("ann", action, "h:a") for action in actions]
            await race(broker, choices, *acts)
            await broker.pass_all()
            assert ("h:a" in client.session.subscriptions) == (actions[-1] == "subscribe")
            assert client.link.is_open == (actions[-1] != "disconnect")


@standing
async def test_what_the_server_wants_during_connect_comes_behind_its_reply() -> None:
    for choices in every_order():
        broker = RacingBroker()
        async with life(broker=broker) as node:
            client = node.open()
            client.say(Connect(1, token=node.token("ann"), subs={"h:a": Resume()}))
            acts = [
                lambda: node.instruct("ann", "subscribe", "h:b"),
                lambda: node.instruct("ann", "subscribe", "h:a"),
                lambda: published(node, "h:b", "x"),
            ]
            await race(broker, choices, *acts)
            await broker.pass_all()
            first, *rest = client.link.messages
            assert isinstance(first, Connected)
            assert set(first.subs) == {"@ann", "h:a"}
            assert [message for message in rest if isinstance(message, Connected)] == []
            await published(node, "h:a", "y")
            assert client.got("h:a") == ["y"]
            client.end()
            await broker.pass_all()


# ---------------------------------------------------------------- presence, raced


def seen_by(client: Client, channel: str, id: int) -> set[str]:
    """Return who *client* takes to be in *channel*: the members of its reply, and who came and went since."""
    here = {member.connection for member in client.reply(id).members}
    for message in client.link.messages:
        if isinstance(message, Join) and message.channel == channel:
            here.add(message.member.connection)
        elif isinstance(message, Leave) and message.channel == channel:
            here.discard(message.member.connection)
    return here


@standing
async def test_who_asks_for_the_members_misses_nobody_who_comes_or_goes_meanwhile() -> None:
    for choices in every_order():
        broker = RacingBroker(only=frozenset())
        async with life(broker=broker) as node:
            other = await node.client()
            await other.follow("p:a")
            broker.only = frozenset({"presence", "join"})
            client = await node.client()
            client.say(Subscribe(10, "p:a", members=True))
            inner = broker.inner
            acts = [
                partial(inner.join, "p:a", Member("x", "xara")),
                partial(inner.leave, "p:a", other.session.connection),
                partial(inner.join, "p:a", Member("y", "yves")),
                partial(inner.leave, "p:a", "x"),
            ]
            await race(broker, choices, *acts)
            await broker.pass_all()
            assert seen_by(client, "p:a", 10) == {client.session.connection, "y"}
            assert not node.hub.channels["p:a"].arriving
            await inner.leave("p:a", "y")
            client.end()
            await broker.pass_all()


@standing
async def test_who_leaves_and_comes_back_is_there_whatever_the_broker_hears_first() -> None:
    for choices in every_order():
        broker = RacingBroker(only=frozenset({"join", "leave"}))
        async with life(broker=broker) as node:
            client = await node.client()
            client.say(Subscribe(10, "p:a"))
            await broker.pass_all()
            client.say(
                Unsubscribe(11, "p:a"), Subscribe(12, "p:a"), Unsubscribe(13, "p:a"), Subscribe(14, "p:a")
            )
            await race(broker, choices)
            await broker.pass_all()
            assert (await broker.inner.presence("p:a")).connections == 1
            client.end()
            await broker.pass_all()
            assert (await broker.inner.presence("p:a")).connections == 0


@standing
async def test_a_publisher_and_everybody_else_hear_one_order() -> None:
    for choices in every_order():
        broker = RacingBroker(only=frozenset({"publish"}))
        async with life(broker=broker) as node:
            clients = [await node.client() for _ in range(2)]
            for client in clients:
                await client.follow("h:a")
            for index, client in enumerate(clients):
                client.say(
                    Publish(10, "h:a", payload_of([index, 1])), Publish(11, "h:a", payload_of([index, 2]))
                )
            await race(broker, choices)
            await broker.pass_all()
            first, second = (client.got() for client in clients)
            assert first == second
            for index in range(2):
                assert [value for value in first if value[0] == index] == [[index, 1], [index, 2]]


@standing
async def test_the_broker_hears_of_a_users_first_connection_and_of_the_end_of_the_last() -> None:
    broker = RacingBroker(only=frozenset())
    async with life(broker=broker) as node:
        heard = []
        await node.client()
        for _ in range(2):
            clients = [await node.client(user="ann") for _ in range(2)]
            heard.append(set(broker.users))
            for client in clients:
                client.end()
                heard.append(set(broker.users))
        assert heard == [{"ann"}, {"ann"}, set()] * 2
