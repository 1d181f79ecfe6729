"""Replies and pushes to maps and back: the fields of each type, as one table.

Values that are already encoded stay as they are in a map: a `Payload`, or an `Encoded` message in `messages`;
the codecs insert their bytes. Fields that are None are left out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol

from fanway_client._protocol import fields
from fanway_client._protocol.errors import BadRequest, ErrorCode
from fanway_client._protocol.messages import (
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
        """Return the encoded map, without the header of a WebSocket frame."""


class ServerField(NamedTuple):
    """One field of a reply or push."""

    attribute: str
    """In Python."""
    name: str
    """On the wire."""
    decode: fields.Decode
    required: bool = False
    encode: Callable[[Any], Any] | None = None
    """Returns a value as the wire has it; None if the wire has the value itself."""


def map_of(message: ServerMessage) -> dict[str, Any]:
    """Return the map that encodes *message*; fields that are None are left out."""
    encoded: dict[str, Any] = {"type": message.type}
    for attribute, name, _, _, encode in SERVER_MESSAGES[type(message)]:
        value = getattr(message, attribute)
        if value is not None:
            encoded[name] = value if encode is None else encode(value)
    return encoded


def server_message_of(received: Mapping[str, Any]) -> ServerMessage:
    """Return the reply or push in the map *received*; raise `BadRequest` if there is none.

    For clients, load tests and the test vectors; a gateway only encodes these.
    """
    message: ServerMessage = _decode(received, _CLASSES)
    return message


def _decode(received: Mapping[str, Any], classes: Mapping[str, Any]) -> Any:
    """Return the message in *received*, which must be one of *classes*, given by type on the wire."""
    message_type = received.get("type")
    message_class = classes.get(message_type) if type(message_type) is str else None
    name = "type"
    try:
        if message_class is None:
            raise fields.expected(f"one of {', '.join(classes)}", message_type)
        values: dict[str, Any] = {}
        for attribute, name, decode, required, _ in SERVER_MESSAGES[message_class]:
            value = received.get(name)
            if value is not None or (name == "data" and name in received):
                values[attribute] = decode(value)
            elif required:
                raise BadRequest("is missing")  # noqa: TRY301 (the handler below adds the field's name)
        return message_class(**values)
    except BadRequest as error:
        path = name if message_class is None else f"{message_type}.{name}"
        raise BadRequest(f"{path}: {error.message}") from None


def _encode_member(member: Member) -> dict[str, Any]:
    encoded = {"connection": member.connection, "user": member.user}
    return encoded if member.info is None else {**encoded, "info": member.info}


def _decode_member(value: Any) -> Member:
    connection, user = _decode_connection_and_user(value)
    return Member(connection, user, value.get("info"))


def _encode_members(members: Any) -> list[dict[str, Any]]:
    return [_encode_member(member) for member in members]


def _encode_sender(sender: Sender) -> dict[str, Any]:
    return {"connection": sender.connection, "user": sender.user}


def _decode_sender(value: Any) -> Sender:
    return Sender(*_decode_connection_and_user(value))


def _decode_connection_and_user(value: Any) -> list[str]:
    encoded = fields.mapping(value)
    return [fields.decode_part(name, fields.string, encoded.get(name)) for name in ("connection", "user")]


def _encode_messages(messages: Any) -> list[Any]:
    return [map_of(item) if isinstance(item, Message) else item for item in messages]


def _decode_message(value: Any) -> Any:
    return _decode(fields.mapping(value), {Message.type: Message})


def _encode_subs(subs: Any) -> dict[str, Any]:
    return {name: map_of(reply) for name, reply in subs.items()}


def _decode_subs(value: Any) -> dict[str, Any]:
    replies = {Subscribed.type: Subscribed, Error.type: Error}
    encoded = fields.mapping(value).items()
    return {
        name: fields.decode_part(name, lambda reply: _decode(fields.mapping(reply), replies), reply)
        for name, reply in encoded
    }


_ID = ServerField("id", "id", fields.command_id, required=True)
_OPTIONAL_ID = ServerField("id", "id", fields.command_id)
_CHANNEL = ServerField("channel", "channel", fields.string, required=True)
_POSITION = ServerField("position", "position", fields.message_id, encode=str)
_MESSAGE_ID = ServerField("message", "message", fields.message_id, encode=str)
_MEMBER = ServerField("member", "member", _decode_member, required=True, encode=_encode_member)
_MEMBERS = ServerField("members", "members", fields.array_of(_decode_member), encode=_encode_members)
_TRUNCATED = ServerField("truncated", "truncated", fields.boolean)
_MESSAGES = ServerField("messages", "messages", fields.array_of(_decode_message), encode=_encode_messages)
_REASON = ServerField("reason", "reason", fields.string, required=True)

SERVER_MESSAGES: dict[Any, tuple[ServerField, ...]] = {
    Connected: (
        _ID,
        ServerField("connection", "connection", fields.string, required=True),
        ServerField("user", "user", fields.string, required=True),
        ServerField("node", "node", fields.string, required=True),
        ServerField("heartbeat", "heartbeat", fields.number, required=True),
        ServerField("expires_in", "expires_in", fields.number),
        ServerField("limits", "limits", fields.mapping, encode=dict),
        ServerField("subs", "subs", _decode_subs, encode=_encode_subs),
    ),
    Subscribed: (
        _OPTIONAL_ID,
        _CHANNEL,
        _POSITION,
        ServerField("recovered", "recovered", fields.boolean),
        _MESSAGES,
        _MEMBERS,
        _TRUNCATED,
        ServerField("listed_as", "listed_as", fields.string),
    ),
    Unsubscribed: (
        _OPTIONAL_ID,
        _CHANNEL,
        ServerField("code", "code", fields.string),
        ServerField("reason", "reason", fields.string),
    ),
    Published: (_ID, _CHANNEL, _MESSAGE_ID, ServerField("acknowledged", "acknowledged", fields.string)),
    PresenceState: (
        _ID,
        _CHANNEL,
        ServerField("connections", "connections", fields.non_negative, required=True),
        ServerField("users", "users", fields.non_negative, required=True),
        _MEMBERS,
        _TRUNCATED,
    ),
    HistoryPage: (_ID, _CHANNEL, _POSITION, _MESSAGES),
    Refreshed: (_ID, ServerField("expires_in", "expires_in", fields.number, required=True)),
    PongReply: (_ID,),
    Error: (
        _OPTIONAL_ID,
        ServerField("code", "code", fields.one_of(ErrorCode), required=True, encode=str),
        ServerField("message", "message", fields.string, required=True),
        ServerField("retry_after_ms", "retry_after_ms", fields.non_negative),
    ),
    Message: (
        _CHANNEL,
        _MESSAGE_ID,
        ServerField("data", "data", fields.payload, required=True),
        ServerField("sender", "from", _decode_sender, encode=_encode_sender),
        ServerField("tags", "tags", fields.tags, encode=dict),
        ServerField("time", "time", fields.non_negative),
    ),
    Join: (_CHANNEL, _MEMBER),
    Leave: (_CHANNEL, _MEMBER),
    Gap: (_CHANNEL, _REASON, _POSITION),
    ServerPing: (),
    Expiring: (ServerField("seconds", "in", fields.number, required=True),),
    Reconnect: (ServerField("after_ms", "after_ms", fields.non_negative, required=True), _REASON),
}
"""The fields of every reply and push, in the order in which they are encoded."""

_CLASSES: dict[str, Any] = {message_class.type: message_class for message_class in SERVER_MESSAGES}
"""The classes by their type on the wire."""
