"""What crosses Redis: a head, a newline, and the payload's own bytes, which nobody on the way decodes.

The head of a plain message is its time; of one with more, a JSON array [time, connection, user, tags,
exclude]. orjson writes no newline, so the first one ends the head.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import orjson

from gateway.broker.base import Delivery, Publication, UserCommand
from protocol.messages import Member, Message, Sender
from protocol.payload import Payload
from protocol.position import MessageId


def pack(publication: Publication, time: int) -> bytes:
    """Return *publication* as bytes; *time* in Unix milliseconds."""
    sender, tags, exclude = publication.sender, publication.tags, publication.exclude
    if sender is None and not tags and not exclude:
        return b"%d\n%b" % (time, publication.data.json)
    who = (None, None) if sender is None else (sender.connection, sender.user)
    head = orjson.dumps([time, *who, None if tags is None else dict(tags), list(exclude)])
    return b"%b\n%b" % (head, publication.data.json)


def unpack(channel: str, message: MessageId | None, body: bytes) -> Delivery:
    """Return what `pack` made into *body*."""
    head, _, data = body.partition(b"\n")
    if head.isdigit():
        return Delivery(Message(channel, Payload(data), message, None, None, int(head)))
    time, connection, user, tags, exclude = orjson.loads(head)
    sender = None if connection is None else Sender(connection, user)
    return Delivery(Message(channel, Payload(data), message, sender, tags, time), frozenset(exclude))


def pack_member(member: Member) -> bytes:
    """Return *member* as bytes, its user in the first line: scripts count users without decoding the rest."""
    return b"[%b,\n%b]" % (orjson.dumps(member.user), orjson.dumps([member.connection, member.info]))


def unpack_member(body: bytes) -> Member:
    """Return what `pack_member` made into *body*."""
    user, (connection, info) = orjson.loads(body)
    return Member(connection, user, info)


def pack_user_command(command: UserCommand) -> bytes:
    """Return *command* as bytes."""
    return orjson.dumps(
        [
            command.user,
            command.action,
            command.channel,
            command.code,
            command.reason,
            list(command.except_connections),
        ]
    )


def unpack_user_command(body: bytes) -> UserCommand:
    """Return what `pack_user_command` made into *body*."""
    user, action, channel, code, reason, except_connections = orjson.loads(body)
    return UserCommand(user, action, channel, code, reason, frozenset(except_connections))


def identities(flat: Sequence[Any]) -> list[tuple[MessageId, bytes]]:
    """Return the ids and bodies of *flat*, which holds an offset, a uid and a body for each message."""
    return [(MessageId(flat[i], flat[i + 1].decode()), flat[i + 2]) for i in range(0, len(flat), 3)]
