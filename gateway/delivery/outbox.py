"""The send queue of one connection: bounded in bytes, flushed once per turn of the event loop."""

from __future__ import annotations

from typing import Protocol

from gateway.delivery.encoding import EncodedBatch
from gateway.delivery.flusher import Flusher
from gateway.delivery.overflow import QueuedItem, Subscriber, plan_overflow
from protocol.position import MessageId

WRITE_BATCH_BYTES = 64 * 1024
"""Bytes passed to the socket in one write: about what a peer acknowledges in one round trip."""


class Writer(Protocol):
    """The connection under an outbox."""

    writable: bool
    """False from when the socket's buffer is full until it has drained."""

    def write(self, data: bytes) -> None:
        """Write *data*, which is whole frames."""


class Owner(Protocol):
    """The session, as far as its outbox knows it."""

    def on_fell_behind(self, subscriber: Subscriber, position: MessageId) -> None:
        """Messages after *position* were dropped: *subscriber* must be caught up once there is room."""

    def on_too_slow(self) -> None:
        """The outbox is over its bound and nothing more can be dropped: disconnect."""

    def on_outbox_drained(self) -> None:
        """The outbox is empty, and the socket accepts more."""


class _ClosedWriter:
    """The connection of a discarded outbox, which writes nothing."""

    writable = False

    def write(self, data: bytes) -> None:
        """Do nothing."""


_CLOSED_WRITER = _ClosedWriter()


class _ClosedOwner:
    """The owner of a discarded outbox, which reacts to nothing."""

    def on_fell_behind(self, subscriber: Subscriber, position: MessageId) -> None:
        """Do nothing."""

    def on_too_slow(self) -> None:
        """Do nothing."""

    def on_outbox_drained(self) -> None:
        """Do nothing."""


_CLOSED_OWNER = _ClosedOwner()


class Outbox:
    """The send queue of one connection, in order, without the bytes that the socket has accepted."""

    __slots__ = ("_flusher", "_limit", "_marked", "_owner", "_queue", "_size", "_writer")

    def __init__(self, writer: Writer, flusher: Flusher, owner: Owner, limit: int) -> None:
        """Bound the queue to *limit* bytes."""
        self._writer = writer
        self._flusher = flusher
        self._owner: Owner = owner
        self._limit = limit
        self._queue: list[QueuedItem] = []
        self._size = 0
        self._marked = False
        """Whether the flusher will flush it at the end of this turn."""

    @property
    def size(self) -> int:
        """Bytes in the queue."""
        return self._size

    def enqueue(self, data: bytes) -> None:
        """Enqueue the frame *data*, a reply or a push that belongs to no channel, which is never dropped."""
        self._append(QueuedItem(None, data, None))

    def offer(self, subscriber: Subscriber, batch: EncodedBatch) -> None:
        """Enqueue *batch*; if the queue is too long, its channel's policy says what to drop."""
        self._append(QueuedItem(subscriber, batch.data, batch))

    def offer_now(self, subscriber: Subscriber, batch: EncodedBatch) -> None:
        """Write *batch* at once if the queue is empty, otherwise enqueue it.

        For the flusher, when nothing else can come for this connection in this turn: 1.5 µs a delivery less.
        """
        if self._queue or not self._writer.writable:
            self._append(QueuedItem(subscriber, batch.data, batch))
        else:
            self._writer.write(batch.data)

    def flush(self) -> None:
        """Write what is in the queue, as far as the socket accepts it."""
        self._marked = False
        queue = self._queue
        if not self._writer.writable:
            if self._writer is not _CLOSED_WRITER:
                self._flusher.full_outboxes.add(self)
            return
        if not queue:
            return
        if len(queue) == 1:
            data = queue[0].data
            queue.clear()
            self._size = 0
            self._writer.write(data)
        elif self._size <= WRITE_BATCH_BYTES:
            data = b"".join([item.data for item in queue])
            queue.clear()
            self._size = 0
            self._writer.write(data)
        else:
            self._write_in_batches()
            if queue and self._writer is not _CLOSED_WRITER:
                self._flusher.full_outboxes.add(self)

    def on_drained(self) -> None:
        """Flush: the socket accepts more."""
        self._flusher.full_outboxes.discard(self)
        self.flush()
        if not self._queue and self._writer.writable:
            self._owner.on_outbox_drained()

    def discard(self) -> None:
        """Drop the queue and enqueue nothing more: the connection is gone.

        Nothing may be written after what was dropped: the client would resume from behind it.
        """
        self._flusher.full_outboxes.discard(self)
        self._writer = _CLOSED_WRITER
        # Session and outbox refer to each other: without this, only a garbage collection would free them.
        self._owner = _CLOSED_OWNER
        self._limit = -1
        self._queue.clear()
        self._size = 0

    def _append(self, item: QueuedItem) -> None:
        self._queue.append(item)
        self._size += len(item.data)
        if self._size > self._limit:
            self._make_room()
        if not self._marked:
            self._marked = True
            self._flusher.mark(self)

    def _write_in_batches(self) -> None:
        """Write a batch at a time until the socket is full: what is left counts for the bound."""
        done = 0
        while done < len(self._queue) and self._writer.writable:
            batch: list[bytes] = []
            size = 0
            while done < len(self._queue) and (not batch or size < WRITE_BATCH_BYTES):
                batch.append(self._queue[done].data)
                size += len(batch[-1])
                done += 1
            self._size -= size
            self._writer.write(b"".join(batch))
        del self._queue[:done]

    def _make_room(self) -> None:
        if self._limit < 0:
            self.discard()
            return
        if self._writer.writable:
            # Not slow: much was enqueued in one turn of the loop.
            self._write_in_batches()
            if self._size <= self._limit:
                return
        plan = plan_overflow(self._queue, self._limit // 2)
        self._queue[:] = plan.kept
        self._size = plan.size
        self._flusher.count_dropped(plan.dropped)
        for subscriber, position in plan.behind.items():
            self._owner.on_fell_behind(subscriber, position)
        if self._size > self._limit:
            self._owner.on_too_slow()

    def __repr__(self) -> str:
        return f"<Outbox {len(self._queue)} waiting {self._size} bytes>"
