"""Checks the delivery records of all processes: lost, duplicated, reordered, misnumbered messages. Pure."""

from __future__ import annotations

from array import array
from bisect import bisect
from collections import Counter, defaultdict
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from loadtests.message_ordinals import offset_of
from loadtests.subscription_record import MAX_SAMPLES_PER_KIND, message_label

FAULTS = ("lost", "duplicated", "reordered", "misnumbered")
"""What no server may do, however busy it is."""

COLUMNS = ("subscribers", "published", "unknown", "delivered", *FAULTS, "late", "announced")
"""What is counted of each channel.

`unknown`: sent, but never answered; `announced`: not delivered, and the server announced that.
"""


@dataclass(frozen=True, slots=True)
class Finding:
    """A fault of one kind, or late messages, of one subscriber on one channel."""

    kind: str
    subscriber: str
    channel: str
    count: int
    messages: tuple[str, ...]
    """The first few messages."""


@dataclass(frozen=True, slots=True)
class DeliveryResult:
    """The counts by channel, and every finding."""

    channels: Mapping[str, Mapping[str, int]]
    """The `COLUMNS` of each channel."""
    findings: Sequence[Finding]
    """Faults first, those that concern most messages first."""

    @property
    def totals(self) -> dict[str, int]:
        """The sums of all channels."""
        return {column: sum(row[column] for row in self.channels.values()) for column in COLUMNS}

    @property
    def faults(self) -> dict[str, int]:
        """The sums of each fault, without those that are 0."""
        totals = self.totals
        return {fault: totals[fault] for fault in FAULTS if totals[fault]}


class _Publisher:
    """The messages of one publisher to one channel, decoded from a snapshot."""

    __slots__ = ("acknowledged", "ordinals")

    def __init__(self, acknowledged: bytes, ordinals: bytes) -> None:
        self.acknowledged = acknowledged
        self.ordinals = array("Q")
        self.ordinals.frombytes(ordinals)

    def is_acknowledged(self, number: int) -> bool:
        """Whether the server said that it accepted message *number*."""
        return 0 < number <= len(self.acknowledged) and bool(self.acknowledged[number - 1])

    def ordinal(self, number: int) -> int:
        """Return the ordinal of message *number*; 0 if it has none."""
        return self.ordinals[number - 1]


class _Channel:
    """What all publishers of all processes sent to one channel."""

    def __init__(self) -> None:
        self.publishers: dict[str, _Publisher] = {}

    def counts(self) -> dict[str, int]:
        published = sum(sum(publisher.acknowledged) for publisher in self.publishers.values())
        sent = sum(len(publisher.acknowledged) for publisher in self.publishers.values())
        return {"published": published, "unknown": sent - published}

    @cached_property
    def labels(self) -> dict[int, str]:
        """How reports name each message, by its ordinal."""
        return {
            ordinal: message_label(name, number, ordinal)
            for name, publisher in self.publishers.items()
            for number, ordinal in enumerate(publisher.ordinals, 1)
            if ordinal
        }

    @cached_property
    def acknowledged_ordinals(self) -> list[int]:
        """The ordinals of all messages that the server acknowledged, ascending."""
        return sorted(
            ordinal
            for publisher in self.publishers.values()
            for ordinal, acknowledged in zip(publisher.ordinals, publisher.acknowledged, strict=True)
            if acknowledged and ordinal
        )


def check_deliveries(snapshots: Sequence[Mapping[str, Any]]) -> DeliveryResult:
    """Return what the *snapshots* of the delivery records of all processes amount to."""
    published = _published(snapshots)
    rows: dict[str, Counter[str]] = {name: Counter(channel.counts()) for name, channel in published.items()}
    findings: list[Finding] = []
    for snapshot in snapshots:
        for channel, counts in snapshot["closed_counts"].items():
            rows.setdefault(channel, Counter()).update(counts)
        for channel, count in snapshot["misnumbered"].items():
            rows.setdefault(channel, Counter())["misnumbered"] += count
            findings.append(Finding("misnumbered", "(publishers)", channel, count, ()))
        for subscription in snapshot["subscriptions"]:
            name = subscription["channel"]
            lost = _lost(subscription, published[name], snapshot["publishers"].get(name, {}))
            counts = {column: subscription[column] for column in COLUMNS if column in subscription}
            rows.setdefault(name, Counter()).update(counts, subscribers=1, lost=len(lost))
            findings += _findings(subscription, lost)
    return DeliveryResult(
        {channel: {column: row[column] for column in COLUMNS} for channel, row in sorted(rows.items())},
        sorted(findings, key=lambda finding: (finding.kind not in FAULTS, -finding.count)),
    )


def _published(snapshots: Iterable[Mapping[str, Any]]) -> dict[str, _Channel]:
    published: defaultdict[str, _Channel] = defaultdict(_Channel)
    for snapshot in snapshots:
        for channel, publishers in snapshot["publishers"].items():
            for name, (acknowledged, ordinals) in publishers.items():
                published[channel].publishers[name] = _Publisher(acknowledged, ordinals)
    return published


def _lost(subscription: Mapping[str, Any], channel: _Channel, local_publishers: Container[str]) -> list[str]:
    """Return the messages that the subscriber should have received and never did, each once.

    *local_publishers*: the publishers in the subscriber's process.
    """
    ordinals, without_ordinal = set(subscription["missing"]), list[str]()
    if subscription["last"] is not None and subscription["open"]:
        first_missing = bisect(channel.acknowledged_ordinals, subscription["last"])
        ordinals.update(channel.acknowledged_ordinals[first_missing:])
    for name, publisher in channel.publishers.items():
        sent = len(publisher.acknowledged)
        for number in _missing_numbers(subscription, name, sent, is_local=name in local_publishers):
            if not publisher.is_acknowledged(number):
                continue  # the server never confirmed this message: it may be missing
            if not (ordinal := publisher.ordinal(number)):
                without_ordinal.append(message_label(name, number, None))
            elif ordinal > (subscription["start"] or 0):
                ordinals.add(ordinal)
    by_ordinal = [channel.labels.get(ordinal, f"at {offset_of(ordinal)}") for ordinal in sorted(ordinals)]
    return [*by_ordinal, *without_ordinal]


def _missing_numbers(
    subscription: Mapping[str, Any], publisher: str, sent: int, *, is_local: bool
) -> Iterable[int]:
    last, missing = subscription["publisher_numbers"].get(publisher, (None, ()))
    yield from missing
    if subscription["last"] is None and subscription["open"] and (is_local or last is not None):
        # Without ids, what was sent before the subscription is known only of publishers in the same process.
        yield from range(
            (subscription["sent_before"].get(publisher, 0) if last is None else last) + 1, sent + 1
        )


def _findings(subscription: Mapping[str, Any], lost: Sequence[str]) -> Iterable[Finding]:
    subscriber, channel = subscription["subscriber"], subscription["channel"]
    if lost:
        yield Finding("lost", subscriber, channel, len(lost), tuple(lost[:MAX_SAMPLES_PER_KIND]))
    for kind in (*FAULTS[1:], "late"):
        if subscription[kind]:
            messages = tuple(message for known, message in subscription["samples"] if known == kind)
            yield Finding(kind, subscriber, channel, subscription[kind], messages)
