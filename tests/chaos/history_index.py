"""A history as the checker reads it: publishes with their results, and what clients received, in segments.

A segment is a stretch of one channel at one client in which the server promises that nothing is missing: it
begins at a position that the client received, and ends with the notice of a break. A reconnect that recovers
continues the segment.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from protocol.position import MessageId
from tests.chaos.history import (
    Delivered,
    Event,
    Gap,
    HistoryReset,
    PublishAttempted,
    PublishResolved,
    PublishResult,
    ReceivedMessage,
    Subscribed,
    SubscribeSent,
    SubscriptionEnded,
)
from tests.chaos.verdict import LossNotice


@dataclass(slots=True, eq=False)
class Publish:
    """One publish; *attempted* and *resolved* are indexes into the history."""

    name: str
    channel: str
    attempted: int
    resolved: float = math.inf
    result: PublishResult = PublishResult.UNKNOWN
    id: MessageId | None = None


@dataclass(frozen=True, slots=True)
class Delivery:
    """A message that a client received, at an index of the history; *id* is None where it has none."""

    at: int
    id: MessageId | None
    publish: str

    def __str__(self) -> str:
        return self.publish if self.id is None else str(self.id)


@dataclass(frozen=True, slots=True)
class RecoveryClaim:
    """The server claimed that a client which resumed from *since* has everything up to *position*."""

    at: int
    since: MessageId
    position: MessageId
    newest_received: MessageId | None
    """The newest message that the client did have then."""


@dataclass(slots=True, eq=False)
class Segment:
    client: str
    channel: str
    began: int
    """The index from which on the server must deliver everything that is published."""
    start: MessageId | None
    """The position after which it begins; None in a channel without history, where nothing must arrive."""
    deliveries: list[Delivery] = field(default_factory=list)
    claims: list[RecoveryClaim] = field(default_factory=list)
    complete_until: float = -1
    """Everything acknowledged before this index must have arrived, whatever was received later."""
    complete_until_before_recovery: float = -1
    """`complete_until` as it was before the last recovery."""

    @property
    def newest(self) -> MessageId | None:
        """The newest id that was received, else the start."""
        ids = [delivery.id for delivery in self.deliveries if delivery.id is not None]
        return max(ids, key=lambda id: id.offset, default=self.start)


@dataclass(slots=True, eq=False)
class ChannelView:
    """What one client received of one channel."""

    client: str
    channel: str
    segments: list[Segment] = field(default_factory=list)
    subscribed: bool = False
    """Whether it is subscribed at this point of the history."""
    unrequested: list[Delivery] = field(default_factory=list)
    """What it received while it was not subscribed."""
    subscribe_sent: tuple[int, str | None] = (0, None)

    def add_delivery(self, at: int, message: ReceivedMessage) -> None:
        delivery = Delivery(at, _id(message.id), message.publish)
        if self.subscribed:
            self.segments[-1].deliveries.append(delivery)
        else:
            self.unrequested.append(delivery)

    def waive_last_recovery(self) -> None:
        """Require no more of the last segment than before its last recovery: the client got a notice.

        A recovery is correct for what the client's node knows. Where the store has lost writes, another node
        may notice first, begin new numbers and acknowledge publishes, a moment before the client's node
        notices the loss and sends the notice.
        """
        if self.segments:
            self.segments[-1].complete_until = self.segments[-1].complete_until_before_recovery

    def begin_segment(self, at: int, position: str) -> None:
        self.segments.append(Segment(self.client, self.channel, at, _id(position)))
        self.subscribed = True

    def on_subscribed(self, at: int, event: Subscribed) -> bool:
        """Begin or continue a segment; return whether the client was notified of a break."""
        (sent, since), self.subscribe_sent = self.subscribe_sent, (at, None)
        recovered = event.recovered and since is not None
        if not recovered:
            if since is not None:
                self.waive_last_recovery()
            self.begin_segment(at, event.position)
        elif not self.segments:
            self.begin_segment(sent, since or "")
        self.subscribed = True
        for message in event.messages:
            self.add_delivery(at, message)
        if recovered:
            segment, claimed, position = self.segments[-1], _id(since or ""), _id(event.position)
            segment.complete_until_before_recovery = segment.complete_until
            segment.complete_until = max(segment.complete_until, sent)
            if claimed is not None and position is not None:
                segment.claims.append(RecoveryClaim(at, claimed, position, segment.newest))
        return since is not None and not recovered


class HistoryIndex:
    """Everything that the checker looks up in a history."""

    def __init__(self, events: Iterable[Event]) -> None:
        self.publishes: dict[str, Publish] = {}
        self.views: dict[tuple[str, str], ChannelView] = {}
        self.notices: list[LossNotice] = []
        self.resets: dict[str, list[int]] = defaultdict(list)
        for at, event in enumerate(events):
            self._add(at, event)
        for view in self.views.values():
            if view.subscribed and view.segments:
                view.segments[-1].complete_until = math.inf

    def segments(self) -> Iterator[Segment]:
        """Every segment of a channel with history."""
        for view in self.views.values():
            yield from (segment for segment in view.segments if segment.start is not None)

    def publish_in(self, channel: str, name: str) -> Publish | None:
        """The publish called *name*, if it went to *channel*."""
        found = self.publishes.get(name)
        return found if found is not None and found.channel == channel else None

    def resets_before(self, channel: str, at: float) -> int:
        """The number of resets of *channel* before the index *at*."""
        return sum(reset < at for reset in (*self.resets[channel], *self.resets[""]))

    def _add(self, at: int, event: Event) -> None:
        match event:
            case PublishAttempted() | PublishResolved():
                self._add_publish(at, event)
            case HistoryReset(channel):
                self.resets[channel].append(at)
            case SubscriptionEnded(client, channel):
                for view in self.views.values():
                    if view.client == client and channel in ("", view.channel):
                        view.subscribed = False
            case _:
                self._add_to_view(at, event)

    def _add_publish(self, at: int, event: PublishAttempted | PublishResolved) -> None:
        if isinstance(event, PublishResolved):
            publish = self.publishes[event.publish]
            publish.resolved, publish.result, publish.id = at, event.result, _id(event.id)
        elif event.publish in self.publishes:
            raise ValueError(f"two publishes are called {event.publish!r}: each needs a name of its own")
        else:
            self.publishes[event.publish] = Publish(event.publish, event.channel, at)

    def _add_to_view(self, at: int, event: SubscribeSent | Subscribed | Delivered | Gap) -> None:
        view = self._view(event.client, event.channel)
        match event:
            case SubscribeSent(since=since):
                view.subscribe_sent = (at, since)
            case Subscribed():
                if view.on_subscribed(at, event):
                    self.notices.append(LossNotice(event.client, event.channel, "recovered: false"))
            case Delivered(message=message):
                view.add_delivery(at, message)
            case Gap(reason=reason, position=position):
                if reason == "reset":
                    view.waive_last_recovery()
                view.begin_segment(at, position)
                self.notices.append(LossNotice(event.client, event.channel, reason))

    def _view(self, client: str, channel: str) -> ChannelView:
        return self.views.setdefault((client, channel), ChannelView(client, channel))


def _id(text: str) -> MessageId | None:
    return MessageId.parse(text) if text else None
