"""How much fits into a reply: estimates of the sizes of messages and members in it, in bytes."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeVar

import orjson

from gateway.delivery.encoding import EncodedMessage
from protocol.messages import Member

T = TypeVar("T")

MESSAGE_ENVELOPE_BYTES = 150
"""Bytes of an encoded message beside its data, about."""

MEMBER_ENVELOPE_BYTES = 48
"""Bytes of an encoded member beside its names and its info, about."""


def message_size(encoded: EncodedMessage) -> int:
    """Return about how many bytes one message has in a reply."""
    return len(encoded.message.data.json) + MESSAGE_ENVELOPE_BYTES


def messages_size(messages: Iterable[EncodedMessage]) -> int:
    """Return about how many bytes *messages* have in a reply."""
    return sum(map(message_size, messages))


def member_size(member: Member) -> int:
    """Return about how many bytes one member has in a reply."""
    info = 0 if member.info is None else len(orjson.dumps(member.info))
    return MEMBER_ENVELOPE_BYTES + len(member.connection) + len(member.user.encode()) + info


def fitting(items: Iterable[T], size_of: Callable[[T], int], *, room: int) -> tuple[int, int]:
    """Return how many of *items*, in their order, fit into *room* bytes, and the sum of their sizes."""
    count = size = 0
    for item in items:
        item_size = size_of(item)
        if size + item_size > room:
            break
        size += item_size
        count += 1
    return count, size
