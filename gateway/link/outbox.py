"""What waits for one connection: bounded in bytes, flushed once a turn of the loop, shed by policy when it is full."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from gateway.clock import Clock, Scheduler
from gateway.link.frames import Chunk
from protocol.codec import Codec
from protocol.position import MessageId

BATCH = 64 * 1024
"""Bytes handed to the socket at once: about what one loopback or broadband round trip takes in."""

LONG_FLUSH, LONGEST_REST = 0.001, 0.004
"""Seconds. See `Flusher`."""


class Link(Protocol):
    """The socket under an outbox."""

    writable: bool
    """False from when the socket's buffer is full until it has drained."""

    def write(self, data: bytes) -> None:
        """Send *data*, which is whole frames."""


class Follower(Protocol):
    """A subscription, as far as an outbox knows it."""

    @property
    def on_slow(self) -> str:
        """The policy of its namespace, one of `POLICIES`."""

    @property
    def codec(self) -> Codec:
        """The codec of its connection."""

    def gap(self, position: MessageId | None) -> bytes:
        """Return the frame that tells of messages missing up to *position*."""


class Owner(Protocol):
    """The session, as far as an outbox knows it."""

    def fell_behind(self, follower: Follower, position: MessageId) -> None:
        """What waited for *follower* was dropped: replay it from *position* once there is room."""

    def too_slow(self) -> None:
        """Nothing more can be dropped: disconnect."""

    def caught_breath(self) -> None:
        """Nothing waits any more, and the socket takes more."""


class Entry(NamedTuple):
    """One thing that waits."""

    follower: Follower | None
    """None for replies and other frames that are never dropped."""
    data: bytes
    chunk: Chunk | None


@dataclass(slots=True)
class Shed:
    """What is to be done about a full outbox."""

    kept: list[Entry] = field(default_factory=list)
    behind: dict[Follower, MessageId] = field(default_factory=dict)
    dropped: dict[str, int] = field(default_factory=dict)
    """Messages dropped, by policy; those of `catch_up` come again."""

    @property
    def size(self) -> int:
        """Bytes that are left."""
        return sum(len(entry.data) for entry in self.kept)


POLICIES = ("catch_up", "conflate", "drop_oldest", "disconnect")


def shed(waiting: Sequence[Entry], room: int) -> Shed:
    """Return how to bring *waiting* down to *room* bytes, the gentlest policy first.

    `catch_up` drops everything of its channels, to be replayed; `conflate` keeps the newest message of each channel;
    only then `drop_oldest` drops as many as needed. Whatever is lost for good leaves a gap where it stood. What is then still
    too much is the caller's reason to disconnect.
    """
    result = Shed()
    newest = {entry.follower: index for index, entry in enumerate(waiting) if entry.chunk is not None}
    entries = Counter(entry.follower for entry in waiting)
    missed: dict[Follower, Entry] = {}
    for index, entry in enumerate(waiting):
        follower, chunk = entry.follower, entry.chunk
        if follower is None or follower.on_slow not in ("catch_up", "conflate"):
            result.kept.append(entry)
        elif follower.on_slow == "catch_up":
            if chunk is not None:
                _count(result, "catch_up", len(chunk.messages))
                if chunk.before is not None:
                    result.behind.setdefault(follower, chunk.before)
            if chunk is None or chunk.unnumbered:
                missed.setdefault(
                    follower, entry if chunk is None else Entry(follower, follower.gap(chunk.before), None)
                )
        elif chunk is not None and newest[follower] == index:
            if entries[follower] == 1 and len(chunk.messages) == 1:
                result.kept.append(entry)
                continue
            result.kept += _newest(follower, chunk)
            _count(result, "conflate", len(chunk.messages) - 1)
        elif chunk is not None:
            _count(result, "conflate", len(chunk.messages))
    result.kept += missed.values()
    excess = result.size - room
    if excess > 0:
        result.kept = _without_oldest(result, excess)
    return result


def _newest(follower: Follower, chunk: Chunk) -> tuple[Entry, Entry]:
    before = chunk.before if len(chunk.messages) == 1 else chunk.messages[-2].message.message
    single = Chunk(follower.codec, chunk.messages[-1:], before)
    return Entry(follower, follower.gap(before), None), Entry(follower, single.data, single)


def _without_oldest(result: Shed, excess: int) -> list[Entry]:
    kept: list[Entry] = []
    gaps: dict[Follower, int] = {}
    for entry in result.kept:
        follower, chunk = entry.follower, entry.chunk
        if follower is None or follower.on_slow != "drop_oldest" or excess <= 0:
            kept.append(entry)
            continue
        excess -= len(entry.data)
        if chunk is None:
            continue
        _count(result, "drop_oldest", len(chunk.messages))
        mark = Entry(follower, follower.gap(chunk.last), None)
        if follower in gaps:
            kept[gaps[follower]] = mark
        else:
            gaps[follower] = len(kept)
            kept.append(mark)
    return kept


def _count(result: Shed, policy: str, messages: int) -> None:
    result.dropped[policy] = result.dropped.get(policy, 0) + messages


class Outbox:
    """The send queue of one connection, in order; what the socket has already taken is not in it."""

    __slots__ = ("_flusher", "_limit", "_link", "_marked", "_owner", "_size", "_waiting")

    def __init__(self, link: Link, flusher: Flusher, owner: Owner, limit: int) -> None:
        """Bound what waits to *limit* bytes."""
        self._link = link
        self._flusher = flusher
        self._owner = owner
        self._limit = limit
        self._waiting: list[Entry] = []
        self._size = 0
        self._marked = False

    @property
    def size(self) -> int:
        """Bytes that wait."""
        return self._size

    def push(self, data: bytes) -> None:
        """Send the frame *data*: a reply, or a push that belongs to no channel; it is never dropped."""
        self._add(Entry(None, data, None))

    def offer(self, follower: Follower, chunk: Chunk) -> None:
        """Send *chunk*, unless the connection is too slow: then what becomes of it is the policy of its channel."""
        self._add(Entry(follower, chunk.data, chunk))

    def offer_now(self, follower: Follower, chunk: Chunk) -> None:
        """Send *chunk* like `offer`, but without a way through the queue where nothing waits in it.

        For the flusher, when nothing else can come for this connection in this turn: 1.5 µs a delivery less.
        """
        if self._waiting or not self._link.writable:
            self._add(Entry(follower, chunk.data, chunk))
        else:
            self._link.write(chunk.data)

    def flush(self) -> None:
        """Hand to the socket what waits, as far as it takes it."""
        self._marked = False
        waiting = self._waiting
        if not waiting or not self._link.writable:
            return
        if len(waiting) == 1:
            data = waiting[0].data
            waiting.clear()
            self._size = 0
            self._link.write(data)
        elif self._size <= BATCH:
            data = b"".join([entry.data for entry in waiting])
            waiting.clear()
            self._size = 0
            self._link.write(data)
        else:
            self._flush_in_batches()

    def drained(self) -> None:
        """Go on: the socket takes more."""
        self.flush()
        if not self._waiting and self._link.writable:
            self._owner.caught_breath()

    def discard(self) -> None:
        """Forget what waits: the connection is gone."""
        self._waiting.clear()
        self._size = 0

    def _add(self, entry: Entry) -> None:
        self._waiting.append(entry)
        self._size += len(entry.data)
        if self._size > self._limit:
            self._make_room()
        if not self._marked:
            self._marked = True
            self._flusher.mark(self)

    def _flush_in_batches(self) -> None:
        """Write at most a batch at a time and stop when the socket is full, so that the bound covers what is not yet sent."""
        done = 0
        while done < len(self._waiting) and self._link.writable:
            batch: list[bytes] = []
            size = 0
            while done < len(self._waiting) and (not batch or size < BATCH):
                batch.append(self._waiting[done].data)
                size += len(batch[-1])
                done += 1
            self._size -= size
            self._link.write(b"".join(batch))
        del self._waiting[:done]

    def _make_room(self) -> None:
        if self._link.writable:
            # Not slow, only much in one turn of the loop.
            self._flush_in_batches()
            if self._size <= self._limit:
                return
        result = shed(self._waiting, self._limit // 2)
        self._waiting[:] = result.kept
        self._size = result.size
        self._flusher.count(result.dropped)
        for follower, position in result.behind.items():
            self._owner.fell_behind(follower, position)
        if self._size > self._limit:
            self._owner.too_slow()

    def __repr__(self) -> str:
        return f"<Outbox {len(self._waiting)} waiting {self._size} bytes>"


class Flusher:
    """Flushes every outbox that has something, once a turn of the loop.

    After a flush that took long, the next waits as long again (at most 4 ms): what is published meanwhile travels in the
    same writes, and the loop has half of its time for reading. Under a flood of 1,000 subscribers this is the
    difference between 8 and about 100 frames a write (docs/performance.md); at a moderate rate it never waits.
    """

    def __init__(
        self, scheduler: Scheduler, settle: Callable[[], None], clock: Clock = time.perf_counter
    ) -> None:
        """Call *settle* before each flush: it offers what channels hold back to join it."""
        self._scheduler = scheduler
        self._settle = settle
        self._clock = clock
        self._marked: list[Outbox] = []
        self._requested = False
        self._rest_until = 0.0
        self._flushes = 0
        self._dropped = dict.fromkeys(POLICIES, 0)

    def mark(self, outbox: Outbox) -> None:
        """Flush *outbox* when the turn ends."""
        self._marked.append(outbox)
        if not self._requested:
            self.request()

    def request(self) -> None:
        """Flush when the turn ends, or when the rest after a long flush is over."""
        if self._requested:
            return
        self._requested = True
        rest = self._rest_until - self._clock() if self._rest_until else 0.0
        if rest > 0:
            self._scheduler.call_later(rest, self.run)
        else:
            self._scheduler.call_soon(self.run)

    def run(self) -> None:
        """Flush now."""
        started = self._clock()
        self._settle()
        marked, self._marked = self._marked, []
        self._requested = False
        for outbox in marked:
            outbox.flush()
        self._flushes += 1
        ended = self._clock()
        took = ended - started
        self._rest_until = ended + min(took, LONGEST_REST) if took > LONG_FLUSH else 0.0

    def count(self, dropped: dict[str, int]) -> None:
        """Add to the numbers of messages dropped by each policy."""
        for policy, messages in dropped.items():
            self._dropped[policy] += messages

    def statistics(self) -> dict[str, int]:
        """Return the number of flushes, and of messages dropped by each policy."""
        return {"flushes": self._flushes, **{f"dropped_{policy}": n for policy, n in self._dropped.items()}}
