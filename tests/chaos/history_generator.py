"""A model of a gateway without violations and without sockets: it generates histories that are clean.

Everything that a network and a crash may do is random: which messages are lost in transit, which results stay
unknown, the order in which clients receive, where a history is trimmed or lost. Each affected client gets a
notice.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random

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


@dataclass(eq=False)
class ModelChannel:
    """A channel in the model's server."""

    name: str
    newest: str = ""
    stored: list[ReceivedMessage] = field(default_factory=list)
    start: str = ""
    """The position before the oldest stored message."""

    def stored_after(self, position: str) -> list[ReceivedMessage] | None:
        """Return everything after *position*; None where the history no longer reaches back to it."""
        if position == self.start:
            return list(self.stored)
        places = [message.id for message in self.stored]
        return self.stored[places.index(position) + 1 :] if position in places else None


@dataclass(eq=False)
class ModelSubscription:
    """One client in one channel: what is in transit to it, and its position."""

    client: str
    channel: ModelChannel
    since: str | None = None
    subscribed: bool = False
    """In the server."""
    in_transit: deque[Subscribed | Delivered | Gap] = field(default_factory=deque)


@dataclass(eq=False)
class PendingPublish:
    """A publish that may still be stored or resolved."""

    name: str
    channel: ModelChannel
    stored_as: ReceivedMessage | None = None
    resolved: bool = False
    rejected: bool = False


class HistoryGenerator:
    """Generates a history, step by step.

    Args:
        random: Chooses every step.
        clients: The number of clients, each of which may subscribe to every channel.
        channels: The number of channels.
        history_size: How many messages the server stores per channel.
    """

    def __init__(self, random: Random, *, clients: int, channels: int, history_size: int) -> None:
        self.random = random
        self.history_size = history_size
        self.events: list[Event] = []
        self.channels = [ModelChannel(f"c{n}") for n in range(channels)]
        for channel in self.channels:
            channel.newest = channel.start = self._id(0)
        self.subscriptions = [
            ModelSubscription(f"k{n}", channel) for n in range(clients) for channel in self.channels
        ]
        self.pending: list[PendingPublish] = []

    def run(self, steps: int) -> list[Event]:
        """Take *steps* random steps, deliver what is in transit, and return the history."""
        weights: dict[Callable[[], None], int] = {
            self._attempt: 20,
            self._store: 20,
            self._resolve_one: 20,
            self._receive: 60,
            self._subscribe: 15,
            self._disconnect: 3,
            self._unsubscribe: 1,
            self._overflow_outbox: 2,
            self._lose_history: 1,
        }
        for step in self.random.choices(list(weights), list(weights.values()), k=steps):
            step()
        self._finish()
        return self.events

    # ------------------------------------------------------------ publishing

    def _attempt(self) -> None:
        pending = PendingPublish(f"m{len(self.pending)}", self.random.choice(self.channels))
        self.pending.append(pending)
        self.events.append(PublishAttempted(pending.name, pending.channel.name))

    def _store(self) -> None:
        """Store or reject a pending publish, perhaps one resolved as unknown; some are never stored."""
        waiting = [pending for pending in self.pending if not (pending.stored_as or pending.rejected)]
        if not waiting:
            return
        pending = self.random.choice(waiting)
        channel = pending.channel
        if not pending.resolved and self.random.random() < 0.1:
            pending.rejected = True
            return
        pending.stored_as = ReceivedMessage(self._id(int(channel.newest.partition("-")[0]) + 1), pending.name)
        channel.newest = pending.stored_as.id
        channel.stored.append(pending.stored_as)
        while len(channel.stored) > self.history_size:
            channel.start = channel.stored.pop(0).id
        for subscription in self._subscribed_to(channel):
            subscription.in_transit.append(Delivered(subscription.client, channel.name, pending.stored_as))

    def _resolve_one(self) -> None:
        waiting = [pending for pending in self.pending if not pending.resolved]
        if waiting:
            self._resolve(self.random.choice(waiting))

    def _resolve(self, pending: PendingPublish) -> None:
        pending.resolved = True
        if pending.rejected:
            self.events.append(PublishResolved(pending.name, PublishResult.FAILED))
        elif pending.stored_as and self.random.random() < 0.8:
            self.events.append(PublishResolved(pending.name, PublishResult.OK, pending.stored_as.id))
        else:
            self.events.append(PublishResolved(pending.name, PublishResult.UNKNOWN))

    # ------------------------------------------------------------ receiving

    def _subscribe(self) -> None:
        unsubscribed = [
            subscription
            for subscription in self.subscriptions
            if not subscription.subscribed and not subscription.in_transit
        ]
        if unsubscribed:
            self._send_subscribe(self.random.choice(unsubscribed))

    def _send_subscribe(self, subscription: ModelSubscription) -> None:
        """Send a request; the server's answer is in transit."""
        channel = subscription.channel
        self.events.append(SubscribeSent(subscription.client, channel.name, subscription.since))
        missed = None if subscription.since is None else channel.stored_after(subscription.since)
        subscription.subscribed = True
        answer = Subscribed(
            subscription.client, channel.name, channel.newest, missed is not None, tuple(missed or ())
        )
        subscription.in_transit.append(answer)

    def _receive(self) -> None:
        receiving = [subscription for subscription in self.subscriptions if subscription.in_transit]
        if receiving:
            self._receive_from(self.random.choice(receiving))

    def _receive_from(self, subscription: ModelSubscription) -> None:
        event = subscription.in_transit.popleft()
        self.events.append(event)
        subscription.since = event.message.id if isinstance(event, Delivered) else event.position

    def _disconnect(self) -> None:
        """Close a connection; what was in transit to it is lost, in every channel."""
        self._close_connection(self.random.choice(self.subscriptions).client)

    def _close_connection(self, client: str) -> None:
        closed = [subscription for subscription in self.subscriptions if subscription.client == client]
        for subscription in closed:
            for _ in range(self.random.randint(0, len(subscription.in_transit))):
                self._receive_from(subscription)
            subscription.in_transit.clear()
            subscription.subscribed = False
        self.events.append(SubscriptionEnded(client))

    def _unsubscribe(self) -> None:
        subscription = self.random.choice(self.subscriptions)
        if subscription.subscribed:
            while subscription.in_transit:
                self._receive_from(subscription)
            self.events.append(SubscriptionEnded(subscription.client, subscription.channel.name))
            subscription.subscribed = False

    # ------------------------------------------------------------ losses, with notices

    def _overflow_outbox(self) -> None:
        """Drop what is in transit to a slow client."""
        slow = [
            subscription
            for subscription in self.subscriptions
            if subscription.subscribed and subscription.in_transit
        ]
        if slow:
            self._replace_by_gap(self.random.choice(slow), "overflow")

    def _replace_by_gap(self, subscription: ModelSubscription, reason: str) -> None:
        answers = [event for event in subscription.in_transit if isinstance(event, Subscribed)]
        channel = subscription.channel
        subscription.in_transit = deque(
            [*answers, Gap(subscription.client, channel.name, reason, channel.newest)]
        )

    def _lose_history(self) -> None:
        """Lose all or the end of a history: by a restart of the server, or while clients stay connected."""
        restarted = self.random.random() < 0.5
        if restarted:
            self.events.append(HistoryReset())
        for channel in self.channels if restarted else [self.random.choice(self.channels)]:
            if not restarted:
                self.events.append(HistoryReset(channel.name))
            remaining = self.random.choice([0, len(channel.stored) // 2])
            channel.newest = channel.stored[remaining - 1].id if remaining else self._id(0)
            # Clients may have received what is lost now, so no earlier position can be recovered.
            channel.stored, channel.start = [], channel.newest if not remaining else ""
            for subscription in self._subscribed_to(channel):
                if not restarted:
                    self._replace_by_gap(subscription, "reset")
        for client in (
            sorted({subscription.client for subscription in self.subscriptions}) if restarted else ()
        ):
            self._close_connection(client)

    # ------------------------------------------------------------ the end

    def _finish(self) -> None:
        for pending in self.pending:
            if not pending.resolved and self.random.random() < 0.9:
                self._resolve(pending)
        for subscription in self.subscriptions:
            if not subscription.subscribed and not subscription.in_transit and self.random.random() < 0.8:
                self._send_subscribe(subscription)
        while any(subscription.in_transit for subscription in self.subscriptions):
            self._receive()

    def _subscribed_to(self, channel: ModelChannel) -> list[ModelSubscription]:
        return [
            subscription
            for subscription in self.subscriptions
            if subscription.channel is channel and subscription.subscribed
        ]

    def _id(self, offset: int) -> str:
        return f"{offset}-{self.random.getrandbits(48):012x}"
