"""User commands of the push API, and their order among everything else that a session receives."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial

import pytest

from gateway.defaults import PRESENCE_GRACE_SECONDS
from protocol.messages import (
    Connect,
    Connected,
    Join,
    Leave,
    Member,
    Ping,
    PongReply,
    Publish,
    Resume,
    Subscribe,
    Subscribed,
    Unsubscribe,
    Unsubscribed,
)
from protocol.payload import payload_of
from tests.gateway.hub.interleavings import (
    GatedBroker,
    all_interleavings,
    publish_and_deliver,
    run_interleaved,
)
from tests.gateway.node import Client, running_node
from tests.gateway.virtual_time import advance, on_virtual_time, until_idle

# ---------------------------------------------------------------- instructions


@on_virtual_time
async def test_a_user_command_subscribes_and_unsubscribes_every_connection() -> None:
    async with running_node() as node:
        clients = [await node.connect(user="ann") for _ in range(2)]
        other = await node.connect(user="ben")
        await node.publish("nobody:a", 0)
        await node.send_user_command("ann", "subscribe", "nobody:a")
        await node.send_user_command("ann", "subscribe", "nobody:a")
        await node.publish("nobody:a", 1)
        await until_idle()
        assert [client.values("nobody:a") for client in (*clients, other)] == [[1], [1], []]
        for client in clients:
            made = [message for message in client.transport.messages if isinstance(message, Subscribed)]
            assert made == [Subscribed("nobody:a")]
        await node.send_user_command("ann", "unsubscribe", "nobody:a")
        await node.send_user_command("ann", "unsubscribe", "nobody:a", reason="again")
        await node.publish("nobody:a", 2)
        await until_idle()
        for client in clients:
            assert client.values("nobody:a") == [1]
            assert client.transport.messages[-1] == Unsubscribed(
                "nobody:a", "unsubscribed", "unsubscribed by the server"
            )
        await node.send_user_command("ann", "subscribe", "h:a")
        await node.send_user_command("ann", "unsubscribe", "h:a", reason="enough")
        assert clients[0].transport.messages[-1] == Unsubscribed("h:a", "unsubscribed", "enough")


@on_virtual_time
async def test_a_user_command_does_not_disconnect_excepted_connections() -> None:
    async with running_node() as node:
        clients = [await node.connect(user="ann") for _ in range(3)]
        spare = frozenset({clients[1].session.connection})
        await node.send_user_command("ann", "disconnect", code=4_100, reason="bye", except_connections=spare)
        assert [client.transport.closed for client in clients] == [(4_100, "bye"), None, (4_100, "bye")]
        await node.send_user_command("ann", "disconnect")
        assert clients[1].transport.closed == (4005, "disconnected")
        await node.send_user_command("ben", "disconnect")


@on_virtual_time
async def test_a_late_user_command_applies_to_older_connections_only() -> None:
    async with running_node() as node:
        old = await node.connect(user="ann")
        node.clock.advance(1.0)
        time = node.clock()
        node.clock.advance(1.0)
        new = await node.connect(user="ann")
        for channel, before in (("nobody:a", time), ("nobody:b", node.clock() + 1)):
            await node.send_user_command("ann", "subscribe", channel, issued_before=before)
        await node.publish("nobody:a", 1)
        await node.publish("nobody:b", 2)
        await until_idle()
        assert [(client.values("nobody:a"), client.values("nobody:b")) for client in (old, new)] == [
            ([1], [2]),
            ([], [2]),
        ]
        await node.send_user_command("ann", "disconnect", issued_before=time)
        await node.send_user_command("ann", "disconnect", issued_before=new.session.opened_at)
        assert (old.transport.closed, new.transport.closed) == ((4005, "disconnected"), None)


@on_virtual_time
async def test_a_server_subscribe_that_is_not_possible_does_nothing() -> None:
    async with running_node(strict=True) as node:
        client = await node.connect(user="ann")
        await node.send_user_command("ann", "subscribe", "unheard:of")
        assert node.hub.subscribed_channels() == {"@ann": 1}
        assert await client.request(Ping(50)) == PongReply(50)


class Buggy(GatedBroker):
    """A broker that raises an unexpected error."""

    async def join(self, channel: str, member: Member) -> Member:
        raise RuntimeError("a bug")


@on_virtual_time
async def test_an_unexpected_error_in_a_server_subscribe_is_reported_and_ends_nothing() -> None:
    async with running_node(broker=Buggy(only=frozenset())) as node:
        client = await node.connect(user="ann")
        await node.send_user_command("ann", "subscribe", "p:a")
        assert client.transport.is_open
        (error,) = node.errors
        assert str(error) == "a bug"
        node.errors.clear()
        assert node.hub.subscribed_channels() == {"@ann": 1}


@on_virtual_time
async def test_client_and_server_may_subscribe_at_the_same_time() -> None:
    for choices in all_interleavings():
        broker = GatedBroker(only=frozenset({"subscribe", "join"}))
        async with running_node(broker=broker) as node:
            client = await node.connect()
            client.disconnect()
            client = node.open()
            client.send(Connect(1, token=node.token("ann")))
            await broker.pass_all()
            client.send(Subscribe(10, "hp:a"))
            await run_interleaved(broker, choices, lambda: node.send_user_command("ann", "subscribe", "hp:a"))
            await broker.pass_all()
            made = [message for message in client.transport.messages if isinstance(message, Subscribed)]
            assert len(made) == 1
            assert len(node.hub.channels["hp:a"]) == 1
            assert node.hub.channels["hp:a"].pending_subscriptions == 0
            await publish_and_deliver(node, "hp:a", "x")
            assert client.values() == ["x"]
            assert (await broker.inner.presence("hp:a")).connections == 1
            client.disconnect()
            await broker.pass_all()
            await advance(PRESENCE_GRACE_SECONDS)
            assert (await broker.inner.presence("hp:a")).connections == 0


@pytest.mark.parametrize(
    "actions", [("subscribe", "unsubscribe"), ("unsubscribe", "subscribe"), ("subscribe", "disconnect")]
)
@on_virtual_time
async def test_user_commands_take_effect_in_their_order(actions: tuple[str, str]) -> None:
    for choices in all_interleavings():
        broker = GatedBroker(only=frozenset({"subscribe"}))
        async with running_node(broker=broker) as node:
            client = node.open()
            client.send(Connect(1, token=node.token("ann")))
            await broker.pass_all()
            acts = [lambda action=action: node.send_user_command("ann", action, "h:a") for action in actions]
            await run_interleaved(broker, choices, *acts)
            await broker.pass_all()
            assert ("h:a" in client.session.subscriptions) == (actions[-1] == "subscribe")
            assert client.transport.is_open == (actions[-1] != "disconnect")


@on_virtual_time
async def test_a_user_command_during_connect_is_carried_out_after_its_reply() -> None:
    for choices in all_interleavings():
        broker = GatedBroker()
        async with running_node(broker=broker) as node:
            client = node.open()
            client.send(Connect(1, token=node.token("ann"), subs={"h:a": Resume()}))
            acts = [
                lambda: node.send_user_command("ann", "subscribe", "h:b"),
                lambda: node.send_user_command("ann", "subscribe", "h:a"),
                lambda: publish_and_deliver(node, "h:b", "x"),
            ]
            await run_interleaved(broker, choices, *acts)
            await broker.pass_all()
            first, *rest = client.transport.messages
            assert isinstance(first, Connected)
            assert set(first.subs) == {"@ann", "h:a"}
            assert [message for message in rest if isinstance(message, Connected)] == []
            await publish_and_deliver(node, "h:a", "y")
            assert client.values("h:a") == ["y"]
            client.disconnect()
            await broker.pass_all()


# ---------------------------------------------------------------- presence, raced


def seen_by(client: Client, channel: str, id: int) -> set[str]:
    """Return the members of *channel* as *client* knows them: its reply, and joins and leaves since."""
    here = {member.connection for member in client.reply(id).members}
    for message in client.transport.messages:
        if isinstance(message, Join) and message.channel == channel:
            here.add(message.member.connection)
        elif isinstance(message, Leave) and message.channel == channel:
            here.discard(message.member.connection)
    return here


@on_virtual_time
async def test_a_member_list_includes_joins_and_leaves_made_meanwhile() -> None:
    for choices in all_interleavings():
        broker = GatedBroker(only=frozenset())
        async with running_node(broker=broker) as node:
            other = await node.connect()
            await other.subscribe("p:a")
            broker.only = frozenset({"presence", "join"})
            client = await node.connect()
            client.send(Subscribe(10, "p:a", members=True))
            inner = broker.inner
            acts: list[Callable[[], Awaitable[object]]] = [
                partial(inner.join, "p:a", Member("x", "xara")),
                partial(inner.leave, "p:a", other.session.connection),
                partial(inner.join, "p:a", Member("y", "yves")),
                partial(inner.leave, "p:a", "x"),
            ]
            await run_interleaved(broker, choices, *acts)
            await broker.pass_all()
            assert seen_by(client, "p:a", 10) == {client.session.connection, "y"}
            assert not node.hub.channels["p:a"].member_lists
            await inner.leave("p:a", "y")
            client.disconnect()
            await broker.pass_all()


@on_virtual_time
async def test_a_member_that_leaves_and_joins_again_is_present_in_every_interleaving() -> None:
    for choices in all_interleavings():
        broker = GatedBroker(only=frozenset({"join", "leave"}))
        async with running_node(broker=broker) as node:
            client = await node.connect()
            client.send(Subscribe(10, "p:a"))
            await broker.pass_all()
            client.send(
                Unsubscribe(11, "p:a"), Subscribe(12, "p:a"), Unsubscribe(13, "p:a"), Subscribe(14, "p:a")
            )
            await run_interleaved(broker, choices)
            await broker.pass_all()
            assert (await broker.inner.presence("p:a")).connections == 1
            client.disconnect()
            await broker.pass_all()
            assert (await broker.inner.presence("p:a")).connections == 0


@on_virtual_time
async def test_a_publisher_and_the_other_subscribers_see_one_order() -> None:
    for choices in all_interleavings():
        broker = GatedBroker(only=frozenset({"publish"}))
        async with running_node(broker=broker) as node:
            clients = [await node.connect() for _ in range(2)]
            for client in clients:
                await client.subscribe("h:a")
            for index, client in enumerate(clients):
                client.send(
                    Publish(10, "h:a", payload_of([index, 1])), Publish(11, "h:a", payload_of([index, 2]))
                )
            await run_interleaved(broker, choices)
            await broker.pass_all()
            first, second = (client.values() for client in clients)
            assert first == second
            for index in range(2):
                assert [value for value in first if value[0] == index] == [[index, 1], [index, 2]]


@on_virtual_time
async def test_the_broker_learns_of_a_users_first_and_last_connection() -> None:
    broker = GatedBroker(only=frozenset())
    async with running_node(broker=broker) as node:
        connected_users = []
        await node.connect()
        for _ in range(2):
            clients = [await node.connect(user="ann") for _ in range(2)]
            connected_users.append(set(broker.users))
            for client in clients:
                client.disconnect()
                connected_users.append(set(broker.users))
        assert connected_users == [{"ann"}, {"ann"}, set()] * 2
