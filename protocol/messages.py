"""What travels: commands (client to server), replies (their answers), pushes (server-initiated)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from protocol.errors import ErrorCode
from protocol.payload import Payload
from protocol.position import MessageId

# ---------------------------------------------------------------- what several of them carry


@dataclass(frozen=True, slots=True)
class ClientInfo:
    """What a client says of itself."""

    name: str
    version: str | None = None


@dataclass(frozen=True, slots=True)
class Resume:
    """How one channel of a `connect` is to be restored."""

    since: MessageId | None = None
    token: str | None = None
    rewind: int | None = None
    fault: str = ""
    """What is wrong with a channel or its options that cannot be read: a `bad_request` for it alone."""


@dataclass(frozen=True, slots=True)
class Sender:
    """The connection that published a message."""

    connection: str
    user: str


@dataclass(frozen=True, slots=True)
class Member:
    """One connection that is present in a channel; `info` is what its token says."""

    connection: str
    user: str
    info: Any = None


# ---------------------------------------------------------------- commands


@dataclass(frozen=True, slots=True)
class Command:
    """What a client asks; the reply repeats `id`."""

    type: ClassVar[str]
    id: int


@dataclass(frozen=True, slots=True)
class Connect(Command):
    """The first command: who I am and what I want restored."""

    type = "connect"
    token: str | None = None
    client: ClientInfo | None = None
    subs: Mapping[str, Resume] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Subscribe(Command):
    """Follow a channel: from now on, since a message id, or with the last `rewind` messages."""

    type = "subscribe"
    channel: str
    token: str | None = None
    since: MessageId | None = None
    rewind: int | None = None
    join_leave: bool | None = None
    members: bool = False


@dataclass(frozen=True, slots=True)
class Unsubscribe(Command):
    """Stop following a channel."""

    type = "unsubscribe"
    channel: str


@dataclass(frozen=True, slots=True)
class Publish(Command):
    """Send `data` to everyone who follows the channel; the same `key` twice publishes once."""

    type = "publish"
    channel: str
    data: Payload
    key: str | None = None


@dataclass(frozen=True, slots=True)
class Presence(Command):
    """Who is in the channel: counts, and the members where asked for."""

    type = "presence"
    channel: str
    members: bool = False


@dataclass(frozen=True, slots=True)
class History(Command):
    """Messages kept of a channel: the oldest first after `since`, or the newest first with `reverse`."""

    type = "history"
    channel: str
    limit: int | None = None
    since: MessageId | None = None
    reverse: bool = False


@dataclass(frozen=True, slots=True)
class Refresh(Command):
    """A newer token for the same user."""

    type = "refresh"
    token: str


@dataclass(frozen=True, slots=True)
class Ping(Command):
    """Ask for a `pong`: is anybody there."""

    type = "ping"


@dataclass(frozen=True, slots=True)
class Pong:
    """The answer to a server's ping; carries no id and gets no reply."""

    type: ClassVar[str] = "pong"


# ---------------------------------------------------------------- what a server says


@dataclass(frozen=True, slots=True)
class Message:
    """The push `message`: what a channel carries; also an element of `messages` in replies."""

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
    """True where `members` are not all of them; else absent."""


@dataclass(frozen=True, slots=True)
class Error:
    """A command was not carried out (with its `id`), or a frame was no command (without)."""

    type: ClassVar[str] = "error"
    code: ErrorCode
    message: str
    retry_after_ms: int | None = None
    id: int | None = None


@dataclass(frozen=True, slots=True)
class Connected:
    """The session is open; `subs` tells of every channel asked for and of those that the server added."""

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
    """The message is in the history and on its way to every node with a subscriber."""

    type: ClassVar[str] = "published"
    id: int
    channel: str
    message: MessageId | None = None
    acknowledged: str | None = None
    """`replicated` or only `stored`, where the server waits for replicas; absent where it does not."""


@dataclass(frozen=True, slots=True)
class PresenceState:
    """Who is in the channel."""

    type: ClassVar[str] = "presence"
    id: int
    channel: str
    connections: int
    users: int
    members: Sequence[Member] | None = None
    truncated: bool | None = None
    """True where `members` are not all of them; else absent."""


@dataclass(frozen=True, slots=True)
class HistoryPage:
    """Messages of a channel's history, and its newest position."""

    type: ClassVar[str] = "history"
    id: int
    channel: str
    position: MessageId | None = None
    messages: Sequence[Any] = ()


@dataclass(frozen=True, slots=True)
class Refreshed:
    """The newer token holds for `expires_in` seconds."""

    type: ClassVar[str] = "refreshed"
    id: int
    expires_in: float


@dataclass(frozen=True, slots=True)
class PongReply:
    """The answer to a client's ping."""

    type: ClassVar[str] = "pong"
    id: int


@dataclass(frozen=True, slots=True)
class Join:
    """A member came."""

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
    """Messages are missing here; the stream goes on behind `position`."""

    type: ClassVar[str] = "gap"
    channel: str
    reason: str
    """`overflow` (this client was too slow), `trimmed` (history no longer reaches back), `reset` (the store
    lost writes)."""
    position: MessageId | None = None
    """The last message that is missing."""


@dataclass(frozen=True, slots=True)
class ServerPing:
    """Answer with `pong` within the heartbeat's grace."""

    type: ClassVar[str] = "ping"


@dataclass(frozen=True, slots=True)
class Expiring:
    """The token ends in so many seconds: send `refresh`."""

    type: ClassVar[str] = "expiring"
    seconds: float


@dataclass(frozen=True, slots=True)
class Reconnect:
    """The node drains: reconnect after that delay."""

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
