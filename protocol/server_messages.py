"""Replies and pushes to maps and back: the wire's names, in the wire's order.

A value that is already encoded stands in a map as what it is: a `Payload`, or an `Encoded` message in
`messages`; the codecs splice it. Absent is what is None.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol

from protocol import fields
from protocol.errors import BadRequest, ErrorCode
from protocol.messages import (
    Connected,
    Error,
    Expiring,
    Gap,
    HistoryPage,
    Join,
    Leave,
    Member,
    Message,
    PongReply,
    PresenceState,
    Published,
    Reconnect,
    Refreshed,
    Sender,
    ServerMessage,
    ServerPing,
    Subscribed,
    Unsubscribed,
)


class Encoded(Protocol):
    """A message push that is already encoded, per codec (see `gateway.delivery.encoding.EncodedMessage`)."""

    def body(self, subprotocol: str, /) -> bytes:
        """Return the encoded map, without a frame around it."""


class WireField(NamedTuple):
    """One field of what a server says: its name in Python and on the wire, and how it is read and spelled."""

    attribute: str
    name: str
    read: fields.Check
    required: bool = False
    spell: Callable[[Any], Any] | None = None
    """None where a value is spelled as it is."""


def map_of(event: ServerMessage) -> dict[str, Any]:
    """Return the map that spells *event*; absent fields are left out."""
    spelled: dict[str, Any] = {"type": event.type}
    for attribute, name, _, _, spell in SERVER_MESSAGES[type(event)]:
        value = getattr(event, attribute)
        if value is not None:
            spelled[name] = value if spell is None else spell(value)
    return spelled


def server_message_of(received: Mapping[str, Any]) -> ServerMessage:
    """Return the reply or push that the map *received* spells; `BadRequest` where it spells none.

    For clients, load tests and the test vectors: a gateway never reads these.
    """
    event: ServerMessage = _read(received, _BY_NAME)
    return event


def _read(received: Mapping[str, Any], among: Mapping[str, Any]) -> Any:
    kind = received.get("type")
    made = among.get(kind) if type(kind) is str else None
    name = "type"
    try:
        if made is None:
            raise fields.expected(f"one of {', '.join(among)}", kind)
        values: dict[str, Any] = {}
        for attribute, name, read, required, _ in SERVER_MESSAGES[made]:
            value = received.get(name)
            if value is not None or (name == "data" and name in received):
                values[attribute] = read(value)
            elif required:
                raise BadRequest("is missing")  # noqa: TRY301 (the handler below adds the field's name)
        return made(**values)
    except BadRequest as fault:
        raise BadRequest(f"{kind}.{name}: {fault.message}" if made else f"{name}: {fault.message}") from None


def _spell_member(member: Member) -> dict[str, Any]:
    spelled = {"connection": member.connection, "user": member.user}
    return spelled if member.info is None else {**spelled, "info": member.info}


def _read_member(value: Any) -> Member:
    connection, user = _read_who(value)
    return Member(connection, user, value.get("info"))


def _spell_members(members: Any) -> list[dict[str, Any]]:
    return [_spell_member(member) for member in members]


def _spell_sender(sender: Sender) -> dict[str, Any]:
    return {"connection": sender.connection, "user": sender.user}


def _read_sender(value: Any) -> Sender:
    return Sender(*_read_who(value))


def _read_who(value: Any) -> list[str]:
    given = fields.mapping(value)
    return [fields.part(name, fields.string, given.get(name)) for name in ("connection", "user")]


def _spell_messages(messages: Any) -> list[Any]:
    return [map_of(item) if isinstance(item, Message) else item for item in messages]


def _read_message(value: Any) -> Any:
    return _read(fields.mapping(value), {Message.type: Message})


def _spell_subs(subs: Any) -> dict[str, Any]:
    return {name: map_of(reply) for name, reply in subs.items()}


def _read_subs(value: Any) -> dict[str, Any]:
    replies = {Subscribed.type: Subscribed, Error.type: Error}
    given = fields.mapping(value).items()
    return {
        name: fields.part(name, lambda reply: _read(fields.mapping(reply), replies), reply)
        for name, reply in given
    }


_ID = WireField("id", "id", fields.command_id, required=True)
_MAYBE_ID = WireField("id", "id", fields.command_id)
_CHANNEL = WireField("channel", "channel", fields.string, required=True)
_POSITION = WireField("position", "position", fields.since, spell=str)
_MESSAGE_ID = WireField("message", "message", fields.since, spell=str)
_MEMBER = WireField("member", "member", _read_member, required=True, spell=_spell_member)
_MEMBERS = WireField("members", "members", fields.array_of(_read_member), spell=_spell_members)
_TRUNCATED = WireField("truncated", "truncated", fields.flag)
_MESSAGES = WireField("messages", "messages", fields.array_of(_read_message), spell=_spell_messages)
_REASON = WireField("reason", "reason", fields.string, required=True)

SERVER_MESSAGES: dict[Any, tuple[WireField, ...]] = {
    Connected: (
        _ID,
        WireField("connection", "connection", fields.string, required=True),
        WireField("user", "user", fields.string, required=True),
        WireField("node", "node", fields.string, required=True),
        WireField("heartbeat", "heartbeat", fields.number, required=True),
        WireField("expires_in", "expires_in", fields.number),
        WireField("limits", "limits", fields.mapping, spell=dict),
        WireField("subs", "subs", _read_subs, spell=_spell_subs),
    ),
    Subscribed: (
        _MAYBE_ID,
        _CHANNEL,
        _POSITION,
        WireField("recovered", "recovered", fields.flag),
        _MESSAGES,
        _MEMBERS,
        _TRUNCATED,
    ),
    Unsubscribed: (
        _MAYBE_ID,
        _CHANNEL,
        WireField("code", "code", fields.string),
        WireField("reason", "reason", fields.string),
    ),
    Published: (_ID, _CHANNEL, _MESSAGE_ID, WireField("acknowledged", "acknowledged", fields.string)),
    PresenceState: (
        _ID,
        _CHANNEL,
        WireField("connections", "connections", fields.count, required=True),
        WireField("users", "users", fields.count, required=True),
        _MEMBERS,
        _TRUNCATED,
    ),
    HistoryPage: (_ID, _CHANNEL, _POSITION, _MESSAGES),
    Refreshed: (_ID, WireField("expires_in", "expires_in", fields.number, required=True)),
    PongReply: (_ID,),
    Error: (
        _MAYBE_ID,
        WireField("code", "code", fields.one_of(ErrorCode), required=True, spell=str),
        WireField("message", "message", fields.string, required=True),
        WireField("retry_after_ms", "retry_after_ms", fields.count),
    ),
    Message: (
        _CHANNEL,
        _MESSAGE_ID,
        WireField("data", "data", fields.payload, required=True),
        WireField("sender", "from", _read_sender, spell=_spell_sender),
        WireField("tags", "tags", fields.tags, spell=dict),
        WireField("time", "time", fields.count),
    ),
    Join: (_CHANNEL, _MEMBER),
    Leave: (_CHANNEL, _MEMBER),
    Gap: (_CHANNEL, _REASON, _POSITION),
    ServerPing: (),
    Expiring: (WireField("seconds", "in", fields.number, required=True),),
    Reconnect: (WireField("after_ms", "after_ms", fields.count, required=True), _REASON),
}
"""Everything a server says, field by field, in the order in which it is written."""

_BY_NAME: dict[str, Any] = {kind.type: kind for kind in SERVER_MESSAGES}
