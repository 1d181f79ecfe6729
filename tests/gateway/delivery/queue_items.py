"""Subscribers, batches and queue items made for a test."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from gateway.delivery.encoding import EncodedBatch, EncodedMessage, data_frame
from gateway.delivery.overflow import QueuedItem
from gateway.transport.memory import decode_data_frames
from protocol.codec import JSON, Codec
from protocol.messages import Gap, Message, Ping, PongReply, ServerMessage
from protocol.payload import payload_of
from protocol.position import MessageId


class FakeSubscriber:
    """A subscription, as far as an outbox knows it."""

    def __init__(self, name: str, on_slow: str, codec: Codec = JSON) -> None:
        self.name = name
        self.on_slow = on_slow
        self.codec = codec

    def gap_frame(self, position: MessageId | None) -> bytes:
        return data_frame(self.codec.encode(Gap(self.name, "overflow", position)), binary=self.codec.binary)

    def batch(self, first: int, *numbered: bool, size: int = 0) -> EncodedBatch:
        """Return consecutive messages from offset *first* on: one for each of *numbered*, True with an id."""
        messages, offset = [], first - 1
        for index, has_number in enumerate(numbered or (True,)):
            offset += has_number
            data = payload_of([self.name, offset, index, "x" * size])
            messages.append(
                EncodedMessage(Message(self.name, data, message_id(offset) if has_number else None))
            )
        return EncodedBatch(self.codec, messages, message_id(first - 1))

    def item(self, first: int, *numbered: bool, size: int = 0) -> QueuedItem:
        """Return the queue item of `batch`."""
        batch = self.batch(first, *numbered, size=size)
        return QueuedItem(self, batch.data, batch)

    def gap_item(self, position: int) -> QueuedItem:
        """Return the queue item of a gap up to *position*."""
        return QueuedItem(self, self.gap_frame(message_id(position)), None)

    def __repr__(self) -> str:
        return f"{self.name}({self.on_slow})"


def message_id(offset: int) -> MessageId:
    return MessageId(offset, f"u{offset}")


def pong_frame(number: int) -> bytes:
    return data_frame(JSON.encode(PongReply(number)), binary=False)


def reply_item(number: int) -> QueuedItem:
    """Return the queue item of a reply, which is never dropped."""
    return QueuedItem(None, pong_frame(number), None)


def decode_all(data: Iterable[bytes]) -> list[ServerMessage]:
    """Return the messages of all frames in *data*."""
    return [JSON.decode_server_message(payload) for each in data for _, payload in decode_data_frames(each)]


def summary(items: Sequence[QueuedItem]) -> list[tuple[object, ...]]:
    """Return *items* shortened: ("pong", 1), ("gap", "a", 3), ("a", 4), or ("a", None) without an id."""
    short: list[tuple[object, ...]] = []
    for message in decode_all(item.data for item in items):
        if isinstance(message, PongReply | Ping):
            short.append(("pong", message.id))
        elif isinstance(message, Gap):
            short.append(("gap", message.channel, message.position and message.position.offset))
        elif isinstance(message, Message):
            short.append((message.channel, message.message and message.message.offset))
    return short
