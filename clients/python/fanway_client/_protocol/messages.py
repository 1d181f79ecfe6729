"""The messages of the protocol: commands (client to server), their replies, pushes (server-initiated).

Their fields are described in docs/protocol.md#commands-and-their-replies and docs/protocol.md#pushes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from fanway_client._protocol.errors import ErrorCode
from fanway_client._protocol.payload import Payload
from fanway_client._protocol.position import MessageId

# ---------------------------------------------------------------- parts of several messages


@dataclass(frozen=True, slots=True)
class ClientInfo:
    """The name and version of a client program."""

    name: str
    version: str | None = None


@dataclass(frozen=True, slots=True)
class Resume:
    """The options of one channel in the `subs` of a `connect`."""

    since: MessageId | None = None
    token: str | None = None
    rewind: int | None = None
    fault: str = ""
    """Why the channel or its options are invalid, else empty; only that channel is a `bad_request`."""


@dataclass(frozen=True, slots=True)
class Sender:
    """The connection that published a message."""

    connection: str
    user: str


@dataclass(frozen=True, slots=True)
class Member:
    """One connection that is present in a channel; `info` comes from its token."""

    connection: str
    user: str
    info: Any = None


# ---------------------------------------------------------------- commands


@dataclass(frozen=True, slots=True)
class Command:
    """A command; the reply repeats `id`."""

    type: ClassVar[str]
    id: int


@dataclass(frozen=True, slots=True)
class Connect(Command):
    """The first command: authenticate, and subscribe to channels."""

    type = "connect"
    token: str | None = None
    client: ClientInfo | None = None
    subs: Mapping[str, Resume] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Subscribe(Command):
    """Subscribe to a channel: from now on, from a message id on, or with the last `rewind` messages."""

    type = "subscribe"
    channel: str
    token: str | None = None
    since: MessageId | None = None
    rewind: int | None = None
    join_leave: bool | None = None
    members: bool = False


@dataclass(frozen=True, slots=True)
class Unsubscribe(Command):
    """End a subscription."""

    type = "unsubscribe"
    channel: str


@dataclass(frozen=True, slots=True)
class Publish(Command):
    """Send `data` to every subscriber of a channel; a repeated `key` publishes once."""

    type = "publish"
    channel: str
    data: Payload
    key: str | None = None


@dataclass(frozen=True, slots=True)
class Presence(Command):
    """Ask who is present in a channel: counts, and the members with `members`."""

    type = "presence"
    channel: str
    members: bool = False


@dataclass(frozen=True, slots=True)
class History(Command):
    """Ask for the history of a channel: oldest first after `since`, or newest first with `reverse`."""

    type = "history"
    channel: str
    limit: int | None = None
    since: MessageId | None = None
    reverse: bool = False


@dataclass(frozen=True, slots=True)
class Refresh(Command):
    """Replace the token by a newer one of the same user."""

    type = "refresh"
    token: str


@dataclass(frozen=True, slots=True)
class Ping(Command):
    """Ask for a `pong`, to check the connection."""

    type = "ping"


@dataclass(frozen=True, slots=True)
class Pong:
    """The answer to a ping of the server; has no id and gets no reply."""

    type: ClassVar[str] = "pong"


# ---------------------------------------------------------------- replies and pushes


@dataclass(frozen=True, slots=True)
class Message:
    """A message of a channel: a push, and an element of `messages` in replies."""

    type: ClassVar[str] = "message"
    channel: str
    data: Payload
    message: MessageId | None = None
    sender: Sender | None = None
    tags: Mapping[str, str] | None = None
    time: int | None = None


@dataclass(frozen=True, slots=True)
class Subscribed:
    """A subscription was made: by a command (with its `id`) or by the server (without)."""

    type: ClassVar[str] = "subscribed"
    channel: str
    position: MessageId | None = None
    recovered: bool = False
    messages: Sequence[Any] = ()
    members: Sequence[Member] | None = None
    id: int | None = None
    truncated: bool | None = None
    """True if `members` does not have all of them; else None."""
    listed_as: str | None = None
    """The `connection` under which members list this connection, if it is not its own; else None."""


@dataclass(frozen=True, slots=True)
class Error:
    """A command was not carried out (with its `id`), or a frame was not a command (without)."""

    type: ClassVar[str] = "error"
    code: ErrorCode
    message: str
    retry_after_ms: int | None = None
    id: int | None = None


@dataclass(frozen=True, slots=True)
class Connected:
    """The reply to `connect`; `subs` has every channel that was asked for or added by the server."""

    type: ClassVar[str] = "connected"
    id: int
    connection: str
    user: str
    node: str
    heartbeat: float
    expires_in: float | None = None
    limits: Mapping[str, Any] = field(default_factory=dict)
    subs: Mapping[str, Subscribed | Error] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Unsubscribed:
    """A subscription ended: by a command (with its `id`) or by the server (with `code` and `reason`)."""

    type: ClassVar[str] = "unsubscribed"
    channel: str
    code: str | None = None
    reason: str | None = None
    id: int | None = None


@dataclass(frozen=True, slots=True)
class Published:
    """The message is in the history, and in the inbox of every node with a subscriber."""

    type: ClassVar[str] = "published"
    id: int
    channel: str
    message: MessageId | None = None
    acknowledged: str | None = None
    """`replicated`, or only `stored`, if the server waits for replicas; else None."""


@dataclass(frozen=True, slots=True)
class PresenceState:
    """Who is present in a channel."""

    type: ClassVar[str] = "presence"
    id: int
    channel: str
    connections: int
    users: int
    members: Sequence[Member] | None = None
    truncated: bool | None = None
    """True if `members` does not have all of them; else None."""


@dataclass(frozen=True, slots=True)
class HistoryPage:
    """A page of a channel's history, and the position of its newest message."""

    type: ClassVar[str] = "history"
    id: int
    channel: str
    position: MessageId | None = None
    messages: Sequence[Any] = ()


@dataclass(frozen=True, slots=True)
class Refreshed:
    """The new token is valid for `expires_in` seconds."""

    type: ClassVar[str] = "refreshed"
    id: int
    expires_in: float


@dataclass(frozen=True, slots=True)
class PongReply:
    """The reply to `ping`."""

    type: ClassVar[str] = "pong"
    id: int


@dataclass(frozen=True, slots=True)
class Join:
    """A member joined."""

    type: ClassVar[str] = "join"
    channel: str
    member: Member


@dataclass(frozen=True, slots=True)
class Leave:
    """A member left."""

    type: ClassVar[str] = "leave"
    channel: str
    member: Member


@dataclass(frozen=True, slots=True)
class Gap:
    """Messages are missing at this point; later ones follow."""

    type: ClassVar[str] = "gap"
    channel: str
    reason: str
    """`overflow` (the client was too slow), `trimmed` (the history is too short), `reset` (the store lost
    messages)."""
    position: MessageId | None = None
    """The id of the last missing message."""


@dataclass(frozen=True, slots=True)
class ServerPing:
    """The client must answer with `pong` (docs/protocol.md#heartbeats)."""

    type: ClassVar[str] = "ping"


@dataclass(frozen=True, slots=True)
class Expiring:
    """The token expires in `seconds`: send `refresh`."""

    type: ClassVar[str] = "expiring"
    seconds: float


@dataclass(frozen=True, slots=True)
class Reconnect:
    """The node drains: reconnect after `after_ms`, once it closes."""

    type: ClassVar[str] = "reconnect"
    after_ms: int
    reason: str


ClientMessage = Connect | Subscribe | Unsubscribe | Publish | Presence | History | Refresh | Ping | Pong
Reply = (
    Connected
    | Subscribed
    | Unsubscribed
    | Published
    | PresenceState
    | HistoryPage
    | Refreshed
    | PongReply
    | Error
)
Push = Message | Join | Leave | Gap | Subscribed | Unsubscribed | ServerPing | Expiring | Reconnect | Error
ServerMessage = Reply | Push
