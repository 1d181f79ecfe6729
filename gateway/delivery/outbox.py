"""What waits for one connection: bounded in bytes, flushed once a turn of the loop, shed when it is full."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Protocol

from gateway.clock import Clock, Scheduler
from gateway.delivery.encoding import EncodedBatch
from gateway.delivery.overflow import DROPPING, QueuedItem, Subscriber, plan_overflow
from protocol.position import MessageId

BATCH = 64 * 1024
"""Bytes handed to the socket at once: about what one loopback or broadband round trip takes in."""

LONG_FLUSH, REST = 0.001, 0.001
"""Seconds. See `Flusher`."""


class Writer(Protocol):
    """The socket under an outbox."""

    writable: bool
    """False from when the socket's buffer is full until it has drained."""

    def write(self, data: bytes) -> None:
        """Send *data*, which is whole frames."""


class Owner(Protocol):
    """The session, as far as an outbox knows it."""

    def fell_behind(self, follower: Subscriber, position: MessageId) -> None:
        """What waited for *follower* was dropped: replay it from *position* once there is room."""

    def too_slow(self) -> None:
        """Nothing more can be dropped: disconnect."""

    def caught_breath(self) -> None:
        """Nothing waits any more, and the socket takes more."""


class _Nowhere:
    """The link of an outbox that is closed: it never takes anything."""

    writable = False

    def write(self, data: bytes) -> None:
        """Take nothing."""


_NOWHERE = _Nowhere()


class _Nobody:
    """The owner of an outbox that takes nothing more."""

    def fell_behind(self, follower: Subscriber, position: MessageId) -> None:
        """Hear nothing."""

    def too_slow(self) -> None:
        """Hear nothing."""

    def caught_breath(self) -> None:
        """Hear nothing."""


_NOBODY = _Nobody()


class Outbox:
    """The send queue of one connection, in order; what the socket has already taken is not in it."""

    __slots__ = ("_flusher", "_limit", "_link", "_marked", "_owner", "_size", "_waiting")

    def __init__(self, link: Writer, flusher: Flusher, owner: Owner, limit: int) -> None:
        """Bound what waits to *limit* bytes."""
        self._link = link
        self._flusher = flusher
        self._owner: Owner = owner
        self._limit = limit
        self._waiting: list[QueuedItem] = []
        self._size = 0
        self._marked = False

    @property
    def size(self) -> int:
        """Bytes that wait."""
        return self._size

    def push(self, data: bytes) -> None:
        """Send the frame *data*: a reply, or a push that belongs to no channel; it is never dropped."""
        self._add(QueuedItem(None, data, None))

    def offer(self, follower: Subscriber, chunk: EncodedBatch) -> None:
        """Send *chunk*; what becomes of it where the connection is too slow is its channel's policy."""
        self._add(QueuedItem(follower, chunk.data, chunk))

    def offer_now(self, follower: Subscriber, chunk: EncodedBatch) -> None:
        """Send *chunk* like `offer`, but without a way through the queue where nothing waits in it.

        For the flusher, when nothing else can come for this connection in this turn: 1.5 µs a delivery less.
        """
        if self._waiting or not self._link.writable:
            self._add(QueuedItem(follower, chunk.data, chunk))
        else:
            self._link.write(chunk.data)

    def flush(self) -> None:
        """Hand to the socket what waits, as far as it takes it."""
        self._marked = False
        waiting = self._waiting
        if not self._link.writable:
            if self._link is not _NOWHERE:
                self._flusher.full.add(self)
            return
        if not waiting:
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
        self._flusher.full.discard(self)
        self.flush()
        if not self._waiting and self._link.writable:
            self._owner.caught_breath()

    def discard(self) -> None:
        """Forget what waits and take nothing more: the connection is gone.

        Nothing may follow what was dropped: the client would resume behind it.
        """
        self._flusher.full.discard(self)
        self._link = _NOWHERE
        # Session and outbox refer to each other: without this, only a collection would ever free them.
        self._owner = _NOBODY
        self._limit = -1
        self._waiting.clear()
        self._size = 0

    def _add(self, entry: QueuedItem) -> None:
        self._waiting.append(entry)
        self._size += len(entry.data)
        if self._size > self._limit:
            self._make_room()
        if not self._marked:
            self._marked = True
            self._flusher.mark(self)

    def _flush_in_batches(self) -> None:
        """Write a batch at a time, and stop when the socket is full: what is left counts for the bound."""
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
        if self._limit < 0:
            self.discard()
            return
        if self._link.writable:
            # Not slow, only much in one turn of the loop.
            self._flush_in_batches()
            if self._size <= self._limit:
                return
        result = plan_overflow(self._waiting, self._limit // 2)
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

    After a flush that took long, the next waits a moment: what is published meanwhile travels in the same
    writes. Under a flood of 1,000 subscribers this doubles what goes through (docs/performance.md); at a
    moderate rate it never waits. A rest of many times what a publisher waits for its answer lets more through
    than clients can read in time, one of less lets every message travel alone.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        settle: Callable[[], None],
        clock: Clock = time.perf_counter,
        *,
        rest: float = REST,
    ) -> None:
        """Call *settle* before each flush: it offers what channels hold back to join it.

        *rest* is how long, in seconds, the next flush waits after a long one.
        """
        self._scheduler = scheduler
        self._settle = settle
        self._clock = clock
        self._rest = rest
        self.full: set[Outbox] = set()
        """Those whose sockets take nothing now."""
        self._marked: list[Outbox] = []
        self._requested = False
        self._rest_until = 0.0
        self._flushes = 0
        self._dropped = dict.fromkeys(DROPPING, 0)

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
        try:
            self._settle()
        finally:
            self._flush_marked()
        self._flushes += 1
        ended = self._clock()
        took = ended - started
        self._rest_until = ended + self._rest if took > LONG_FLUSH else 0.0

    def _flush_marked(self) -> None:
        """Flush what is marked; where one fails, the others still get their turn."""
        marked, self._marked = iter(self._marked), []
        self._requested = False
        try:
            for outbox in marked:
                outbox.flush()
        finally:
            if left := list(marked):
                self._marked += left
                self.request()

    def count(self, dropped: dict[str, int]) -> None:
        """Add to the numbers of messages dropped by each policy."""
        for policy, messages in dropped.items():
            self._dropped[policy] += messages

    def statistics(self) -> dict[str, int]:
        """Return the number of flushes, and of messages dropped by each policy."""
        return {"flushes": self._flushes, **{f"dropped_{policy}": n for policy, n in self._dropped.items()}}
