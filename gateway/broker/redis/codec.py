"""How messages, members and commands are encoded in Redis.

A message is a head, a newline, and its payload's own bytes, which no node on the way decodes. The head of a
plain message is its time in Unix milliseconds; where it has more, a JSON array [time, connection, user, tags,
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


def pack_publication(publication: Publication, time: int) -> bytes:
    """Return *publication* encoded, as published at *time*: Unix milliseconds."""
    sender, tags, exclude = publication.sender, publication.tags, publication.exclude
    if sender is None and not tags and not exclude:
        return b"%d\n%b" % (time, publication.data.json)
    sender_fields = (None, None) if sender is None else (sender.connection, sender.user)
    head = orjson.dumps([time, *sender_fields, None if tags is None else dict(tags), list(exclude)])
    return b"%b\n%b" % (head, publication.data.json)


def unpack_delivery(channel: str, message: MessageId | None, body: bytes) -> Delivery:
    """Return what `pack_publication` encoded in *body*, as the message with the id *message*."""
    head, _, data = body.partition(b"\n")
    if head.isdigit():
        return Delivery(Message(channel, Payload(data), message, None, None, int(head)))
    time, connection, user, tags, exclude = orjson.loads(head)
    sender = None if connection is None else Sender(connection, user)
    return Delivery(Message(channel, Payload(data), message, sender, tags, time), frozenset(exclude))


def ids_and_bodies(flat: Sequence[Any]) -> list[tuple[MessageId, bytes]]:
    """Return the ids and bodies in *flat*: offset, uid, body of each message, as of read_history.lua."""
    return [(MessageId(flat[i], flat[i + 1].decode()), flat[i + 2]) for i in range(0, len(flat), 3)]


def pack_member(member: Member) -> bytes:
    """Return *member* encoded, its user in the first line: scripts count users without decoding the rest."""
    return b"[%b,\n%b]" % (orjson.dumps(member.user), orjson.dumps([member.connection, member.info]))


def unpack_member(body: bytes) -> Member:
    """Return what `pack_member` encoded in *body*."""
    user, (connection, info) = orjson.loads(body)
    return Member(connection, user, info)


def pack_user_command(command: UserCommand) -> bytes:
    """Return *command* encoded, without `issued_before`, which only its receiver sets."""
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
    """Return what `pack_user_command` encoded in *body*."""
    user, action, channel, code, reason, except_connections = orjson.loads(body)
    return UserCommand(user, action, channel, code, reason, frozenset(except_connections))
