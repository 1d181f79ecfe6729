"""Error codes and close codes, and what a client does on each (docs/protocol.md#errors, #close-codes)."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum, StrEnum


class ErrorCode(StrEnum):
    """Why a command was rejected; the `code` of an `error`."""

    BAD_REQUEST = "bad_request"
    UNAUTHORIZED = "unauthorized"
    PERMISSION_DENIED = "permission_denied"
    UNKNOWN_CHANNEL = "unknown_channel"
    ALREADY_SUBSCRIBED = "already_subscribed"
    NOT_SUBSCRIBED = "not_subscribed"
    LIMIT_EXCEEDED = "limit_exceeded"
    RATE_LIMITED = "rate_limited"
    TOO_LARGE = "too_large"
    TOKEN_EXPIRED = "token_expired"  # noqa: S105 (a code, not a secret)
    UNAVAILABLE = "unavailable"
    INTERNAL = "internal"
    KEY_REUSED = "key_reused"


class CloseCode(IntEnum):
    """Why a connection ended: the status code of a Close frame (RFC 6455 section 7.4)."""

    NORMAL = 1000
    PROTOCOL_ERROR = 1002
    INVALID_DATA = 1007
    TOO_BIG = 1009
    DRAIN = 4000
    CONNECT_TIMEOUT = 4001
    PROTOCOL_VIOLATION = 4002
    UNAUTHORIZED = 4003
    TOKEN_EXPIRED = 4004
    DISCONNECTED = 4005
    SLOW_CONSUMER = 4006
    HEARTBEAT_TIMEOUT = 4007
    RATE_LIMITED = 4008
    CONNECTION_LIMIT = 4010
    INTERNAL = 4011
    REPLACED = 4012
    FENCED = 4013


class Reaction(StrEnum):
    """What a client does after the end of a connection."""

    STOP = "stop"
    STOP_UNTIL_NEW_TOKEN = "stop_until_new_token"  # noqa: S105 (a rule, not a secret)
    REFRESH_TOKEN = "refresh_token"  # noqa: S105 (a rule, not a secret)
    RECONNECT = "reconnect"


class Backoff(StrEnum):
    """How long a client waits before it reconnects; the values are those of docs/vectors/closes.json."""

    JITTER = "jitter"
    """A random time below a bound that doubles with each attempt, from 0.5 s to 30 s."""
    LONG = "long"
    """A random time up to 30 s."""
    ANNOUNCED = "told"
    """The delay of the last `reconnect` push; `JITTER` if there was none."""


@dataclass(frozen=True, slots=True)
class Close:
    """The meaning of a close code."""

    reason: str
    reaction: Reaction
    backoff: Backoff = Backoff.JITTER


_RECONNECT = Reaction.RECONNECT

CLOSES: dict[int, Close] = {
    CloseCode.DRAIN: Close("drain", _RECONNECT, Backoff.ANNOUNCED),
    CloseCode.CONNECT_TIMEOUT: Close("connect_timeout", _RECONNECT),
    CloseCode.PROTOCOL_VIOLATION: Close("protocol_violation", Reaction.STOP),
    CloseCode.UNAUTHORIZED: Close("unauthorized", Reaction.STOP_UNTIL_NEW_TOKEN),
    CloseCode.TOKEN_EXPIRED: Close("token_expired", Reaction.REFRESH_TOKEN),
    CloseCode.DISCONNECTED: Close("disconnected", Reaction.STOP),
    CloseCode.SLOW_CONSUMER: Close("slow_consumer", _RECONNECT),
    CloseCode.HEARTBEAT_TIMEOUT: Close("heartbeat_timeout", _RECONNECT),
    CloseCode.RATE_LIMITED: Close("rate_limited", _RECONNECT, Backoff.LONG),
    CloseCode.CONNECTION_LIMIT: Close("connection_limit", _RECONNECT, Backoff.LONG),
    CloseCode.INTERNAL: Close("internal", _RECONNECT),
    CloseCode.REPLACED: Close("replaced", Reaction.STOP),
    CloseCode.FENCED: Close("fenced", _RECONNECT),
    CloseCode.TOO_BIG: Close("message too big", Reaction.STOP),
    CloseCode.PROTOCOL_ERROR: Close("protocol error", Reaction.STOP),
    CloseCode.INVALID_DATA: Close("invalid data", Reaction.STOP),
}
"""What a client does on each close code (docs/protocol.md#close-codes); `OTHER_CLOSE` on any other."""

OTHER_CLOSE = Close("no reason given", _RECONNECT)
"""What a client does on a close code that `CLOSES` does not list, and on a connection lost without one."""

CLOSE_ON_ERROR: dict[ErrorCode, CloseCode] = {
    ErrorCode.UNAUTHORIZED: CloseCode.UNAUTHORIZED,
    ErrorCode.TOKEN_EXPIRED: CloseCode.TOKEN_EXPIRED,
    ErrorCode.LIMIT_EXCEEDED: CloseCode.CONNECTION_LIMIT,
    ErrorCode.PERMISSION_DENIED: CloseCode.UNAUTHORIZED,
    ErrorCode.UNAVAILABLE: CloseCode.INTERNAL,
    ErrorCode.INTERNAL: CloseCode.INTERNAL,
}
"""The close code that follows each error of a rejected `connect`; other errors leave the connection open."""

TRANSIENT_ERRORS = frozenset({ErrorCode.RATE_LIMITED, ErrorCode.UNAVAILABLE, ErrorCode.INTERNAL})
"""Errors after which the same command may succeed later (docs/protocol.md#errors)."""


class ProtocolError(Exception):
    """A command was not carried out; has the fields of its `error`."""

    def __init__(self, code: ErrorCode, message: str, *, retry_after_ms: int | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.retry_after_ms = retry_after_ms


class ClientFault(ProtocolError):
    """The command is wrong or not permitted; sending it again gets the same error."""


class BadRequest(ClientFault):
    """A frame is not a command, or a field is wrong; `id` is that of the command, if it can be read."""

    def __init__(self, message: str, *, id: int | None = None) -> None:
        super().__init__(ErrorCode.BAD_REQUEST, message)
        self.id = id


class ServerFault(ProtocolError):
    """The gateway cannot carry out the command now; the command may succeed after `retry_after_ms`."""
