"""What to drop from a full outbox, by the policy of each channel (docs/slow-clients.md): pure functions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from gateway.delivery.encoding import EncodedBatch, last_position
from protocol.codec import Codec
from protocol.position import MessageId

DROPPING_POLICIES = ("catch_up", "conflate", "drop_oldest")
"""The policies that drop messages."""

POLICIES = (*DROPPING_POLICIES, "disconnect")


class Subscriber(Protocol):
    """A subscription, as far as an outbox knows it."""

    @property
    def on_slow(self) -> str:
        """The policy of its namespace, one of `POLICIES`."""

    @property
    def codec(self) -> Codec:
        """The codec of its connection."""

    def gap_frame(self, position: MessageId | None) -> bytes:
        """Return the frame of a `gap` push: messages up to *position* are missing."""


class QueuedItem(NamedTuple):
    """One item in the queue of an outbox."""

    subscriber: Subscriber | None
    """None for replies and other frames that are never dropped."""
    data: bytes
    batch: EncodedBatch | None
    """None for the frame of a gap, and for what belongs to no channel."""


@dataclass(slots=True)
class OverflowPlan:
    """What to do about a full outbox."""

    kept: list[QueuedItem] = field(default_factory=list)
    """The new queue."""
    behind: dict[Subscriber, MessageId] = field(default_factory=dict)
    """Subscribers to catch up, and from which position."""
    dropped: dict[str, int] = field(default_factory=dict)
    """Messages dropped, by policy; messages of `catch_up` are replayed later."""

    @property
    def size(self) -> int:
        """Bytes of `kept`."""
        return sum(len(item.data) for item in self.kept)

    def count(self, policy: str, messages: int) -> None:
        """Add *messages* to those that are dropped under *policy*."""
        self.dropped[policy] = self.dropped.get(policy, 0) + messages


def plan_overflow(queue: Sequence[QueuedItem], room: int) -> OverflowPlan:
    """Return how to bring *queue* down to *room* bytes.

    First, `catch_up` drops all messages of its channels, to be replayed later, and `conflate` all but the
    newest message of each of its channels. Then `drop_oldest` drops as many of its messages as is needed.
    If messages are lost for good, the frame of a `gap` replaces them in the queue. The plan may still be
    larger than *room*: what is left must not be dropped, and the caller disconnects.
    """
    plan = OverflowPlan()
    newest_index = {item.subscriber: index for index, item in enumerate(queue) if item.batch is not None}
    item_counts = Counter(item.subscriber for item in queue)
    gaps: dict[Subscriber, QueuedItem] = {}
    for index, item in enumerate(queue):
        subscriber, batch = item.subscriber, item.batch
        if subscriber is None or subscriber.on_slow not in ("catch_up", "conflate"):
            plan.kept.append(item)
        elif subscriber.on_slow == "catch_up":
            _drop_for_catch_up(plan, gaps, subscriber, item)
        elif batch is None:
            if subscriber not in newest_index:
                plan.kept.append(item)
        elif newest_index[subscriber] != index:
            plan.count("conflate", len(batch.messages))
        elif item_counts[subscriber] == len(batch.messages) == 1:
            plan.kept.append(item)
        else:
            plan.count("conflate", len(batch.messages) - 1)
            plan.kept += _gap_and_newest(subscriber, batch)
    for subscriber, item in gaps.items():
        # At the position where the replay begins: a client that resumes from there misses no replayed
        # message.
        behind = plan.behind.get(subscriber)
        plan.kept.append(
            item if behind is None else QueuedItem(subscriber, subscriber.gap_frame(behind), None)
        )
    _drop_oldest(plan, room)
    return plan


def _drop_for_catch_up(
    plan: OverflowPlan, gaps: dict[Subscriber, QueuedItem], subscriber: Subscriber, item: QueuedItem
) -> None:
    """Drop *item*: note from where to replay, and in *gaps* whether messages are lost that no history has."""
    batch = item.batch
    if batch is None:
        gaps.setdefault(subscriber, item)
        return
    plan.count("catch_up", len(batch.messages))
    if batch.before is not None:
        plan.behind.setdefault(subscriber, batch.before)
    if batch.unnumbered or batch.before is None:
        gaps.setdefault(subscriber, QueuedItem(subscriber, subscriber.gap_frame(batch.last), None))


def _gap_and_newest(subscriber: Subscriber, batch: EncodedBatch) -> tuple[QueuedItem, QueuedItem]:
    older, newest = batch.messages[:-1], batch.messages[-1:]
    before = last_position(older, batch.before)
    single = EncodedBatch(subscriber.codec, newest, before)
    return QueuedItem(subscriber, subscriber.gap_frame(before), None), QueuedItem(
        subscriber, single.data, single
    )


def _drop_oldest(plan: OverflowPlan, room: int) -> None:
    """Drop as many of the oldest batches under `drop_oldest` as needed; each subscriber gets one `gap`."""
    excess = plan.size - room
    if excess <= 0:
        return
    kept: list[QueuedItem] = []
    gap_index: dict[Subscriber, int] = {}
    for item in plan.kept:
        subscriber, batch = item.subscriber, item.batch
        if subscriber is None or subscriber.on_slow != "drop_oldest":
            kept.append(item)
        elif batch is None:
            gap_index.setdefault(subscriber, len(kept))
            kept.append(item)
        elif excess <= 0:
            kept.append(item)
        else:
            plan.count("drop_oldest", len(batch.messages))
            gap = QueuedItem(subscriber, subscriber.gap_frame(batch.last), None)
            excess += len(gap.data) - len(item.data)
            if subscriber in gap_index:
                excess -= len(kept[gap_index[subscriber]].data)
                kept[gap_index[subscriber]] = gap
            else:
                gap_index[subscriber] = len(kept)
                kept.append(gap)
    plan.kept = kept
