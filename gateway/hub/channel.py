"""One channel on this node: who follows it, where it stands, and what it said last."""

from __future__ import annotations

import asyncio
from collections import deque
from itertools import islice
from typing import TYPE_CHECKING, Protocol

from gateway.access.permissions import ChannelRules
from gateway.broker.base import Retention
from gateway.delivery.encoding import EncodedBatch, EncodedMessage, data_frame
from protocol.codec import Codec
from protocol.messages import Join, Leave
from protocol.position import MessageId

if TYPE_CHECKING:
    from gateway.hub.subscription import Subscription

RECENT = 64
"""Messages of a channel that stay with the hub: a storm of resumes after moments away asks no broker."""

RECENT_BYTES = 256 * 1024

HEARD_WITHIN = 3.0
"""Seconds for which a resume waits until this node has heard what its client has (DESIGN section 6)."""


class Arriving(Protocol):
    """Who is about to follow a channel and wants to know its members."""

    @property
    def changes(self) -> list[Join | Leave]:
        """What has changed since it asked for them."""


class DeliveryCounter:
    """How many times a message was offered to a subscriber, on all channels of a node."""

    __slots__ = ("deliveries",)

    def __init__(self) -> None:
        self.deliveries = 0


class Channel:
    """A channel that somebody here follows, or is about to."""

    __slots__ = (
        "_before",
        "_pending",
        "_progress",
        "_recent",
        "_recent_bytes",
        "_tally",
        "arriving",
        "audience",
        "base",
        "breaks",
        "era",
        "holds",
        "name",
        "routed",
        "routing",
        "rules",
        "top",
        "watchers",
    )

    def __init__(self, name: str, rules: ChannelRules, tally: DeliveryCounter | None = None) -> None:
        self.name = name
        self.rules = rules
        self._tally = tally or DeliveryCounter()
        self.audience: dict[Codec, dict[Subscription, None]] = {}
        """Who follows it, by the codec they speak: each chunk is encoded once for each."""
        self.watchers: dict[Subscription, None] = {}
        self.holds = 0
        """How many are about to follow it."""
        self.arriving: dict[Arriving, None] = {}
        """Who of them wants to know the members."""
        self.routed = False
        self.routing: asyncio.Future[None] | None = None
        self.base: MessageId | None = None
        """The position before the oldest of the recent messages; None where the channel keeps no history."""
        self.top: MessageId | None = None
        """The newest message that was delivered here."""
        self.breaks = 0
        """How often the numbering did not go on from `top`."""
        self.era = object()
        """Stands for its history as this node knows it; another one where that is reset or cleared."""
        self._recent: deque[EncodedMessage] = deque()
        self._recent_bytes = 0
        self._pending: list[EncodedMessage] = []
        self._before: MessageId | None = None
        self._progress: asyncio.Future[None] | None = None

    @property
    def retention(self) -> Retention | None:
        """How much the broker keeps of it."""
        return Retention.of(self.rules.history, self.rules.history_ttl)

    @property
    def idle(self) -> bool:
        """Whether nobody follows it or is about to."""
        return not self.holds and not any(self.audience.values())

    def __len__(self) -> int:
        return sum(map(len, self.audience.values()))

    # ------------------------------------------------------------ who follows

    def add(self, subscription: Subscription) -> None:
        """Let *subscription* have whatever is delivered from now on."""
        self.settle()
        self.audience.setdefault(subscription.codec, {})[subscription] = None
        if subscription.watches:
            self.watchers[subscription] = None

    def remove(self, subscription: Subscription) -> None:
        """Let *subscription* have what was delivered until now, and nothing more."""
        self.settle()
        self.audience.get(subscription.codec, {}).pop(subscription, None)
        self.watchers.pop(subscription, None)

    # ------------------------------------------------------------ what it says

    def restart(self) -> None:
        """Know nothing: what came until now was of an earlier route, and what followed it may never come."""
        self._pending.clear()
        self._forget(None)

    def begin(self, position: MessageId | None) -> None:
        """Stand at *position*, which the broker gave when it began to route; what came meanwhile is newer."""
        if position is not None and self.top is None:
            self.base = self.top = position

    def append(self, frames: EncodedMessage) -> bool:
        """Take a message that is to be delivered; return whether it is the first one that waits."""
        identity = frames.message.message
        if not self._pending:
            self._before = self.top
        if identity is not None:
            self._remember(frames, identity)
        self._pending.append(frames)
        return len(self._pending) == 1

    def settle(self, *, alone: bool = False) -> None:
        """Offer what waits, joined, to everybody who follows now.

        *alone* says that the turn ends and no other channel has anything: then each connection is written to
        at once.
        """
        if not self._pending:
            return
        if self._progress is not None:
            self._advance()
        messages, self._pending = self._pending, []
        for codec, subscriptions in self.audience.items():
            if not subscriptions:
                continue
            chunk = EncodedBatch(codec, messages, self._before)
            self._tally.deliveries += len(messages) * len(subscriptions)
            # A copy: who is too slow leaves the audience while it is walked.
            for subscription in list(subscriptions):
                if subscription.behind is not None:
                    subscription.missed |= chunk.unnumbered
                elif alone or len(subscription.session.subscriptions) == 1:
                    subscription.outbox.offer_now(subscription, chunk)
                else:
                    subscription.outbox.offer(subscription, chunk)

    def offer_to(self, frames: EncodedMessage, exclude: frozenset[str]) -> None:
        """Offer one message to everybody but the connections in *exclude*, which take it as delivered."""
        self.settle()
        identity = frames.message.message
        before = self.top
        if identity is not None:
            self._remember(frames, identity)
        if self._progress is not None:
            self._advance()
        for codec, subscriptions in self.audience.items():
            if not subscriptions:
                continue
            chunk = EncodedBatch(codec, [frames], before)
            self._tally.deliveries += len(subscriptions)
            for subscription in list(subscriptions):
                if subscription.session.connection in exclude:
                    continue
                if subscription.behind is None:
                    subscription.outbox.offer(subscription, chunk)
                else:
                    subscription.missed |= chunk.unnumbered

    def announce(self, push: Join | Leave) -> None:
        """Tell everybody who watches joins and leaves, except the member itself."""
        for arriving in self.arriving:
            arriving.changes.append(push)
        if not self.watchers:
            return
        self.settle()
        encoded: dict[Codec, bytes] = {}
        for subscription in list(self.watchers):
            if subscription.session.connection == push.member.connection:
                continue
            codec = subscription.codec
            if codec not in encoded:
                encoded[codec] = data_frame(codec.encode(push), binary=codec.binary)
            subscription.outbox.push(encoded[codec])

    def after(self, position: MessageId, limit: int | None = None) -> list[EncodedMessage] | None:
        """Return the messages delivered after *position*; None unless the hub still has every one of them."""
        if position == self.top:
            return []
        if self.base is None or position.offset < self.base.offset:
            return None
        skip = position.offset - self.base.offset
        if skip > len(self._recent):
            return None
        known = self.base if skip == 0 else self._recent[skip - 1].message.message
        if known != position:
            return None
        return list(islice(self._recent, skip, None if limit is None else skip + limit))

    def last(self, count: int, *, no_older: float) -> list[EncodedMessage] | None:
        """Return the newest *count* messages if the hub has them; None otherwise, or if one is too old.

        *no_older* is in Unix seconds: what history no longer keeps is not shown to who comes now.
        """
        if not 0 < count <= len(self._recent):
            return None
        newest = list(islice(self._recent, len(self._recent) - count, None))
        return newest if (newest[0].message.time or 0) > no_older * 1000 else None

    async def reached(self, offset: int, within: float = HEARD_WITHIN) -> bool:
        """Wait until the message *offset* was delivered here, or will not be because the numbering broke.

        Return False where *within* seconds are not enough: this node lags behind, or has lost its broker.
        """
        loop = asyncio.get_running_loop()
        breaks, over = self.breaks, False

        def expire() -> None:
            nonlocal over
            over = True
            self._advance()  # wakes up the others as well, who look again

        # `asyncio.timeout` needs a task, and this may run eagerly.
        timer = loop.call_later(within, expire)
        try:
            while self.breaks == breaks and self.top is not None and self.top.offset < offset:
                if over:
                    return False
                if self._progress is None:
                    self._progress = loop.create_future()
                await asyncio.shield(self._progress)
        finally:
            timer.cancel()
        return True

    def reset(self, position: MessageId | None) -> None:
        """Stand at *position*: what was said before is no longer part of this history."""
        self.settle()
        self.breaks += 1
        self._forget(position)
        self._advance()

    def forget(self) -> None:
        """Show nobody what was said until now; who follows has missed nothing."""
        self.settle()
        self._forget(self.top)

    def _forget(self, position: MessageId | None) -> None:
        self._recent.clear()
        self._recent_bytes = 0
        self.era = object()
        self.base = self.top = position

    def _advance(self) -> None:
        progress, self._progress = self._progress, None
        if progress is not None:
            progress.set_result(None)

    def _remember(self, frames: EncodedMessage, identity: MessageId) -> None:
        if self.top is None or not identity.follows(self.top):
            # The broker began to number anew, after it had forgotten an idle channel.
            self.breaks += 1
            # A position that no client ever got: nobody resumes from what was before.
            self._forget(MessageId(identity.offset - 1, ""))
        self.top = identity
        self._recent.append(frames)
        self._recent_bytes += len(frames.message.data.json)
        while len(self._recent) > RECENT or (self._recent_bytes > RECENT_BYTES and len(self._recent) > 1):
            dropped = self._recent.popleft()
            self._recent_bytes -= len(dropped.message.data.json)
            self.base = dropped.message.message

    def __repr__(self) -> str:
        return f"<Channel {self.name} at {self.top} {len(self)} subscribers>"
