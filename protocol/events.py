"""Replies and pushes to maps and back: the wire's names, in the wire's order.

A value that is already encoded stands in a map as what it is: a `Payload`, or an `Encoded` message in `messages`; the codecs splice
it. Absent is what is None.
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
from protocol.payload import Payload, payload_of


class Encoded(Protocol):
    """A message push that is already encoded, per codec (see `gateway.link.frames.Frames`)."""

    def body(self, subprotocol: str, /) -> bytes:
        """Return the encoded map, without a frame around it."""


def _member(member: Member) -> dict[str, Any]:
    spelled = {"connection": member.connection, "user": member.user}
    return spelled if member.info is None else {**spelled, "info": member.info}


def _sender(sender: Sender) -> dict[str, Any]:
    return {"connection": sender.connection, "user": sender.user}


def _messages(messages: Any) -> list[Any]:
    return [map_of(item) if isinstance(item, Message) else item for item in messages]


def _members(members: Any) -> list[dict[str, Any]]:
    return [_member(member) for member in members]


def _sub(reply: Any) -> dict[str, Any]:
    return map_of(reply)


def _subs(subs: Any) -> dict[str, Any]:
    return {name: _sub(reply) for name, reply in subs.items()}


def _same(value: Any) -> Any:
    return value


class Wire(NamedTuple):
    """One field of what a server says: its name in Python and on the wire, and how it is spelled and read."""

    attribute: str
    name: str
    spell: Callable[[Any], Any] = _same
    read: Callable[[Any], Any] = _same


def _read_member(value: Any) -> Member:
    return Member(value["connection"], value["user"], value.get("info"))


def _read_sender(value: Any) -> Sender:
    return Sender(value["connection"], value["user"])


def _read_data(value: Any) -> Payload:
    return value if isinstance(value, Payload) else payload_of(value)


_ID = Wire("id", "id")
_CHANNEL = Wire("channel", "channel")
_POSITION = Wire("position", "position", str, fields.since)
_MEMBER = Wire("member", "member", _member, _read_member)
_MESSAGES = Wire(
    "messages",
    "messages",
    _messages,
    lambda items: tuple(event_of(item) for item in items),
)
_MEMBERS = Wire(
    "members",
    "members",
    _members,
    lambda items: tuple(_read_member(item) for item in items),
)

_MESSAGE = (
    _CHANNEL,
    Wire("message", "message", str, fields.since),
    Wire("data", "data", _same, _read_data),
    Wire("sender", "from", _sender, _read_sender),
    Wire("tags", "tags", dict),
    Wire("time", "time"),
)

EVENTS: dict[Any, tuple[Wire, ...]] = {
    Connected: (
        _ID,
        Wire("connection", "connection"),
        Wire("user", "user"),
        Wire("node", "node"),
        Wire("heartbeat", "heartbeat"),
        Wire("expires_in", "expires_in"),
        Wire("limits", "limits", dict),
        Wire(
            "subs",
            "subs",
            _subs,
            lambda subs: {name: event_of(reply) for name, reply in subs.items()},
        ),
    ),
    Subscribed: (
        _ID,
        _CHANNEL,
        _POSITION,
        Wire("recovered", "recovered"),
        _MESSAGES,
        _MEMBERS,
    ),
    Unsubscribed: (_ID, _CHANNEL, Wire("code", "code"), Wire("reason", "reason")),
    Published: (_ID, _CHANNEL, Wire("message", "message", str, fields.since)),
    PresenceState: (
        _ID,
        _CHANNEL,
        Wire("connections", "connections"),
        Wire("users", "users"),
        _MEMBERS,
    ),
    HistoryPage: (_ID, _CHANNEL, _POSITION, _MESSAGES),
    Refreshed: (_ID, Wire("expires_in", "expires_in")),
    PongReply: (_ID,),
    Error: (
        _ID,
        Wire("code", "code", str, ErrorCode),
        Wire("message", "message"),
        Wire("retry_after_ms", "retry_after_ms"),
    ),
    Message: _MESSAGE,
    Join: (_CHANNEL, _MEMBER),
    Leave: (_CHANNEL, _MEMBER),
    Gap: (_CHANNEL, Wire("reason", "reason"), _POSITION),
    ServerPing: (),
    Expiring: (Wire("seconds", "in"),),
    Reconnect: (Wire("after_ms", "after_ms"), Wire("reason", "reason")),
}
"""Everything a server says, field by field, in the order in which it is written."""

_BY_NAME: dict[str, Any] = {
    kind.type: kind for kind in EVENTS if kind is not PongReply and kind is not ServerPing
}


def map_of(event: ServerMessage) -> dict[str, Any]:
    """Return the map that spells *event*; absent fields are left out."""
    spelled: dict[str, Any] = {"type": event.type}
    for attribute, name, spell, _ in EVENTS[type(event)]:
        value = getattr(event, attribute)
        if value is not None:
            spelled[name] = spell(value)
    return spelled


def event_of(received: Mapping[str, Any]) -> ServerMessage:
    """Return the reply or push that the map *received* spells; `BadRequest` where it spells none.

    For clients, load tests and the test vectors: a gateway never reads these.
    """
    kind = received.get("type")
    made = {"pong": PongReply, "ping": ServerPing}.get(str(kind)) or _BY_NAME.get(str(kind))
    if made is None:
        raise fields.expected("a reply or a push", kind)
    try:
        values = {
            wire.attribute: wire.read(received[wire.name]) for wire in EVENTS[made] if wire.name in received
        }
        event: ServerMessage = made(**values)
    except (TypeError, KeyError, ValueError) as error:
        raise BadRequest(f"{kind}: {error}") from None
    return event
