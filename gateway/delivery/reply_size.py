"""How much fits into a reply: estimates of what messages and members take in it, in bytes."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeVar

import orjson

from gateway.delivery.encoding import EncodedMessage
from protocol.messages import Member

T = TypeVar("T")

MESSAGE_ENVELOPE_BYTES = 150
"""Bytes that an encoded message takes beside its data, about."""

MEMBER_ENVELOPE_BYTES = 48
"""Bytes that a member takes beside its names and its info, about."""


def message_size(encoded: EncodedMessage) -> int:
    """Return about how many bytes one message takes in a reply."""
    return len(encoded.message.data.json) + MESSAGE_ENVELOPE_BYTES


def messages_size(messages: Iterable[EncodedMessage]) -> int:
    """Return about how many bytes *messages* take in a reply."""
    return sum(map(message_size, messages))


def member_size(member: Member) -> int:
    """Return about how many bytes one member takes in a reply."""
    info = 0 if member.info is None else len(orjson.dumps(member.info))
    return MEMBER_ENVELOPE_BYTES + len(member.connection) + len(member.user.encode()) + info


def fitting(items: Iterable[T], size_of: Callable[[T], int], *, room: int) -> tuple[int, int]:
    """Return how many of *items*, in their order, fit into *room* bytes, and how many bytes these take."""
    count = size = 0
    for item in items:
        taken = size_of(item)
        if size + taken > room:
            break
        size += taken
        count += 1
    return count, size
