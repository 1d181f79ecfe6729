"""What any broker must do: keep each channel's order and its history, and reach every node that follows it.

Every method is `async` for brokers that talk to others; those that need not wait do not, and may be run
without a task (`gateway.tasks`). So no method relies on the current task: no `asyncio.timeout` in the frame
of the caller.

A broker raises `BrokerUnavailable` when it cannot take something now, `BrokerFull` when it has no memory for
it. Of a publish that timed out on its way nobody knows whether it was carried out: with a key it may be sent
again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Literal, Protocol

from protocol.messages import Gap, Join, Leave, Member, Message, Sender
from protocol.payload import Payload
from protocol.position import MessageId


@dataclass(frozen=True, slots=True)
class Retention:
    """How much of a channel is kept: at most `size` messages, each for `ttl` seconds."""

    size: int
    ttl: float


class AckLevel(StrEnum):
    """What has become of a message before its publisher is told that it was published."""

    STORED = "stored"
    """It is stored, and with every node that has a subscriber."""
    REPLICATED = "replicated"
    """A second server has all that as well: it outlives the loss of the first."""


@dataclass(frozen=True, slots=True)
class Publication:
    """What somebody wants published. Without `retention` it is delivered to who is there, and gets no id."""

    channel: str
    data: Payload
    retention: Retention | None = None
    key: str | None = None
    """The same key in the same channel within five minutes publishes once."""
    sender: Sender | None = None
    tags: Mapping[str, str] | None = None
    exclude: frozenset[str] = frozenset()
    """Connections that are not to get it."""
    level: AckLevel | None = None
    """What to wait for, but not for long; None for what the broker was told."""


@dataclass(frozen=True, slots=True)
class Receipt:
    """The message is stored and handed to every node with a subscriber.

    `replayed` where an earlier publish with the same key did it; `id` None where it is not kept.
    """

    id: MessageId | None
    replayed: bool = False
    level: AckLevel | None = None
    """What was reached, where more than `stored` was asked for."""


@dataclass(frozen=True, slots=True)
class HistorySlice:
    """A part of a channel's history, without a hole, in the order asked for."""

    messages: Sequence[Message]
    position: MessageId
    """The newest message of the channel, whether or not it is in `messages`."""
    recovered: bool
    """Whether `messages` begins right after the position asked for; without one asked for, True."""
    floor: int = 0
    """Up to here the history has lost writes: what is kept beyond it goes on from a position nobody had."""


# ---------------------------------------------------------------- what arrives on a node


@dataclass(frozen=True, slots=True)
class Delivery:
    """A message for the subscribers of its channel, those in `exclude` apart."""

    message: Message
    exclude: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class UserCommand:
    """What the server's API wants done with a user's connections."""

    user: str
    action: Literal["disconnect", "subscribe", "unsubscribe"]
    channel: str = ""
    code: int = 0
    reason: str = ""
    spare: frozenset[str] = frozenset()
    """Connections that are left alone."""
    before: float | None = None
    """Unix seconds, where a node hears of it late: connections that came since are left alone, too."""


@dataclass(frozen=True, slots=True)
class HistoryCleared:
    """The history of a channel was forgotten. Its numbering goes on: who follows it has missed nothing."""

    channel: str


@dataclass(frozen=True, slots=True)
class PossibleLoss:
    """What a channel's history does not tell may be missing: who came and went, and what was not to be kept.

    Its messages are complete up to here.
    """

    channel: str


Envelope = Delivery | Join | Leave | Gap | HistoryCleared | PossibleLoss | UserCommand
"""What crosses the broker. Those of one channel arrive in one order on every node."""


@dataclass(frozen=True, slots=True)
class Presence:
    """Who is in a channel."""

    members: Sequence[Member]

    @property
    def connections(self) -> int:
        """How many connections are there."""
        return len(self.members)

    @property
    def users(self) -> int:
        """How many users those connections belong to."""
        return len({member.user for member in self.members})


@dataclass(frozen=True, slots=True)
class PresenceCount:
    """How many are in a channel: the numbers of its `Presence`."""

    connections: int
    users: int


@dataclass(frozen=True, slots=True)
class ConnectionRecord:
    """One live connection of a user."""

    connection: str
    node: str
    channels: Sequence[str]
    since: float
    """Unix seconds."""


@dataclass(frozen=True, slots=True)
class ChannelRecord:
    """One channel that somebody follows."""

    channel: str
    subscribers: int


@dataclass(frozen=True, slots=True)
class NodeRecord:
    """One node of the cluster."""

    node: str
    connections: int
    channels: int
    subscriptions: int
    uptime: float
    """Seconds."""
    figures: Mapping[str, Any] = field(default_factory=dict)


class LocalNode(Protocol):
    """What a broker finds on the node that it serves."""

    def deliver(self, envelope: Envelope) -> None:
        """Take what arrived; never raises, never waits."""

    def connections(self, user: str) -> Sequence[ConnectionRecord]:
        """Return the connections of *user* here."""

    def following(self, prefix: str = "") -> Mapping[str, int]:
        """Return the channels followed here that start with *prefix*, each with its number of subscribers."""

    def record(self) -> NodeRecord:
        """Return what this node says of itself."""


class MessageBroker(Protocol):
    """Messages: order, history, routing."""

    async def publish(self, publication: Publication) -> Receipt:
        """Store *publication* and hand it to every node with a subscriber, in the order of the calls.

        True to its key, at most once.
        """

    async def subscribe(self, channel: str, retention: Retention | None) -> MessageId | None:
        """Route *channel* to this node; return its position at that moment, None where it keeps no history.

        Whatever is published from then on, and nothing older, reaches `LocalNode.deliver`, perhaps before
        this returns.
        """

    async def unsubscribe(self, channel: str) -> None:
        """Stop routing *channel* to this node."""

    async def read(
        self,
        channel: str,
        *,
        since: MessageId | None = None,
        limit: int | None = None,
        size: int | None = None,
        reverse: bool = False,
    ) -> HistorySlice:
        """Return what is kept of *channel* after *since* (before it, newest first, with *reverse*).

        At most *limit* messages, those nearest to *since*, and no more than have about *size* bytes together,
        but one where there is any. Where that has a hole, or *since* is not of this history: no messages, and
        `recovered` is False.
        """

    async def clear(self, channel: str) -> None:
        """Forget the history of *channel*; `HistoryCleared` reaches every node with a subscriber.

        Its numbering goes on.
        """


class PresenceBroker(Protocol):
    """Presence."""

    async def join(self, channel: str, member: Member) -> None:
        """Add *member*; where it is new, `Join` reaches every node with a subscriber."""

    async def leave(self, channel: str, connection: str) -> None:
        """Remove the member; where it was there, `Leave` reaches every node with a subscriber, once."""

    async def presence(self, channel: str) -> Presence:
        """Return who is in *channel*, those who came first first."""

    async def count(self, channel: str) -> PresenceCount:
        """Return how many are in *channel*; elsewhere that takes as long for many as for few."""


class DirectoryBroker(Protocol):
    """What the cluster knows of its nodes, users and channels."""

    async def arrive(self, user: str) -> None:
        """Hear that *user* has a first connection on this node; never fails."""

    async def depart(self, user: str) -> None:
        """Hear that *user* has no connection on this node any more; never fails."""

    async def connections(self, user: str) -> Sequence[ConnectionRecord]:
        """Return the connections of *user* on every node, the oldest first."""

    async def instruct(self, instruction: UserCommand) -> None:
        """Hand *instruction* to every node where that user is connected."""

    async def following(self, prefix: str, *, after: str, limit: int) -> Sequence[ChannelRecord]:
        """Return followed channels whose names start with *prefix*, by name, behind *after*."""

    async def nodes(self) -> Sequence[NodeRecord]:
        """Return the live nodes."""


class Broker(MessageBroker, PresenceBroker, DirectoryBroker, Protocol):
    """All of it, for one node."""

    async def start(self, node: LocalNode) -> None:
        """Begin to serve *node*."""

    async def close(self) -> None:
        """Stop; nothing is delivered afterwards."""

    def ready(self) -> bool:
        """Return whether publishes are taken now."""

    def statistics(self) -> dict[str, int]:
        """Return counters and sizes for operators and tests."""
