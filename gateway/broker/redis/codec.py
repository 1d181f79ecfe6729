"""How messages, members and commands are encoded in Redis.

A message is encoded as a head, a newline, and the bytes of the payload as they were published; no node
decodes the payload. If a message has neither sender nor tags nor excluded connections, the head is the time
in Unix milliseconds. Otherwise the head is a JSON array [time, connection, user, tags, exclude]. orjson
writes no newline, so the first newline ends the head.
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
    """Return *publication* encoded, with its *time* in Unix milliseconds."""
    sender, tags, exclude = publication.sender, publication.tags, publication.exclude
    if sender is None and not tags and not exclude:
        return b"%d\n%b" % (time, publication.data.json)
    sender_fields = (None, None) if sender is None else (sender.connection, sender.user)
    head = orjson.dumps([time, *sender_fields, None if tags is None else dict(tags), list(exclude)])
    return b"%b\n%b" % (head, publication.data.json)


def unpack_delivery(channel: str, message: MessageId | None, body: bytes) -> Delivery:
    """Decode *body*, which `pack_publication` encoded; *message* is the id of the message."""
    head, _, data = body.partition(b"\n")
    if head.isdigit():
        return Delivery(Message(channel, Payload(data), message, None, None, int(head)))
    time, connection, user, tags, exclude = orjson.loads(head)
    sender = None if connection is None else Sender(connection, user)
    return Delivery(Message(channel, Payload(data), message, sender, tags, time), frozenset(exclude))


def ids_and_bodies(flat: Sequence[Any]) -> list[tuple[MessageId, bytes]]:
    """Return the ids and bodies in *flat*: offset, uid, body, offset, … as read_history.lua returns them."""
    return [(MessageId(flat[i], flat[i + 1].decode()), flat[i + 2]) for i in range(0, len(flat), 3)]


def pack_member(member: Member) -> bytes:
    """Return *member* encoded, with the user in the first line: scripts count users by that line alone."""
    return b"[%b,\n%b]" % (orjson.dumps(member.user), orjson.dumps([member.connection, member.info]))


def unpack_member(body: bytes) -> Member:
    """Decode *body*, which `pack_member` encoded."""
    user, (connection, info) = orjson.loads(body)
    return Member(connection, user, info)


def pack_user_command(command: UserCommand) -> bytes:
    """Return *command* encoded, without `issued_before`, which only the receiving node sets."""
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
    """Decode *body*, which `pack_user_command` encoded."""
    user, action, channel, code, reason, except_connections = orjson.loads(body)
    return UserCommand(user, action, channel, code, reason, frozenset(except_connections))
