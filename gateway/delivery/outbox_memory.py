"""What all outboxes of a node hold together; beyond the bound, the largest are shed first."""

from __future__ import annotations

from heapq import nlargest
from operator import itemgetter
from typing import Protocol

from gateway.memory import MemoryBudget

ITEM_BYTES = 512
"""Bytes that one queued item counts for beside its frame.

An item alone takes 90; the message, its JSON and its batch, which all its outboxes share, 1,000 more.
"""

SHED_AT_ONCE = 64
"""Outboxes that are selected at once: selecting the largest of 10,000 takes a millisecond."""


class SheddableOutbox(Protocol):
    """An outbox, as far as shedding is concerned."""

    def shed(self) -> bool:
        """Drop what the policies allow, or disconnect the client; return False if it was disconnected."""


class OutboxMemory:
    """The bytes of all outboxes that are long, or that wait for a full socket, write buffers included.

    All other outboxes are empty between two flushes, and are not counted. So sending to a client that reads
    costs nothing here. An outbox counts every message in full that it shares with others.
    """

    __slots__ = ("_counted", "_largest", "budget", "disconnected")

    def __init__(self, budget: MemoryBudget) -> None:
        """Keep the outboxes within *budget*; its `freed` counts how many were shed."""
        self.budget = budget
        self.disconnected = 0
        """Clients that were disconnected, as nothing else of theirs could be dropped."""
        self._counted: dict[SheddableOutbox, int] = {}
        self._largest: list[tuple[SheddableOutbox, int]] = []
        """Those that were selected last, with their bytes then; the largest is the last."""

    @property
    def exceeded(self) -> bool:
        """Whether the outboxes hold more than they may."""
        return self.budget.used > self.budget.limit

    def count(self, outbox: SheddableOutbox, size: int) -> None:
        """Count *size* bytes for *outbox*, instead of what was counted for it before."""
        self.budget.used += size - self._counted.get(outbox, 0)
        self._counted[outbox] = size

    def discard(self, outbox: SheddableOutbox) -> None:
        """Count nothing for *outbox* any more."""
        self.budget.used -= self._counted.pop(outbox, 0)

    def shed_excess(self) -> None:
        """Shed the largest outboxes, one after the other, until they hold no more than they may."""
        while self.exceeded and (outbox := self._next()) is not None:
            self.budget.freed += 1
            if not outbox.shed():
                self.disconnected += 1
                self.discard(outbox)

    def _next(self) -> SheddableOutbox | None:
        """Return the largest outbox, or one that is about as large; None if there is none."""
        while self._largest:
            outbox, size = self._largest.pop()
            if self._counted.get(outbox, 0) * 2 > size:
                return outbox
        selected = nlargest(SHED_AT_ONCE, self._counted.items(), key=itemgetter(1))
        # Not the much smaller ones: others may be larger by the time that it is their turn.
        self._largest = [(outbox, size) for outbox, size in reversed(selected) if size * 2 > selected[0][1]]
        return self._largest.pop()[0] if self._largest else None

    def __len__(self) -> int:
        return len(self._counted)

    def __repr__(self) -> str:
        return f"<OutboxMemory {self.budget} in {len(self)} outboxes>"
