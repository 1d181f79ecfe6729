"""What to do about a full outbox, by the policy of each channel: pure, no socket, no session."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from gateway.delivery.encoding import EncodedBatch, last_of
from protocol.codec import Codec
from protocol.position import MessageId

DROPPING = ("catch_up", "conflate", "drop_oldest")
"""The policies that drop messages."""

POLICIES = (*DROPPING, "disconnect")


class Subscriber(Protocol):
    """A subscription, as far as an outbox knows it."""

    @property
    def on_slow(self) -> str:
        """The policy of its namespace, one of `POLICIES`."""

    @property
    def codec(self) -> Codec:
        """The codec of its connection."""

    def gap(self, position: MessageId | None) -> bytes:
        """Return the frame that tells of messages missing up to *position*."""


class QueuedItem(NamedTuple):
    """One thing that waits."""

    follower: Subscriber | None
    """None for replies and other frames that are never dropped."""
    data: bytes
    chunk: EncodedBatch | None
    """None for the mark of a gap, and for what belongs to no channel."""


@dataclass(slots=True)
class OverflowPlan:
    """What is to be done about a full outbox."""

    kept: list[QueuedItem] = field(default_factory=list)
    behind: dict[Subscriber, MessageId] = field(default_factory=dict)
    dropped: dict[str, int] = field(default_factory=dict)
    """Messages dropped, by policy; those of `catch_up` come again."""

    @property
    def size(self) -> int:
        """Bytes that are left."""
        return sum(len(entry.data) for entry in self.kept)

    def count(self, policy: str, messages: int) -> None:
        """Note that as many *messages* were dropped under *policy*."""
        self.dropped[policy] = self.dropped.get(policy, 0) + messages


def plan_overflow(waiting: Sequence[QueuedItem], room: int) -> OverflowPlan:
    """Return how to bring *waiting* down to *room* bytes, the gentlest policy first.

    `catch_up` drops everything of its channels, to be replayed; `conflate` keeps the newest message of each
    channel; only then `drop_oldest` drops as many as needed. Whatever is lost for good leaves a gap where it
    stood. What is then still too much is the caller's reason to disconnect.
    """
    result = OverflowPlan()
    newest = {entry.follower: index for index, entry in enumerate(waiting) if entry.chunk is not None}
    entries = Counter(entry.follower for entry in waiting)
    untold: dict[Subscriber, QueuedItem] = {}
    for index, entry in enumerate(waiting):
        follower, chunk = entry.follower, entry.chunk
        if follower is None or follower.on_slow not in ("catch_up", "conflate"):
            result.kept.append(entry)
        elif follower.on_slow == "catch_up":
            _send_back(result, untold, follower, entry)
        elif chunk is None:
            if follower not in newest:
                result.kept.append(entry)
        elif newest[follower] != index:
            result.count("conflate", len(chunk.messages))
        elif entries[follower] == len(chunk.messages) == 1:
            result.kept.append(entry)
        else:
            result.count("conflate", len(chunk.messages) - 1)
            result.kept += _newest(follower, chunk)
    for follower, entry in untold.items():
        # Where the replay begins: whoever resumes from this position misses nothing that comes again.
        behind = result.behind.get(follower)
        result.kept.append(entry if behind is None else QueuedItem(follower, follower.gap(behind), None))
    _drop_oldest(result, room)
    return result


def _send_back(
    result: OverflowPlan, untold: dict[Subscriber, QueuedItem], follower: Subscriber, entry: QueuedItem
) -> None:
    """Note from where *follower* is to be replayed, and whether it misses what no replay will bring."""
    chunk = entry.chunk
    if chunk is None:
        untold.setdefault(follower, entry)
        return
    result.count("catch_up", len(chunk.messages))
    if chunk.before is not None:
        result.behind.setdefault(follower, chunk.before)
    if chunk.unnumbered or chunk.before is None:
        untold.setdefault(follower, QueuedItem(follower, follower.gap(chunk.last), None))


def _newest(follower: Subscriber, chunk: EncodedBatch) -> tuple[QueuedItem, QueuedItem]:
    older, newest = chunk.messages[:-1], chunk.messages[-1:]
    before = last_of(older, chunk.before)
    single = EncodedBatch(follower.codec, newest, before)
    return QueuedItem(follower, follower.gap(before), None), QueuedItem(follower, single.data, single)


def _drop_oldest(result: OverflowPlan, room: int) -> None:
    """Drop the oldest chunks of `drop_oldest`, as many as needed; one mark per follower tells of them."""
    excess = result.size - room
    if excess <= 0:
        return
    kept: list[QueuedItem] = []
    marks: dict[Subscriber, int] = {}
    for entry in result.kept:
        follower, chunk = entry.follower, entry.chunk
        if follower is None or follower.on_slow != "drop_oldest":
            kept.append(entry)
        elif chunk is None:
            marks.setdefault(follower, len(kept))
            kept.append(entry)
        elif excess <= 0:
            kept.append(entry)
        else:
            result.count("drop_oldest", len(chunk.messages))
            mark = QueuedItem(follower, follower.gap(chunk.last), None)
            excess += len(mark.data) - len(entry.data)
            if follower in marks:
                excess -= len(kept[marks[follower]].data)
                kept[marks[follower]] = mark
            else:
                marks[follower] = len(kept)
                kept.append(mark)
    result.kept = kept
