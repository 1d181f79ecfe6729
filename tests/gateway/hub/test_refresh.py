"""A refresh with a token that grants other channels than the one before, and what the push API ended."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from gateway.broker.base import Retention
from gateway.errors import BrokerUnavailable
from gateway.hub.services import SessionLimits
from protocol.messages import Connect, Refresh, Refreshed, Subscribe, Subscribed, Unsubscribe, Unsubscribed
from protocol.position import MessageId
from tests.gateway.hub.interleavings import GatedBroker
from tests.gateway.node import Client, Node, running_node
from tests.gateway.virtual_time import advance, on_virtual_time

NOT_PERMITTED = "the new token does not permit it"


async def client_of(node: Node, *channels: str, **claims: Any) -> Client:
    """Return a client of ann whose token names *channels*."""
    client = node.open()
    client.welcome = await client.connect(Connect(1, token=node.token("ann", channels=[*channels], **claims)))
    return client


async def refresh(client: Client, *channels: str, **claims: Any) -> Sequence[object]:
    """Refresh with a token that names *channels*; return what was pushed before the reply."""
    node, seen = client.node, len(client.transport.messages)
    id = client.next_id()
    reply = await client.request(Refresh(id, node.token("ann", channels=[*channels], **claims)))
    assert reply == Refreshed(id, 3_600.0)
    *pushes, last = client.transport.messages[seen:]
    assert last is reply or last == reply
    return pushes


@on_virtual_time
async def test_channels_that_the_new_token_does_not_name_end() -> None:
    async with running_node() as node:
        client = await client_of(node, "nobody:a", "nobody:b", "token:a", "p:a")
        assert await refresh(client, "nobody:b") == [
            Unsubscribed("nobody:a", "permission_denied", NOT_PERMITTED),
            Unsubscribed("token:a", "permission_denied", NOT_PERMITTED),
        ]
        # The rule of the namespace permits p:a without the token.
        assert sorted(client.session.subscriptions) == ["@ann", "nobody:b", "p:a"]
        await node.publish("nobody:a", "lost")
        await node.publish("nobody:b", "kept")
        await advance(0.0)
        assert client.values() == ["kept"]
        for channel in ("nobody:a", "token:a"):
            rejected = await client.request_rejected(Subscribe(client.next_id(), channel))
            assert rejected.code == "permission_denied"
        assert await refresh(client) == [Unsubscribed("nobody:b", "permission_denied", NOT_PERMITTED)]


@on_virtual_time
async def test_a_refresh_ends_what_the_client_subscribed_by_its_claim_and_nothing_else() -> None:
    async with running_node() as node:
        client = await client_of(node, "token:a", "token:b")
        await client.request(Unsubscribe(2, "token:a"))
        await client.subscribe("token:a")
        await node.send_user_command("ann", "subscribe", "nobody:api")
        await client.subscribe("token:c", token=node.token("ann", channel="token:c"))
        assert await refresh(client) == [
            Unsubscribed("token:b", "permission_denied", NOT_PERMITTED),
            Unsubscribed("token:a", "permission_denied", NOT_PERMITTED),
        ]
        assert sorted(client.session.subscriptions) == ["@ann", "nobody:api", "token:c"]


@on_virtual_time
async def test_channels_that_the_new_token_adds_are_subscribed_by_the_server() -> None:
    async with running_node() as node:
        receipt = await node.publish("h:b", "earlier")
        client = await client_of(node, "nobody:a")
        await client.request(Unsubscribe(2, "nobody:a"))
        pushes = await refresh(client, "nobody:a", "h:b", "nobody:c")
        # The client left nobody:a by itself, and the token before named it already.
        assert pushes == [Subscribed("h:b", receipt.id), Subscribed("nobody:c")]
        await node.publish("h:b", "later")
        await node.publish("nobody:c", "later")
        await advance(0.0)
        assert client.values() == ["later", "later"]
        await client.subscribe("nobody:a")


class Unreachable(GatedBroker):
    """A broker that does not route one channel."""

    async def subscribe(self, channel: str, retention: Retention | None) -> MessageId | None:
        if channel == "nobody:b":
            raise BrokerUnavailable("no answer")
        return await super().subscribe(channel, retention)


@on_virtual_time
async def test_a_client_learns_which_added_channels_the_server_could_not_subscribe_it_to() -> None:
    broker = Unreachable(only=frozenset())
    async with running_node(broker=broker, limits=SessionLimits(channels=2)) as node:
        client = await client_of(node)
        pushes = await refresh(client, "nobody:b", "nobody:c", "nobody:d")
        outcomes = [
            (push.channel, push.code if isinstance(push, Unsubscribed) else "subscribed")
            for push in pushes
            if isinstance(push, Unsubscribed | Subscribed)
        ]
        assert outcomes == [
            ("nobody:b", "unavailable"),
            ("nobody:c", "subscribed"),
            ("nobody:d", "limit_exceeded"),
        ]


@pytest.mark.parametrize("channel", ["nobody:a", "token:a"])
@on_virtual_time
async def test_what_the_push_api_ended_stays_ended_whatever_older_token_the_client_sends(
    channel: str,
) -> None:
    async with running_node() as node:
        old = {"iat": int(node.wall())}
        channel_token = node.token("ann", channel=channel, **old)
        client = await client_of(node, channel, **old)
        await advance(2.0)
        # A client that left for the moment is no exception.
        await client.request(Unsubscribe(2, channel))
        await node.send_user_command("ann", "unsubscribe", channel)
        assert (await client.request_rejected(Subscribe(3, channel))).code == "permission_denied"
        rejected = await client.request_rejected(Subscribe(4, channel, channel_token))
        assert rejected.code == "permission_denied"
        assert await refresh(client, channel, **old) == []
        assert await refresh(client, channel) == []
        assert (await client.request_rejected(Subscribe(5, channel))).code == "permission_denied"
        await advance(2.0)
        assert await refresh(client, channel, iat=int(node.wall())) == [Subscribed(channel)]


@on_virtual_time
async def test_the_push_api_may_subscribe_a_client_again_whose_claim_then_counts_again() -> None:
    async with running_node() as node:
        client = await client_of(node, "nobody:a")
        await node.send_user_command("ann", "unsubscribe", "nobody:a")
        await node.send_user_command("ann", "subscribe", "nobody:a")
        assert client.transport.messages[-1] == Subscribed("nobody:a")
        await client.request(Unsubscribe(2, "nobody:a"))
        await client.subscribe("nobody:a")


@on_virtual_time
async def test_a_channel_token_that_was_issued_after_the_push_api_ended_the_channel_counts() -> None:
    async with running_node() as node:
        client = await node.connect(user="ann")
        await node.send_user_command("ann", "unsubscribe", "token:a")
        await advance(2.0)
        await client.subscribe("token:a", token=node.token("ann", channel="token:a", iat=int(node.wall())))


@on_virtual_time
async def test_a_late_command_ends_what_tokens_of_before_its_time_permit() -> None:
    async with running_node() as node:
        await advance(10.0)
        client = await client_of(node)
        issued_before = node.wall()
        await advance(10.0)
        new = {"iat": int(node.wall())}
        assert await refresh(client, "nobody:a", **new) == [Subscribed("nobody:a")]
        await node.send_user_command("ann", "unsubscribe", "nobody:a", issued_before=issued_before + 0.001)
        assert client.transport.messages[-1].type == "unsubscribed"
        assert await refresh(client, "nobody:a", **new) == [Subscribed("nobody:a")]


@on_virtual_time
async def test_a_subscription_outlives_its_channel_token_if_the_token_of_the_connection_permits_it() -> None:
    async with running_node(interval=10_000.0) as node:
        client = await client_of(node)
        await client.subscribe("token:a", token=node.token("ann", channel="token:a", ttl=60.0))
        await client.subscribe("token:b", token=node.token("ann", channel="token:b", ttl=60.0))
        assert await refresh(client, "token:a") == []
        await advance(60.0)
        assert client.transport.messages[-1] == Unsubscribed(
            "token:b", "token_expired", "the channel token has expired"
        )
        assert sorted(client.session.subscriptions) == ["@ann", "token:a"]
        assert await refresh(client) == [Unsubscribed("token:a", "permission_denied", NOT_PERMITTED)]
