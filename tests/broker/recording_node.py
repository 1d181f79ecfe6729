"""A node that records what a broker delivers, and helpers to publish to it."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from gateway.broker.base import (
    Broker,
    ConnectionRecord,
    Delivery,
    Envelope,
    NodeRecord,
    Publication,
    Retention,
)
from protocol.messages import Message
from protocol.payload import payload_of
from protocol.position import MessageId

KEPT = Retention(size=5, ttl=300.0)

Later = Callable[[float], Awaitable[None]]
"""Advances the broker's clocks by so many seconds, and lets it drop what has expired."""

RECEIVE_TIMEOUT_SECONDS = 20.0
"""How long to wait for a delivery; no broker needs as long."""


class RecordingNode:
    """The node that a broker serves in these tests."""

    def __init__(self, name: str = "n1") -> None:
        self.name = name
        self.envelopes: list[Envelope] = []
        self.followed: dict[str, int] = {}
        self.connected: dict[str, list[ConnectionRecord]] = {}
        self._arrived = asyncio.Event()

    def deliver(self, envelope: Envelope) -> None:
        self.envelopes.append(envelope)
        self._arrived.set()

    def connections(self, user: str) -> Sequence[ConnectionRecord]:
        return self.connected.get(user, [])

    def subscribed_channels(
        self, prefix: str = "", *, after: str = "", limit: int | None = None
    ) -> Mapping[str, int]:
        names = sorted(name for name in self.followed if name.startswith(prefix) and name > after)
        return {name: self.followed[name] for name in names[:limit]}

    def subscribers(self, channel: str) -> int:
        return self.followed.get(channel, 0)

    def as_record(self) -> NodeRecord:
        return NodeRecord(self.name, connections=3, channels=2, subscriptions=5, uptime=1.5)

    async def received(self, count: int) -> list[Envelope]:
        """Wait for *count* envelopes, return them and forget them; one too many is one of the next."""
        async with asyncio.timeout(RECEIVE_TIMEOUT_SECONDS):
            while len(self.envelopes) < count:
                self._arrived.clear()
                await self._arrived.wait()
        received, self.envelopes = self.envelopes[:count], self.envelopes[count:]
        return received

    async def messages(self, count: int) -> list[Message]:
        """Wait for *count* envelopes, which must all be messages."""
        received = await self.received(count)
        messages = [envelope.message for envelope in received if isinstance(envelope, Delivery)]
        assert len(messages) == count, received
        return messages


def publication(channel: str, value: Any, **options: Any) -> Publication:
    return Publication(channel, payload_of(value), **{"retention": KEPT, **options})


async def publish(broker: Broker, channel: str, *values: Any, **options: Any) -> list[MessageId]:
    """Publish *values* in a channel with history, one after the other; return their ids."""
    receipts = [await broker.publish(publication(channel, value, **options)) for value in values]
    return [receipt.id for receipt in receipts if receipt.id is not None]


def values(messages: Any) -> list[Any]:
    return [message.data.value for message in messages]
