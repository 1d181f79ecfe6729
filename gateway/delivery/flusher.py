"""Flushes every outbox that has something to write, once per turn of the event loop."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Protocol

from gateway.clock import Clock, Scheduler
from gateway.delivery.full_outboxes import FullOutboxes
from gateway.delivery.outbox_memory import OutboxMemory
from gateway.delivery.overflow import DROPPING_POLICIES
from gateway.memory import MemoryBudget

LONG_FLUSH_SECONDS = 0.001
"""A flush that takes longer is followed by a delay. See `Flusher`."""


class Flushable(Protocol):
    """An outbox, as far as the flusher knows it."""

    @property
    def size(self) -> int:
        """Bytes in the queue."""

    def flush(self) -> None:
        """Write what waits, as far as the socket accepts it."""


class Flusher:
    """Flushes every outbox that has something to write, once per turn of the event loop.

    After a long flush, the next one is delayed, so that messages published meanwhile are in the same writes.
    Under a flood to 1,000 subscribers this doubles the throughput (docs/performance.md); at a moderate rate
    there is never a delay. If the delay is many times the publish latency, more is written than clients can
    read in time. If it is shorter than the latency, every message gets its own write.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        before_flush: Callable[[], None],
        clock: Clock = time.perf_counter,
        *,
        delay: float,
        memory: MemoryBudget,
    ) -> None:
        """Call *before_flush* before each flush, which offers the messages that channels have collected.

        *delay* is how many seconds the next flush waits after a long one (`Broker.flush_delay`). *memory* is
        what all outboxes may hold together.
        """
        self._scheduler = scheduler
        self._before_flush = before_flush
        self._clock = clock
        self._delay = delay
        self.full_outboxes = FullOutboxes(clock)
        self.outbox_memory = OutboxMemory(memory)
        self._marked: list[Flushable] = []
        self._requested = False
        self._delayed_until = 0.0
        """Time of the clock; 0.0 if the last flush was not a long one."""
        self._flushes = 0
        self._dropped = dict.fromkeys(DROPPING_POLICIES, 0)

    def mark(self, outbox: Flushable) -> None:
        """Flush *outbox* when the turn ends."""
        self._marked.append(outbox)
        if not self._requested:
            self.request()

    def request(self) -> None:
        """Flush when the turn ends, or when the delay after a long flush is over."""
        if self._requested:
            return
        self._requested = True
        delay = self._delayed_until - self._clock() if self._delayed_until else 0.0
        if delay > 0:
            self._scheduler.call_later(delay, self.run)
        else:
            self._scheduler.call_soon(self.run)

    def run(self) -> None:
        """Flush now."""
        started = self._clock()
        try:
            self._before_flush()
        finally:
            self._flush_marked()
        if self.outbox_memory.exceeded:
            self.outbox_memory.shed_excess()
        self._flushes += 1
        ended = self._clock()
        took = ended - started
        self._delayed_until = ended + self._delay if took > LONG_FLUSH_SECONDS else 0.0

    def _flush_marked(self) -> None:
        """Flush what is marked; if one outbox raises, the others are flushed in the next turn."""
        marked, self._marked = iter(self._marked), []
        self._requested = False
        try:
            for outbox in marked:
                outbox.flush()
        finally:
            if left := list(marked):
                self._marked += left
                self.request()

    def count_dropped(self, dropped: dict[str, int]) -> None:
        """Add to the numbers of messages dropped by each policy."""
        for policy, messages in dropped.items():
            self._dropped[policy] += messages

    def statistics(self) -> dict[str, int]:
        """Return counters, the bytes in all outboxes, and how many of these wait for a full socket.

        Outboxes that are neither full nor marked are empty, and are not looked at.
        """
        full = self.full_outboxes
        return {
            "flushes": self._flushes,
            **{f"dropped_{policy}": n for policy, n in self._dropped.items()},
            "bytes": sum(outbox.size for outbox in {*full, *self._marked}),
            "full": len(full),
            "stalled": len(full) - len(full.recent()),
            "shed_disconnected": self.outbox_memory.disconnected,
        }
