"""The contract of a broker, which orders and stores each channel's messages and delivers them to the nodes.

`MemoryBroker` serves one node inside its process, `RedisBroker` many nodes over Redis; both pass
`tests/broker/contract.py`.

Calls: every method is a coroutine, because a broker may have to wait for a server. A call that need not
wait completes at its first step, and the hub runs it without a task (`gateway.tasks`). So a method must not
rely on the current task: no `asyncio.timeout` in the frame of the caller.

Errors: a method raises `BrokerUnavailable` if the broker cannot carry out the call now (not started, its
server unreachable or too slow), and `BrokerFull` if the broker has no memory for the data to store. After
`BrokerUnavailable` from `publish` the message may have been published all the same; with an idempotency key
the caller may repeat the publish.

Deadlines: a method returns or raises within the broker's own deadline. Over Redis: 2 s for a publish, 3 s for
a subscribe or a read, 1 s for presence and lookups (docs/redis.md#when-something-fails).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Generic, Literal, Protocol, TypeVar

from gateway.errors import GatewayError
from protocol.messages import Gap, Join, Leave, Member, Message, Sender
from protocol.payload import Payload
from protocol.position import MessageId

T = TypeVar("T")

# ---------------------------------------------------------------- messages and history


@dataclass(frozen=True, slots=True)
class Retention:
    """How much history a channel keeps: at most `size` messages, each for `ttl` seconds."""

    size: int
    ttl: float

    @classmethod
    def of(cls, size: int, ttl: float) -> Retention | None:
        """Return the retention of a channel with these settings; None for a *size* of 0: no history."""
        return cls(size, ttl) if size else None


class AckLevel(StrEnum):
    """How safely a message is stored when its publisher gets the receipt."""

    STORED = "stored"
    """Stored in the history, and in the inbox of every node with a subscriber."""
    REPLICATED = "replicated"
    """A replica of the server has the message as well: the message survives the loss of the primary."""


@dataclass(frozen=True, slots=True)
class Publication:
    """A message to publish."""

    channel: str
    data: Payload
    retention: Retention | None = None
    """None: the message is delivered to the present subscribers, is not stored and gets no id."""
    key: str | None = None
    """Idempotency key: for five minutes, the same publish with this key in the same channel has no effect,
    and another one is rejected."""
    sender: Sender | None = None
    tags: Mapping[str, str] | None = None
    exclude: frozenset[str] = frozenset()
    """Ids of connections that do not get the message."""
    level: AckLevel | None = None
    """The level to wait for, within the broker's deadline; None for the broker's configured level."""
    transient: bool = False
    """Whether the publisher asked not to store it; then `retention` is None whatever the channel keeps."""


@dataclass(frozen=True, slots=True)
class Receipt:
    """The message is stored and in the inbox of every node with a subscriber."""

    id: MessageId | None
    """None for a message that is not stored."""
    replayed: bool = False
    """True if an earlier publish with the same idempotency key did it; `id` is that of the earlier one."""
    level: AckLevel | None = None
    """The level that was reached; None if no more than `AckLevel.STORED` was asked for."""


@dataclass(frozen=True, slots=True)
class HistorySlice:
    """Consecutive messages of a channel's history, in the requested order."""

    messages: Sequence[Message]
    position: MessageId
    """The id of the channel's newest message, whether or not it is in `messages`."""
    recovered: bool
    """Whether `messages` begins right after the position that was asked for; True if there was none."""
    floor: int = 0
    """The store has lost writes up to this offset; no client can resume from a position below it. 0: none."""


# ---------------------------------------------------------------- what a broker delivers to a node


@dataclass(frozen=True, slots=True)
class Delivery:
    """A message for the subscribers of its channel, except the connections in `exclude`."""

    message: Message
    exclude: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class UserCommand:
    """A command of the push API for every connection of a user."""

    user: str
    action: Literal["disconnect", "subscribe", "unsubscribe"]
    channel: str = ""
    code: int = 0
    reason: str = ""
    except_connections: frozenset[str] = frozenset()
    """Ids of connections that the command does not apply to."""
    issued_before: float | None = None
    """Set if a node receives the command late: newer connections are not affected. Seconds by the node's
    clock `gateway.clock.elapsed`, which nothing steps."""


@dataclass(frozen=True, slots=True)
class HistoryCleared:
    """The stored messages of a channel were deleted; the numbering continues, so no subscriber misses any."""

    channel: str


@dataclass(frozen=True, slots=True)
class PossibleLoss:
    """Joins, leaves and unstored messages of a channel may be missing; the stored messages are complete."""

    channel: str


Envelope = Delivery | Join | Leave | Gap | HistoryCleared | PossibleLoss | UserCommand
"""What a broker delivers to nodes. Envelopes of one channel arrive in the same order on every node."""


# ---------------------------------------------------------------- what a broker returns


@dataclass(frozen=True, slots=True)
class Presence:
    """The members of a channel."""

    members: Sequence[Member]

    @property
    def connections(self) -> int:
        """How many connections are present."""
        return len(self.members)

    @property
    def users(self) -> int:
        """How many users these connections belong to."""
        return len({member.user for member in self.members})


@dataclass(frozen=True, slots=True)
class PresenceCount:
    """The number of members of a channel, as connections and as users."""

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
    """One channel that has subscribers."""

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


def _nothing_missing(_: str) -> bool:
    return False


@dataclass(frozen=True, slots=True)
class LookupResult(Generic[T]):
    """The result of a lookup, from the servers and nodes that answered."""

    items: Sequence[T]
    error: GatewayError | None = None
    """Why `items` may be incomplete: a server or a node did not answer. None: `items` is complete."""
    is_missing: Callable[[str], bool] = field(default=_nothing_missing, compare=False)
    """Whether the channel of that name may be missing in `items`, because its server did not answer."""

    @property
    def partial(self) -> bool:
        """Whether `items` may be incomplete."""
        return self.error is not None


# ---------------------------------------------------------------- the node and its broker


class LocalNode(Protocol):
    """The node that a broker serves: the hub."""

    def deliver(self, envelope: Envelope) -> None:
        """Deliver *envelope* to its subscribers, in the order of the calls; never raises, never waits."""

    def connections(self, user: str) -> Sequence[ConnectionRecord]:
        """Return the connections of *user* on this node."""

    def subscribed_channels(
        self, prefix: str = "", *, after: str = "", limit: int | None = None
    ) -> Mapping[str, int]:
        """Return the number of subscribers here of channels with subscribers, in the order of their names.

        Only channels whose names start with *prefix* and come after *after*, at most *limit*. The time
        depends on how many are returned, not on how many there are.
        """

    def subscribers(self, channel: str) -> int:
        """Return the number of subscribers here of *channel*."""

    def as_record(self) -> NodeRecord:
        """Return this node's name and sizes."""


class MessageBroker(Protocol):
    """Messages: order, history, routing."""

    async def publish(self, publication: Publication) -> Receipt:
        """Store *publication*, put it into the inbox of every node with a subscriber, and return the receipt.

        Order: publishes to one channel are carried out in the order of the calls, whatever their `AckLevel`.
        One that the broker repeats after a lost connection, which needs an idempotency key, comes later.
        With an idempotency key the message is published at most once.

        Raises:
            KeyReused: A message with other content (`gateway.broker.content_digest`) was published in the
                channel with the same key; this one was not published.
            BrokerUnavailable: It is unknown whether the message was published.
            BrokerFull: the message was not published.
        """

    async def subscribe(self, channel: str, retention: Retention | None) -> MessageId | None:
        """Route *channel* to this node; return its position at that moment, or None without *retention*.

        Order: exactly the messages after the returned position reach `LocalNode.deliver`, the first messages
        possibly before this call returns. The hub calls this only for the first subscriber of a channel.

        Raises:
            BrokerUnavailable: the channel is not routed.
        """

    async def unsubscribe(self, channel: str) -> None:
        """Stop delivering *channel* to this node."""

    async def read(
        self,
        channel: str,
        *,
        since: MessageId | None = None,
        limit: int | None = None,
        size: int | None = None,
        reverse: bool = False,
    ) -> HistorySlice:
        """Return stored messages of *channel*, oldest first; with *reverse* newest first.

        Args:
            channel: The channel.
            since: Only the messages after this id; with *reverse*, only the messages before this id.
            limit: The maximum number of messages; messages nearest to *since* come first.
            size: The approximate maximum of bytes of payload; at least one message is returned.
            reverse: Newest first.

        If the history no longer reaches back to *since*, or *since* is not one of its ids, the result has
        no messages and `recovered` is False.
        """

    async def clear(self, channel: str) -> None:
        """Delete the stored messages of *channel*; the numbering continues.

        `HistoryCleared` reaches every node with a subscriber, in order with the channel's messages.
        """


class PresenceBroker(Protocol):
    """The members of channels."""

    async def join(self, channel: str, member: Member) -> Member:
        """Add *member*, and return it as it is listed: under another connection's id if its user returns.

        If the member is new, `Join` reaches every node with a subscriber. It is not if its connection is
        present already, or if a member of the same user with the same `info` waits for its user to return:
        then that member belongs to the connection of *member* from now on (docs/presence.md).
        """

    async def leave(self, channel: str, connection: str, *, grace: float = 0.0) -> None:
        """Remove the member of *connection*; `Leave` reaches every node with a subscriber, once.

        With a *grace*, in seconds, the member stays listed for so long, and is not removed if its user
        returns meanwhile, on any node.

        Never raises: a broker that cannot reach its server now removes the member as soon as it can.
        """

    async def presence(self, channel: str) -> Presence:
        """Return the members of *channel*, in the order of their joins."""

    async def count(self, channel: str) -> PresenceCount:
        """Return the number of members of *channel*; with Redis the time does not depend on the number."""


class DirectoryBroker(Protocol):
    """Lookups of users, channels and nodes across the cluster."""

    async def user_connected(self, user: str) -> None:
        """Register that *user* has a first connection on this node; never raises."""

    async def user_disconnected(self, user: str) -> None:
        """Register that *user* no longer has a connection on this node; never raises."""

    async def connections(self, user: str) -> LookupResult[ConnectionRecord]:
        """Return the connections of *user* on every node, oldest first.

        The result is partial if a node does not answer within the deadline.
        """

    async def send_user_command(self, command: UserCommand) -> None:
        """Deliver *command* to every node that has a connection of its user.

        A node that is away receives the command if it returns within an hour.
        """

    async def subscribed_channels(
        self, prefix: str, *, after: str, limit: int
    ) -> LookupResult[ChannelRecord]:
        """Return at most *limit* channels with subscribers, sorted by name, whose names come after *after*.

        Only channels whose names start with *prefix*. The result is partial if a server or a node does not
        answer within the deadline.

        Raises:
            BrokerUnavailable: no server answers.
        """

    async def nodes(self) -> Sequence[NodeRecord]:
        """Return the live nodes."""


class Broker(MessageBroker, PresenceBroker, DirectoryBroker, Protocol):
    """A broker, for one node."""

    @property
    def flush_delay(self) -> float:
        """Seconds that the node's flusher waits after a long flush, so that more messages share one write."""

    async def start(self, node: LocalNode) -> None:
        """Begin to serve *node*; if the server cannot be reached yet, the broker starts and is not ready."""

    async def close(self) -> None:
        """Stop; no envelope is delivered afterwards."""

    def ready(self) -> bool:
        """Return whether publishes are accepted now."""

    def statistics(self) -> dict[str, int]:
        """Return counters and sizes by name, for the metrics and for tests."""
