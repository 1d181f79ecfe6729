"""Maps to commands and back: which fields each type has, as one table."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from protocol import fields
from protocol.errors import BadRequest
from protocol.messages import (
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
from protocol.position import MessageId


class Field(NamedTuple):
    """One field of a command: its name on the wire and in Python, its check, and what its absence means."""

    name: str
    check: fields.Check
    required: bool = False
    default: Any = None


_ID = Field("id", fields.command_id, required=True)
_CHANNEL = Field("channel", fields.channel, required=True)

COMMANDS: dict[str, tuple[Any, tuple[Field, ...]]] = {
    "connect": (
        Connect,
        (
            _ID,
            Field("token", fields.token),
            Field("client", fields.client_info),
            Field("subs", fields.resumes, default=MappingProxyType({})),
        ),
    ),
    "subscribe": (
        Subscribe,
        (
            _ID,
            _CHANNEL,
            Field("token", fields.token),
            Field("since", fields.since),
            Field("rewind", fields.count),
            Field("join_leave", fields.flag),
            Field("members", fields.flag, default=False),
        ),
    ),
    "unsubscribe": (Unsubscribe, (_ID, _CHANNEL)),
    "publish": (
        Publish,
        (
            _ID,
            _CHANNEL,
            Field("data", fields.payload, required=True),
            Field("key", fields.key),
        ),
    ),
    "presence": (Presence, (_ID, _CHANNEL, Field("members", fields.flag, default=False))),
    "history": (
        History,
        (
            _ID,
            _CHANNEL,
            Field("limit", fields.count),
            Field("since", fields.since),
            Field("reverse", fields.flag, default=False),
        ),
    ),
    "refresh": (Refresh, (_ID, Field("token", fields.token, required=True))),
    "ping": (Ping, (_ID,)),
    "pong": (Pong, ()),
}
"""Every type a client may send, its fields in the order of its class.

Unknown fields are ignored; null stands for an absent field, except in `data`.
"""


def command_of(received: Mapping[str, Any]) -> ClientMessage:
    """Return the command that the map *received* spells.

    `BadRequest`, with the command's id where it was legible, for an unknown type or a missing or wrong field.
    """
    kind = received.get("type")
    row = COMMANDS.get(kind) if type(kind) is str else None
    name = "type"
    try:
        if row is None:
            raise fields.expected(f"one of {', '.join(COMMANDS)}", kind)
        made, wanted = row
        values: list[Any] = []
        for name, check, required, default in wanted:
            value = received.get(name)
            if value is not None or (name == "data" and name in received):
                values.append(check(value))
            elif required:
                raise BadRequest("is missing")  # noqa: TRY301 (the handler below adds the field's name)
            else:
                values.append(default)
    except BadRequest as fault:
        raise fault_in(received, name, fault) from None
    command: ClientMessage = made(*values)
    return command


def fault_in(received: Mapping[str, Any], name: str, fault: BadRequest) -> BadRequest:
    """Return *fault* as that of the field *name* of *received*, with the command's id where it is legible."""
    kind = received.get("type")
    where = f"{kind}.{name[:48]}" if type(kind) is str and kind in COMMANDS else name[:48]
    return BadRequest(f"{where}: {fault.message}", id=_legible_id(received))


def map_of(command: ClientMessage) -> dict[str, Any]:
    """Return the map that spells *command*; fields at their default are left out."""
    _, wanted = COMMANDS[command.type]
    spelled: dict[str, Any] = {"type": command.type}
    for name, _, _, default in wanted:
        value = getattr(command, name)
        if value != default:
            spelled[name] = _plain(value)
    return spelled


def _plain(value: Any) -> Any:
    if isinstance(value, MessageId):
        return str(value)
    if isinstance(value, ClientInfo):
        return _present({"name": value.name, "version": value.version})
    if isinstance(value, Mapping):
        return {name: _options(resume) for name, resume in value.items()}
    return value


def _options(resume: Resume) -> dict[str, Any]:
    since = None if resume.since is None else str(resume.since)
    return _present({"since": since, "token": resume.token, "rewind": resume.rewind})


def _present(options: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None}


def _legible_id(received: Mapping[str, Any]) -> int | None:
    try:
        return fields.command_id(received.get("id"))
    except BadRequest:
        return None
