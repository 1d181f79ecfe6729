"""Clients that read too slowly, and what they heard in the end."""

from __future__ import annotations

from typing import Any

from gateway.delivery.overflow import POLICIES
from gateway.hub.services import SessionLimits
from protocol.messages import Gap, Message
from tests.gateway.life import Client, Life
from tests.gateway.standing import quiet

OUTBOX = 4_000
LIMITS = SessionLimits(outbox=OUTBOX, catch_up_batch=5)
FILL = "x" * 200
CHANNEL = dict(zip(POLICIES, ("h:a", "newest:a", "dropping:a", "strict:a"), strict=True))


def short(message: Any) -> Any:
    """Return what a push says: the value of a message, or a gap's reason and number."""
    if isinstance(message, Gap):
        return (message.reason, message.position and message.position.offset)
    return message.data.value[0] if isinstance(message, Message) else message.type


def pushes(client: Client, channel: str) -> list[Any]:
    return [
        short(message)
        for message in client.link.messages
        if isinstance(message, Message | Gap) and message.channel == channel
    ]


async def say(node: Life, channel: str, *values: Any, **options: Any) -> None:
    """Publish *values*, each in a turn of its own, and watch the bound."""
    for value in values:
        await node.publish(channel, [value, FILL], **options)
        await quiet()
        for client in node.clients:
            assert client.session.statistics()["waiting"] <= OUTBOX


async def read_on(*clients: Client) -> None:
    """Let the sockets of *clients* take as much as they want."""
    for client in clients:
        client.link.capacity = None
        client.link.drain()
    await quiet()
