"""Clients that read too slowly, and what they receive in the end."""

from __future__ import annotations

from typing import Any

from gateway.delivery.overflow import POLICIES
from gateway.hub.services import SessionLimits
from protocol.messages import Gap, Message
from tests.gateway.node import Client, Node
from tests.gateway.virtual_time import until_idle

OUTBOX_BYTES = 4_000
LIMITS = SessionLimits(outbox=OUTBOX_BYTES, catch_up_batch=5)
PADDING = "x" * 200
CHANNEL_OF_POLICY = dict(zip(POLICIES, ("h:a", "newest:a", "dropping:a", "strict:a"), strict=True))


def summary(message: Any) -> Any:
    """Return the value of a message, or the reason and the offset of a gap."""
    if isinstance(message, Gap):
        return (message.reason, message.position and message.position.offset)
    return message.data.value[0] if isinstance(message, Message) else message.type


def pushes(client: Client, channel: str) -> list[Any]:
    """Return the messages and gaps of *channel* that *client* received, shortened."""
    return [
        summary(message)
        for message in client.transport.messages
        if isinstance(message, Message | Gap) and message.channel == channel
    ]


async def publish_each(node: Node, channel: str, *values: Any, **options: Any) -> None:
    """Publish *values*, each in its own turn of the loop, and check the bound of every outbox."""
    for value in values:
        await node.publish(channel, [value, PADDING], **options)
        await until_idle()
        for client in node.clients:
            assert client.session.statistics()["waiting"] <= OUTBOX_BYTES


async def drain(*clients: Client) -> None:
    """Let the sockets of *clients* take everything from now on."""
    for client in clients:
        client.transport.capacity = None
        client.transport.drain()
    await until_idle()
