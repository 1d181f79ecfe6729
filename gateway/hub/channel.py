"""One channel on this node: its subscribers, its position, and its newest messages."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sized
from itertools import islice
from typing import Protocol

from gateway.access.permissions import ChannelRules
from gateway.broker.base import Retention
from gateway.delivery.encoding import EncodedBatch, EncodedMessage, memory_cost
from gateway.delivery.outbox import Outbox
from gateway.delivery.overflow import Subscriber
from gateway.hub.newest_messages import CachingChannels
from gateway.hub.presence_pushes import PresencePushes
from gateway.memory import NodeMemory
from protocol.codec import Codec
from protocol.messages import Join, Leave, Member
from protocol.position import MessageId

CACHED_MESSAGES = 64
"""Newest messages that a channel keeps: most clients that resume are served without asking the broker."""

CACHED_BYTES = 512 * 1024
"""Bytes of memory that these messages may take together; the newest message is kept whatever its size."""

ARRIVAL_TIMEOUT_SECONDS = 3.0
"""How long a resume waits for this node to receive what its client has received on another node."""


class SubscriberSession(Protocol):
    """The session of a subscription, as far as a channel knows it."""

    @property
    def connection(self) -> str:
        """The id of the connection."""

    @property
    def subscriptions(self) -> Sized:
        """All subscriptions of the session."""


class ChannelSubscriber(Subscriber, Protocol):
    """A subscription, as far as a channel knows it."""

    missed_unnumbered: bool
    """Whether it missed, while behind, a message that is in no history."""

    member: Member | None
    """What presence shows of it."""

    @property
    def session(self) -> SubscriberSession:
        """The session that it belongs to."""

    @property
    def outbox(self) -> Outbox:
        """The outbox of its session."""

    @property
    def watches_presence(self) -> bool:
        """Whether it gets joins and leaves."""

    @property
    def behind(self) -> MessageId | None:
        """The last position delivered, while it gets no live messages; else None."""

    def gap_frame(self, position: MessageId | None, reason: str = "overflow") -> bytes:
        """Return the frame of a `gap` push: messages up to *position* are missing."""

    def go_live(self) -> None:
        """Get messages as they are delivered from now on."""


class MemberList(Protocol):
    """A list of members on its way from the broker to a client, with the changes meanwhile."""

    @property
    def changes(self) -> list[Join | Leave]:
        """The joins and leaves since the broker was asked."""


class ChannelTotals:
    """Running totals over all channels of a node."""

    __slots__ = ("behind", "caching", "deliveries", "subscriptions")

    def __init__(self, memory: NodeMemory | None = None) -> None:
        self.caching = CachingChannels((memory or NodeMemory()).newest_messages)
        """Those that keep messages, and the bytes that these take."""
        self.deliveries = 0
        """How many times a message was offered to a subscriber."""
        self.subscriptions = 0
        """Subscribers of all channels."""
        self.behind = 0
        """Subscriptions that are behind now."""


class Channel:
    """A channel that has a subscriber on this node, or is about to have one."""

    __slots__ = (
        "_advanced",
        "_cached",
        "_cached_bytes",
        "_pending",
        "_position_before_pending",
        "history_generation",
        "member_lists",
        "name",
        "numbering_breaks",
        "pending_subscriptions",
        "position",
        "position_before_cache",
        "presence",
        "recently_used",
        "routed",
        "routing",
        "rules",
        "subscribers",
        "totals",
    )

    def __init__(self, name: str, rules: ChannelRules, totals: ChannelTotals | None = None) -> None:
        self.name = name
        self.rules = rules
        self.subscribers: dict[Codec, dict[ChannelSubscriber, None]] = {}
        """By codec: a message is encoded once for each."""
        self.presence: PresencePushes[ChannelSubscriber] | None = None
        """Pushes joins and leaves to subscribers that want them; None before the first of these."""
        self.pending_subscriptions = 0
        """Subscriptions that are being prepared: they keep the channel, and are not subscribers yet."""
        self.member_lists: dict[MemberList, None] = {}
        self.routed = False
        """Whether the broker routes it to this node."""
        self.routing: asyncio.Future[None] | None = None
        """Done when the call that asks the broker for the route has ended; None without such a call."""
        self.position: MessageId | None = None
        """The newest message delivered here; None if the channel keeps no history."""
        self.position_before_cache: MessageId | None = None
        """The position before the oldest cached message; None if the channel keeps no history."""
        self.numbering_breaks = 0
        """How often a message did not directly follow `position`."""
        self.history_generation = object()
        """Identifies the history that `position` belongs to: replaced when that is reset or cleared."""
        self.totals = totals or ChannelTotals()
        self._cached: deque[EncodedMessage] = deque()
        self._cached_bytes = 0
        """Bytes of memory that the cached messages take, with their frames in the codecs of `subscribers`."""
        self.recently_used = False
        """Whether a message was cached, or read from the cache, since memory was short."""
        self._pending: list[EncodedMessage] = []
        self._position_before_pending: MessageId | None = None
        self._advanced: asyncio.Future[None] | None = None
        """Done when `position` has changed; None while no caller waits for that."""

    @property
    def retention(self) -> Retention | None:
        """How much history the broker keeps of it."""
        return Retention.of(self.rules.history, self.rules.history_ttl)

    @property
    def idle(self) -> bool:
        """Whether it has no subscriber, and none is being prepared."""
        return not self.pending_subscriptions and not any(self.subscribers.values())

    def __len__(self) -> int:
        return sum(map(len, self.subscribers.values()))

    # ------------------------------------------------------------ subscribers

    def add(self, subscription: ChannelSubscriber) -> None:
        """Offer *subscription* all messages that are delivered from now on."""
        self.offer_pending()
        if subscription.codec not in self.subscribers:
            self.subscribers[subscription.codec] = {}
            self._count_cached()
        self.subscribers[subscription.codec][subscription] = None
        self.totals.subscriptions += 1
        if subscription.watches_presence:
            if self.presence is None:
                self.presence = PresencePushes()
            self.presence.add(subscription)

    def remove(self, subscription: ChannelSubscriber) -> None:
        """Offer *subscription* what was delivered until now, and nothing more."""
        self.offer_pending()
        if self.subscribers.get(subscription.codec, {}).pop(subscription, self) is None:
            self.totals.subscriptions -= 1
        if self.presence is not None:
            self.presence.remove(subscription)

    # ------------------------------------------------------------ messages

    def discard_state(self) -> None:
        """Discard cached state: it belongs to the previous route, whose later messages may never arrive."""
        self._pending.clear()
        self._start_history_at(None)

    def start_at(self, position: MessageId | None) -> None:
        """Set the position to *position*, which the broker returned when it began to route.

        Does nothing if a message has set it meanwhile: that message is newer.
        """
        if position is not None and self.position is None:
            self.position_before_cache = self.position = position

    def collect(self, encoded: EncodedMessage) -> bool:
        """Keep a message for `offer_pending`; return whether no other message was waiting."""
        message_id = encoded.id
        if not self._pending:
            self._position_before_pending = self.position
        if message_id is not None:
            self._cache(encoded, message_id)
        self._pending.append(encoded)
        return len(self._pending) == 1

    def offer_pending(self, *, only_channel: bool = False) -> None:
        """Offer the messages that wait, as one batch, to every subscriber.

        *only_channel* says that the turn of the event loop ends and that no other channel has messages: then
        each connection is written to at once.
        """
        if not self._pending:
            return
        if self._advanced is not None:
            self._notify_advanced()
        if self.presence is not None:
            self.presence.push_waiting()
        messages, self._pending = self._pending, []
        for codec, subscriptions in self.subscribers.items():
            if not subscriptions:
                continue
            batch = EncodedBatch(codec, messages, self._position_before_pending)
            self.totals.deliveries += len(messages) * len(subscriptions)
            # A copy: a subscriber that is too slow is removed during the loop.
            for subscription in list(subscriptions):
                if subscription.behind is not None:
                    subscription.missed_unnumbered |= batch.unnumbered
                elif only_channel or len(subscription.session.subscriptions) == 1:
                    subscription.outbox.offer_now(subscription, batch)
                else:
                    subscription.outbox.offer(subscription, batch)

    def offer_excluding(self, encoded: EncodedMessage, excluded: frozenset[str]) -> None:
        """Offer one message to all subscribers but the connections *excluded*, which count as served."""
        self.offer_pending()
        if self.presence is not None:
            self.presence.push_waiting()
        message_id = encoded.id
        before = self.position
        if message_id is not None:
            self._cache(encoded, message_id)
        if self._advanced is not None:
            self._notify_advanced()
        for codec, subscriptions in self.subscribers.items():
            if not subscriptions:
                continue
            batch = EncodedBatch(codec, [encoded], before)
            self.totals.deliveries += len(subscriptions)
            for subscription in list(subscriptions):
                if subscription.session.connection in excluded:
                    continue
                if subscription.behind is None:
                    subscription.outbox.offer(subscription, batch)
                else:
                    subscription.missed_unnumbered |= batch.unnumbered

    def collect_presence(self, push: Join | Leave) -> None:
        """Keep a join or leave for those who watch presence, except for the member itself.

        It is pushed after the messages that were delivered before it, and before those delivered later.
        """
        for member_list in self.member_lists:
            member_list.changes.append(push)
        if self.presence is not None:
            self.offer_pending()
            self.presence.collect(push)

    # ------------------------------------------------------------ the newest messages

    def messages_after(self, position: MessageId, limit: int | None = None) -> list[EncodedMessage] | None:
        """Return the messages delivered after *position*; None unless every one of them is cached here."""
        if position == self.position:
            return []
        if self.position_before_cache is None or position.offset < self.position_before_cache.offset:
            return None
        skip = position.offset - self.position_before_cache.offset
        if skip > len(self._cached):
            return None
        known = self.position_before_cache if skip == 0 else self._cached[skip - 1].id
        if known != position:
            return None
        self.recently_used = True
        return list(islice(self._cached, skip, None if limit is None else skip + limit))

    def newest(self, count: int, *, not_before: float) -> list[EncodedMessage] | None:
        """Return the newest *count* messages; None if fewer are cached, or one is older than *not_before*.

        *not_before* is in Unix seconds: a new subscriber does not get what history no longer keeps.
        """
        if not 0 < count <= len(self._cached):
            return None
        self.recently_used = True
        newest = list(islice(self._cached, len(self._cached) - count, None))
        return newest if (newest[0].message.time or 0) > not_before * 1000 else None

    async def wait_for_offset(self, offset: int, timeout_seconds: float = ARRIVAL_TIMEOUT_SECONDS) -> bool:
        """Wait until the message *offset* was delivered here, or cannot be because the numbering broke.

        Return False after *timeout_seconds*: this node lags behind, or has lost its broker.
        """
        loop = asyncio.get_running_loop()
        breaks, expired = self.numbering_breaks, False

        def expire() -> None:
            nonlocal expired
            expired = True
            self._notify_advanced()  # also wakes the other waiters, which check their condition again

        # `asyncio.timeout` needs a task, and this may run without one (gateway/tasks.py).
        timer = loop.call_later(timeout_seconds, expire)
        try:
            while self.numbering_breaks == breaks and self._is_before(offset):
                if expired:
                    return False
                if self._advanced is None:
                    self._advanced = loop.create_future()
                await asyncio.shield(self._advanced)
        finally:
            timer.cancel()
        return True

    def _is_before(self, offset: int) -> bool:
        return self.position is not None and self.position.offset < offset

    def reset(self, position: MessageId | None) -> None:
        """Go on from *position*: earlier messages are of another history."""
        self.offer_pending()
        self.numbering_breaks += 1
        self._start_history_at(position)
        self._notify_advanced()

    def clear_history(self) -> None:
        """Stop serving earlier messages; subscribers have missed nothing."""
        self.offer_pending()
        self._start_history_at(self.position)

    def discard_newest_messages(self) -> None:
        """Free the cached messages: the node needs the memory. The history stays the same."""
        self._cached.clear()
        self._count_cached()
        self.position_before_cache = self.position

    def _start_history_at(self, position: MessageId | None) -> None:
        self._cached.clear()
        self._count_cached()
        self.totals.caching.discard(self)
        self.history_generation = object()
        self.position_before_cache = self.position = position

    def _notify_advanced(self) -> None:
        advanced, self._advanced = self._advanced, None
        if advanced is not None:
            advanced.set_result(None)

    def _cache(self, encoded: EncodedMessage, message_id: MessageId) -> None:
        if self.position is None or not message_id.follows(self.position):
            # The broker had forgotten an idle channel and numbers its messages from the start.
            self.numbering_breaks += 1
            # No client ever got this position, so none resumes from before this message.
            self._start_history_at(MessageId(message_id.offset - 1, ""))
        self.position = message_id
        self.recently_used = True
        if not self._cached:
            self.totals.caching.add(self)
        self._cached.append(encoded)
        codecs = len(self.subscribers) or 1
        size = self._cached_bytes + memory_cost(encoded.message, codecs)
        while len(self._cached) > CACHED_MESSAGES or (size > CACHED_BYTES and len(self._cached) > 1):
            dropped = self._cached.popleft()
            size -= memory_cost(dropped.message, codecs)
            self.position_before_cache = dropped.id
        caching = self.totals.caching
        caching.budget.used += size - self._cached_bytes
        self._cached_bytes = size
        if caching.budget.used > caching.budget.limit:
            caching.make_room()

    def _count_cached(self) -> None:
        """Count the bytes of the cached messages again: they, or the codecs in use, have changed."""
        codecs = len(self.subscribers) or 1
        size = sum(memory_cost(encoded.message, codecs) for encoded in self._cached)
        self.totals.caching.budget.used += size - self._cached_bytes
        self._cached_bytes = size

    def __repr__(self) -> str:
        return f"<Channel {self.name} at {self.position} {len(self)} subscribers>"
