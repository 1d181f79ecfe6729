"""What incomplete messages of all clients take together; beyond the bound, the oldest are not waited for."""

from __future__ import annotations

from typing import Protocol

from gateway.memory import MemoryBudget

UNCOUNTED_BYTES = 4 * 1024
"""Bytes of an incomplete message that are not counted: no more than a connection takes anyway."""


class ReceivingConnection(Protocol):
    """A connection, as far as the memory of incomplete messages is concerned."""

    def refuse_incomplete_message(self) -> None:
        """Close the connection: its client has not completed a message, and the memory is needed."""


class IncomingMemory:
    """The connections with a large incomplete message, in the order in which these began."""

    __slots__ = ("_counted", "budget")

    def __init__(self, budget: MemoryBudget) -> None:
        """Keep the messages within *budget*; its `freed` counts the connections that were closed."""
        self.budget = budget
        self._counted: dict[ReceivingConnection, int] = {}

    def count(self, connection: ReceivingConnection, size: int) -> None:
        """Count *size* bytes for *connection*; close those whose message began first if that is too much."""
        if size <= UNCOUNTED_BYTES:
            self.budget.used -= self._counted.pop(connection, 0)
            return
        self.budget.used += size - self._counted.get(connection, 0)
        self._counted[connection] = size
        while self.budget.used > self.budget.limit and len(self._counted) > 1:
            oldest = next(iter(self._counted))
            self.budget.freed += 1
            self.budget.used -= self._counted.pop(oldest)
            oldest.refuse_incomplete_message()

    def __len__(self) -> int:
        return len(self._counted)

    def __repr__(self) -> str:
        return f"<IncomingMemory {self.budget} of {len(self)} connections>"
