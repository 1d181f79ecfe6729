"""What one process published, and what each of its subscribers received. No I/O, no clock."""

from __future__ import annotations

from array import array
from collections import Counter, defaultdict
from typing import Any

from loadtests.message_ordinals import MessageOrdinals, history_of
from loadtests.subscription_record import SubscriptionRecord


class PublisherRecord:
    """The messages of one publisher to one channel, numbered from 1, with their ordinals."""

    __slots__ = ("acknowledged", "is_local", "last_acknowledged", "ordinals")

    def __init__(self) -> None:
        self.is_local = False
        """Whether the publisher is in this process."""
        self.ordinals = array("Q")
        """By number - 1; 0 where none is known yet."""
        self.acknowledged = bytearray()
        self.last_acknowledged: int | None = None
        """The ordinal that was acknowledged last."""

    def record_attempt(self) -> int:
        """Return the number of the next message."""
        self.is_local = True
        self._extend_to(len(self.ordinals) + 1)
        return len(self.ordinals)

    def record_acknowledgement(self, number: int, ordinal: int | None) -> bool:
        """Record that *number* was published under *ordinal*; return False if another one is known."""
        self.acknowledged[number - 1] = 1
        self.last_acknowledged = ordinal
        return self._store(number, ordinal)

    def record_delivery(self, number: int, ordinal: int | None) -> bool:
        """Record that *number* was delivered under *ordinal*; return False if that is impossible."""
        if number > len(self.ordinals):
            if self.is_local:
                return False
            self._extend_to(number)
        return self._store(number, ordinal)

    def _store(self, number: int, ordinal: int | None) -> bool:
        if ordinal is None:
            return True
        known = self.ordinals[number - 1]
        if history_of(known) != history_of(ordinal) or not known:
            # A message published again after its history was lost keeps the ordinal of the newer history.
            self.ordinals[number - 1] = max(known, ordinal)
            return True
        return known == ordinal

    def _extend_to(self, number: int) -> None:
        grown = number - len(self.ordinals)
        self.ordinals.extend([0] * grown)
        self.acknowledged.extend(bytes(grown))


class DeliveryRecord:
    """Publications by channel and publisher, and a `SubscriptionRecord` for each subscriber of a channel.

    A publisher calls `record_attempt` before it sends and `record_acknowledgement` after the reply; a
    subscriber calls `start_subscription` when it is subscribed, then `record_delivery` for every message. Ids
    are None in channels without history. `delivery_check.check_deliveries` evaluates the snapshots of all
    processes together.
    """

    def __init__(self) -> None:
        self.publishers: dict[str, dict[str, PublisherRecord]] = {}
        self.delivery_count = 0
        """How many messages were delivered to the subscribers of this process."""
        self._ordinals: defaultdict[str, MessageOrdinals] = defaultdict(MessageOrdinals)
        self._newest: Counter[str] = Counter()
        """The newest acknowledged ordinal of each channel."""
        self._open: dict[SubscriptionRecord, None] = {}
        self._closed: list[SubscriptionRecord] = []
        self._closed_counts: dict[str, Counter[str]] = {}
        """Sums by channel of closed subscriptions without faults."""
        self._misnumbered: Counter[str] = Counter()

    # ------------------------------------------------------------ publishers

    def record_attempt(self, channel: str, publisher: str) -> int:
        """Return the number of a message that *publisher* is about to send; its outcome is unknown so far."""
        return self._publisher(channel, publisher).record_attempt()

    def record_acknowledgement(
        self, channel: str, publisher: str, number: int, message_id: str | None
    ) -> int | None:
        """Record that the server accepted this message; return its ordinal."""
        record = self._publisher(channel, publisher)
        ordinal = None
        if message_id is not None:
            ordinal = self._ordinals[channel].of_confirmed(message_id, after=record.last_acknowledged)
            self._newest[channel] = max(ordinal, self._newest[channel])
        if not record.record_acknowledgement(number, ordinal):
            self._misnumbered[channel] += 1
        return ordinal

    # ------------------------------------------------------------ subscribers

    def start_subscription(self, subscriber: str, channel: str, position: str | None) -> SubscriptionRecord:
        """Return the record of a subscriber whose reply says that the channel is at *position*."""
        if position is None:
            publishers = self.publishers.get(channel, {})
            sent_before = {
                name: len(record.ordinals) for name, record in publishers.items() if record.is_local
            }
            subscription = SubscriptionRecord(subscriber, channel, None, sent_before)
        else:
            subscription = SubscriptionRecord(
                subscriber, channel, self._ordinals[channel].of_confirmed(position)
            )
        self._open[subscription] = None
        return subscription

    def record_delivery(
        self, subscription: SubscriptionRecord, publisher: str, number: int, message_id: str | None
    ) -> None:
        """Record that a subscriber received message *number* of *publisher*."""
        self.delivery_count += 1
        record = self._publisher(subscription.channel, publisher)
        ordinal, consistent = None, True
        if message_id is not None:
            ordinal, consistent = self._ordinals[subscription.channel].of_delivered(message_id)
        consistent = record.record_delivery(number, ordinal) and consistent
        subscription.record_delivery(
            publisher, number, ordinal, consistent=consistent, publisher_is_local=record.is_local
        )

    def require_through(self, subscription: SubscriptionRecord, position: str | None) -> None:
        """Record what is missing up to *position*: the server says that everything up to it was sent."""
        if position is not None:
            ordinal = self._ordinals[subscription.channel].of_confirmed(position, after=subscription.last)
            subscription.require_through(ordinal)

    def record_announced_gap(self, subscription: SubscriptionRecord, position: str | None) -> None:
        """Record that the server announced missing messages before *position*, or a new history."""
        ordinal = None
        if position is not None:
            ordinal = self._ordinals[subscription.channel].of_confirmed(position, after=subscription.last)
        subscription.record_announced_gap(ordinal)

    def end_subscription(self, subscription: SubscriptionRecord, through: int | None = None) -> None:
        """Close *subscription*, see `SubscriptionRecord.close`; without faults only its counts are kept."""
        subscription.close(through)
        self._open.pop(subscription, None)
        if subscription.nothing_missing and not subscription.samples:
            counts = self._closed_counts.setdefault(subscription.channel, Counter())
            counts.update(subscription.counts(), subscribers=1)
        else:
            self._closed.append(subscription)

    # ------------------------------------------------------------ totals

    def outstanding(self) -> int:
        """Return how many deliveries of messages acknowledged in this process are still to come."""
        return sum(each.outstanding(self._newest[each.channel]) for each in self._open)

    def snapshot(self) -> dict[str, Any]:
        """Return the input of `check_deliveries`, in types that can be sent to another process."""
        return {
            "publishers": {
                channel: {
                    publisher: [bytes(record.acknowledged), record.ordinals.tobytes()]
                    for publisher, record in publishers.items()
                    if record.is_local
                }
                for channel, publishers in self.publishers.items()
            },
            "subscriptions": [each.snapshot() for each in (*self._open, *self._closed)],
            "closed_counts": {channel: dict(counts) for channel, counts in self._closed_counts.items()},
            "misnumbered": dict(self._misnumbered),
        }

    def _publisher(self, channel: str, publisher: str) -> PublisherRecord:
        publishers = self.publishers.get(channel)
        if publishers is None:
            publishers = self.publishers[channel] = {}
        record = publishers.get(publisher)
        if record is None:
            record = publishers[publisher] = PublisherRecord()
        return record

    def __repr__(self) -> str:
        return (
            f"<DeliveryRecord {self.delivery_count} delivered, {len(self._open)} open subscriptions, "
            f"{self.outstanding()} outstanding>"
        )
