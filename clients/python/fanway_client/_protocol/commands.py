"""Commands to maps and back: the fields of each type, as one table."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from fanway_client._protocol import fields
from fanway_client._protocol.errors import BadRequest
from fanway_client._protocol.messages import (
    ClientInfo,
    ClientMessage,
    Connect,
    History,
    Ping,
    Pong,
    Presence,
    Publish,
    Refresh,
    Resume,
    Subscribe,
    Unsubscribe,
)
from fanway_client._protocol.position import MessageId


class CommandField(NamedTuple):
    """One field of a command."""

    name: str
    """On the wire and in Python."""
    decode: fields.Decode
    required: bool = False
    default: Any = None
    """The value of an absent field."""


_ID = CommandField("id", fields.command_id, required=True)
_CHANNEL = CommandField("channel", fields.channel_name, required=True)

COMMANDS: dict[str, tuple[Any, tuple[CommandField, ...]]] = {
    "connect": (
        Connect,
        (
            _ID,
            CommandField("token", fields.token),
            CommandField("client", fields.client_info),
            CommandField("subs", fields.subs, default=MappingProxyType({})),
        ),
    ),
    "subscribe": (
        Subscribe,
        (
            _ID,
            _CHANNEL,
            CommandField("token", fields.token),
            CommandField("since", fields.message_id),
            CommandField("rewind", fields.non_negative),
            CommandField("join_leave", fields.boolean),
            CommandField("members", fields.boolean, default=False),
        ),
    ),
    "unsubscribe": (Unsubscribe, (_ID, _CHANNEL)),
    "publish": (
        Publish,
        (
            _ID,
            _CHANNEL,
            CommandField("data", fields.payload, required=True),
            CommandField("key", fields.idempotency_key),
        ),
    ),
    "presence": (Presence, (_ID, _CHANNEL, CommandField("members", fields.boolean, default=False))),
    "history": (
        History,
        (
            _ID,
            _CHANNEL,
            CommandField("limit", fields.non_negative),
            CommandField("since", fields.message_id),
            CommandField("reverse", fields.boolean, default=False),
        ),
    ),
    "refresh": (Refresh, (_ID, CommandField("token", fields.token, required=True))),
    "ping": (Ping, (_ID,)),
    "pong": (Pong, ()),
}
"""The class of each type of command, and its fields in the order of the class.

Unknown fields are ignored. A field that is null counts as absent, except `data`, in which null is a value.
"""


def command_of(received: Mapping[str, Any]) -> ClientMessage:
    """Return the command in the map *received*.

    Raises:
        BadRequest: The type is unknown, or a field is missing or wrong. It has the id of the command if
            that can be read.
    """
    command_type = received.get("type")
    row = COMMANDS.get(command_type) if type(command_type) is str else None
    name = "type"
    try:
        if row is None:
            raise fields.expected(f"one of {', '.join(COMMANDS)}", command_type)
        command_class, command_fields = row
        values: list[Any] = []
        for name, decode, required, default in command_fields:
            value = received.get(name)
            if value is not None or (name == "data" and name in received):
                values.append(decode(value))
            elif required:
                raise BadRequest("is missing")  # noqa: TRY301 (the handler below adds the field's name)
            else:
                values.append(default)
    except BadRequest as error:
        raise error_in(received, name, error) from None
    command: ClientMessage = command_class(*values)
    return command


def error_in(received: Mapping[str, Any], name: str, error: BadRequest) -> BadRequest:
    """Return *error* with the name of its field, and the id of the command if that can be read."""
    command_type = received.get("type")
    is_known = type(command_type) is str and command_type in COMMANDS
    path = f"{command_type}.{name[:48]}" if is_known else name[:48]
    return BadRequest(f"{path}: {error.message}", id=_readable_id(received))


def map_of(command: ClientMessage) -> dict[str, Any]:
    """Return the map that encodes *command*; fields at their default are left out."""
    _, command_fields = COMMANDS[command.type]
    encoded: dict[str, Any] = {"type": command.type}
    for name, _, _, default in command_fields:
        value = getattr(command, name)
        if value != default:
            encoded[name] = _encode(value)
    return encoded


def _encode(value: Any) -> Any:
    if isinstance(value, MessageId):
        return str(value)
    if isinstance(value, ClientInfo):
        return _without_none({"name": value.name, "version": value.version})
    if isinstance(value, Mapping):
        return {name: _encode_resume(resume) for name, resume in value.items()}
    return value


def _encode_resume(resume: Resume) -> dict[str, Any]:
    since = None if resume.since is None else str(resume.since)
    return _without_none({"since": since, "token": resume.token, "rewind": resume.rewind})


def _without_none(options: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None}


def _readable_id(received: Mapping[str, Any]) -> int | None:
    try:
        return fields.command_id(received.get("id"))
    except BadRequest:
        return None
