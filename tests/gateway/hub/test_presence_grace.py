"""Which leaves wait for their user to return, and what those who watch a channel see of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from random import Random
from typing import Any

import pytest

from gateway.defaults import PRESENCE_GRACE_SECONDS
from protocol.errors import CloseCode
from protocol.messages import Connect, Join, Leave, Member, Presence, Resume, Subscribed, Unsubscribe
from tests.gateway.node import RULES, Client, Node, running_node
from tests.gateway.virtual_time import advance, on_virtual_time, until_idle

JUST_WITHIN = PRESENCE_GRACE_SECONDS - 0.1


class Watcher:
    """A client that keeps two lists of the members of `p:a`, as applications do: by connection, by user."""

    def __init__(self, client: Client, members: Sequence[Member]) -> None:
        self.client = client
        self.by_connection = {member.connection: member for member in members}
        self.users = Counter(member.user for member in members)
        self.pushes: list[Join | Leave] = []
        self._read = len(client.transport.messages)

    @classmethod
    async def start(cls, node: Node) -> Watcher:
        client = await node.connect(user="watcher")
        return cls(client, (await client.subscribe("p:a", members=True)).members or ())

    def update(self) -> list[Join | Leave]:
        """Apply the joins and leaves since the last call to both lists, and return them."""
        messages = self.client.transport.messages[self._read :]
        self._read += len(messages)
        pushes = [message for message in messages if isinstance(message, Join | Leave)]
        for push in pushes:
            member = push.member
            if isinstance(push, Join):
                assert member.connection not in self.by_connection, "joined twice"
                self.by_connection[member.connection] = member
                self.users[member.user] += 1
            else:
                assert self.by_connection.pop(member.connection) == member, "left without having joined"
                self.users[member.user] -= 1
        return pushes

    async def assert_converged(self) -> None:
        """Fail unless both lists are what a `presence` reply says."""
        self.update()
        reply = await self.client.request(Presence(self.client.next_id(), "p:a", members=True))
        assert {member.connection: member for member in reply.members} == self.by_connection
        assert Counter(member.user for member in reply.members) == +self.users
        assert (reply.connections, reply.users) == (len(self.by_connection), len(+self.users))


async def present(node: Node, user: str = "ann", **claims: Any) -> Client:
    """Connect *user*, with `p:a`."""
    client = node.open()
    connect = Connect(1, token=node.token(user, **claims), subs={"p:a": Resume()})
    client.welcome = await client.connect(connect)
    return client


@pytest.mark.parametrize("how", ["lost", "drained", "replaced", "too slow", "heartbeat timeout"])
@on_virtual_time
async def test_a_user_who_is_back_within_the_grace_never_left(how: str) -> None:
    async with running_node() as node:
        watcher = await Watcher.start(node)
        first = await present(node)
        (joined,) = watcher.update()
        member = joined.member
        assert first.session.subscriptions["p:a"].member == member
        for _ in range(3):
            if how == "lost":
                first.disconnect()
            elif how == "heartbeat timeout":
                first.session.on_heartbeat_timeout()
            elif how == "too slow":
                first.session.on_too_slow()
            else:
                first.session.close(CloseCode.DRAIN if how == "drained" else CloseCode.REPLACED)
            await advance(JUST_WITHIN)
            await watcher.assert_converged()
            first = await present(node)
            assert first.session.subscriptions["p:a"].member == member, "listed as before"
            subscribed = first.welcome.subs["p:a"]
            assert isinstance(subscribed, Subscribed)
            assert subscribed.listed_as == member.connection
            await watcher.assert_converged()
        await advance(10 * PRESENCE_GRACE_SECONDS)
        assert watcher.update() == []
        await first.request(Unsubscribe(50, "p:a"))
        await until_idle()
        assert watcher.update() == [Leave("p:a", member)], "the id that was announced"
        assert watcher.update() == []


@on_virtual_time
async def test_a_user_who_does_not_return_leaves_once_when_the_grace_ends() -> None:
    async with running_node() as node:
        watcher = await Watcher.start(node)
        first = await present(node)
        first.disconnect()
        await advance(JUST_WITHIN)
        (joined,) = watcher.update()
        await advance(0.2)
        assert watcher.update() == [Leave("p:a", joined.member)]
        await watcher.assert_converged()


async def unsubscribe(_: Node, client: Client) -> None:
    await client.request(Unsubscribe(50, "p:a"))


async def unsubscribe_by_the_backend(node: Node, client: Client) -> None:
    await node.send_user_command(client.session.user, "unsubscribe", "p:a")


async def disconnect_by_the_backend(node: Node, client: Client) -> None:
    await node.send_user_command(client.session.user, "disconnect")


@pytest.mark.parametrize("end", [unsubscribe, unsubscribe_by_the_backend, disconnect_by_the_backend])
@on_virtual_time
async def test_who_leaves_on_purpose_leaves_at_once(end: Any) -> None:
    async with running_node() as node:
        watcher = await Watcher.start(node)
        client = await present(node)
        (joined,) = watcher.update()
        await end(node, client)
        await until_idle()
        assert watcher.update() == [Leave("p:a", joined.member)]
        await watcher.assert_converged()


@pytest.mark.parametrize("grace", [0.0, PRESENCE_GRACE_SECONDS])
@on_virtual_time
async def test_anonymous_connections_and_namespaces_without_a_grace_leave_at_once(grace: float) -> None:
    async with running_node(rules={**RULES, "p": replace(RULES["p"], presence_grace=grace)}) as node:
        watcher = await Watcher.start(node)
        client = await node.connect(user="" if grace else "ann")
        await client.subscribe("p:a")
        (joined,) = watcher.update()
        client.disconnect()
        await until_idle()
        assert watcher.update() == [Leave("p:a", joined.member)]


@on_virtual_time
async def test_a_user_with_other_info_joins_before_the_earlier_member_leaves() -> None:
    async with running_node() as node:
        watcher = await Watcher.start(node)
        first = await present(node, info={"name": "Ann"})
        (joined,) = watcher.update()
        first.disconnect()
        await until_idle()
        second = await present(node, info={"name": "Annie"})
        newer = second.session.subscriptions["p:a"].member
        assert newer is not None
        assert newer.connection == second.session.connection
        await advance(PRESENCE_GRACE_SECONDS)
        assert watcher.update() == [Join("p:a", newer), Leave("p:a", joined.member)]
        await watcher.assert_converged()


@on_virtual_time
async def test_a_subscription_whose_channel_token_expired_may_return() -> None:
    async with running_node() as node:
        watcher = await Watcher.start(node)
        client = await present(node)
        watcher.update()
        client.session.revoke("p:a", "token_expired", "the channel token has expired")
        await advance(JUST_WITHIN)
        await client.subscribe("p:a")
        await advance(10 * PRESENCE_GRACE_SECONDS)
        assert watcher.update() == []
        client.session.revoke("p:a", "permission_denied", "no longer")
        await until_idle()
        assert [type(push) for push in watcher.update()] == [Leave]


@pytest.mark.parametrize("seed", range(20))
@on_virtual_time
async def test_lists_by_connection_and_by_user_converge_whatever_clients_do(seed: int) -> None:
    chance = Random(seed)
    async with running_node() as node:
        watcher = await Watcher.start(node)
        clients: list[Client] = []
        for _ in range(60):
            act = chance.random()
            if act < 0.5 or not clients:
                user = chance.choice(["ann", "ben", ""])
                if user:
                    clients.append(await present(node, user, info=chance.choice([None, {"x": 1}])))
                else:
                    clients.append(await node.connect())
                    await clients[-1].subscribe("p:a")
            else:
                client = clients.pop(chance.randrange(len(clients)))
                if act < 0.9:
                    client.disconnect()
                else:
                    await client.request(Unsubscribe(client.next_id(), "p:a"))
                    client.disconnect()
            if chance.random() < 0.5:
                await advance(chance.random() * PRESENCE_GRACE_SECONDS)
            else:
                await until_idle()
            await watcher.assert_converged()
        for client in clients:
            client.disconnect()
        await advance(PRESENCE_GRACE_SECONDS)
        await watcher.assert_converged()
        assert set(watcher.by_connection) == {watcher.client.session.connection}
