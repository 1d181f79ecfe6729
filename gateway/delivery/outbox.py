"""The send queue of one connection: bounded in bytes, flushed once per turn of the event loop."""

from __future__ import annotations

from typing import Protocol

from gateway.delivery.encoding import EncodedBatch
from gateway.delivery.flusher import Flusher
from gateway.delivery.outbox_memory import ITEM_BYTES
from gateway.delivery.overflow import OverflowPlan, QueuedItem, Subscriber, plan_overflow
from protocol.position import MessageId

WRITE_BATCH_BYTES = 64 * 1024
"""Bytes passed to the socket in one write: about what a peer acknowledges in one round trip."""


class Writer(Protocol):
    """The connection under an outbox."""

    writable: bool
    """False from when the socket's buffer is full until it has drained."""

    def write(self, data: bytes) -> None:
        """Write *data*, which is whole frames."""

    def buffered(self) -> int:
        """Return the bytes that were written and that the kernel has not accepted yet."""


class Owner(Protocol):
    """The session, as far as its outbox knows it."""

    def on_fell_behind(self, subscriber: Subscriber, position: MessageId) -> None:
        """Messages after *position* were dropped: *subscriber* must be caught up once there is room."""

    def on_too_slow(self) -> None:
        """The outbox is over its bound and nothing more can be dropped: disconnect."""

    def on_memory_exceeded(self) -> None:
        """The node needs the memory of the socket's write buffer: disconnect, and free it at once."""

    def on_outbox_drained(self) -> None:
        """The outbox is empty, and the socket accepts more."""


class _ClosedWriter:
    """The connection of a discarded outbox, which writes nothing."""

    writable = False

    def write(self, data: bytes) -> None:
        """Do nothing."""

    def buffered(self) -> int:
        """Return 0."""
        return 0


_CLOSED_WRITER = _ClosedWriter()


class _ClosedOwner:
    """The owner of a discarded outbox, which reacts to nothing."""

    def on_fell_behind(self, subscriber: Subscriber, position: MessageId) -> None:
        """Do nothing."""

    def on_too_slow(self) -> None:
        """Do nothing."""

    def on_memory_exceeded(self) -> None:
        """Do nothing."""

    def on_outbox_drained(self) -> None:
        """Do nothing."""


_CLOSED_OWNER = _ClosedOwner()


class Outbox:
    """The send queue of one connection, in order, without the bytes that the socket has accepted.

    It is counted in the node's `OutboxMemory` while it is long, and while it waits for a full socket.
    """

    __slots__ = (
        "_buffered",
        "_counted",
        "_flusher",
        "_limit",
        "_marked",
        "_owner",
        "_queue",
        "_size",
        "_threshold",
        "_writer",
    )

    def __init__(self, writer: Writer, flusher: Flusher, owner: Owner, limit: int) -> None:
        """Bound the queue to *limit* bytes."""
        self._writer = writer
        self._flusher = flusher
        self._owner: Owner = owner
        self._limit = limit
        self._threshold = min(limit, WRITE_BATCH_BYTES)
        """The size beyond which it is counted again, and compared with its bound."""
        self._queue: list[QueuedItem] = []
        self._size = 0
        self._buffered = 0
        """Bytes in the socket's write buffer when that was full."""
        self._counted = False
        """Whether it is counted in the node's `OutboxMemory`."""
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

    def write_ahead(self, data: bytes) -> None:
        """Write the frame *data* at once, ahead of the queue, even if the socket is full.

        For the few bytes of a ping, which must not wait for its turn behind a full outbox.
        """
        self._writer.write(data)

    def flush(self) -> None:
        """Write what is in the queue, as far as the socket accepts it."""
        self._marked = False
        queue = self._queue
        if not self._writer.writable:
            if self._writer is not _CLOSED_WRITER:
                self._flusher.full_outboxes.add(self)
                self._count()
            return
        if self._counted:
            self._discount()
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
            if queue or self._counted:
                self._count()

    def on_full(self) -> None:
        """Count the socket's write buffer: it is full."""
        self._buffered = self._writer.buffered()
        self._count()
        if self._flusher.outbox_memory.exceeded:
            self._flusher.request()

    def on_drained(self) -> None:
        """Flush: the socket accepts more."""
        self._flusher.full_outboxes.discard(self)
        self._discount()
        self.flush()
        if not self._queue and self._writer.writable:
            self._owner.on_outbox_drained()

    def shed(self) -> bool:
        """Drop what the policies of its channels allow, to free memory; return False if that is too little.

        Then the client is disconnected: because of the socket's write buffer if that is the larger part.
        """
        if self._counted and self._writer.writable:
            self.flush()
            if not self._queue:
                return True
        before, buffered = self._size, self._buffered
        self._apply(plan_overflow(self._queue, 0))
        if (before - self._size) * 2 >= before + buffered:
            self._count()
            return True
        if buffered > self._size:
            self._owner.on_memory_exceeded()
        else:
            self._owner.on_too_slow()
        return False

    def discard(self) -> None:
        """Drop the queue and enqueue nothing more: the connection is gone.

        Nothing may be written after what was dropped: the client would resume from behind it.
        """
        self._flusher.full_outboxes.discard(self)
        self._writer = _CLOSED_WRITER
        # Session and outbox refer to each other: without this, only a garbage collection would free them.
        self._owner = _CLOSED_OWNER
        self._queue.clear()
        self._size = 0
        self._discount()
        self._limit = self._threshold = -1

    def _append(self, item: QueuedItem) -> None:
        self._queue.append(item)
        self._size += len(item.data)
        if self._size > self._threshold:
            self._on_grown()
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

    def _on_grown(self) -> None:
        """Count it again, and keep it within its bound, and all outboxes within theirs."""
        if self._limit < 0:
            self.discard()
            return
        if self._size > self._limit:
            self._make_room()
        self._count()
        if self._flusher.outbox_memory.exceeded:
            self._flusher.outbox_memory.shed_excess()

    def _make_room(self) -> None:
        if self._writer.writable:
            # Not slow: much was enqueued in one turn of the loop.
            self._write_in_batches()
            if self._size <= self._limit:
                return
        self._apply(plan_overflow(self._queue, self._limit // 2))
        if self._size > self._limit:
            self._owner.on_too_slow()

    def _apply(self, plan: OverflowPlan) -> None:
        self._queue[:] = plan.kept
        self._size = plan.size
        self._flusher.count_dropped(plan.dropped)
        for subscriber, position in plan.behind.items():
            self._owner.on_fell_behind(subscriber, position)

    def _count(self) -> None:
        """Count what it holds now, unless the connection is gone."""
        if self._limit < 0:
            return
        self._counted = True
        self._threshold = min(self._limit, self._size + WRITE_BATCH_BYTES)
        self._flusher.outbox_memory.count(self, self._size + ITEM_BYTES * len(self._queue) + self._buffered)

    def _discount(self) -> None:
        """Count it no more: the socket accepts what it holds."""
        self._counted, self._buffered = False, 0
        self._threshold = min(self._limit, WRITE_BATCH_BYTES)
        self._flusher.outbox_memory.discard(self)

    def __repr__(self) -> str:
        return f"<Outbox {len(self._queue)} waiting {self._size} bytes>"
