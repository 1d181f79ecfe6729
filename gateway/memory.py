"""The memory that clients and backends can make a node hold: a bound for each kind, from one setting.

Every buffer, queue and cache is bounded for itself: an outbox, the newest messages of a channel, a request.
There can be very many of each. So each kind has a budget, too, that all of its kind share; where it is used
up, the owner of the memory frees some by a policy of its own (docs/memory.md). All budgets together are
`limits.memory`.
"""

from __future__ import annotations

from typing import NamedTuple

from gateway.defaults import NODE_MEMORY_BYTES

MIB = 1024 * 1024


class MemoryShare(NamedTuple):
    """How much of `limits.memory` one kind of memory gets."""

    fraction: float
    most: int
    """Bytes that are enough, however large `limits.memory` is."""


SHARES = {
    "newest_messages": MemoryShare(1 / 8, 64 * MIB),
    "history_pages": MemoryShare(1 / 32, 16 * MIB),
    "incoming": MemoryShare(1 / 16, 128 * MIB),
    "backlogs": MemoryShare(1 / 16, 128 * MIB),
    "recoveries": MemoryShare(1 / 16, 128 * MIB),
    "bodies": MemoryShare(1 / 16, 128 * MIB),
}
"""By the name of the budget. The outboxes get the rest."""


class MemoryBudget:
    """The bytes that all of one kind of buffers use together, and how many they may."""

    __slots__ = ("freed", "limit", "used")

    def __init__(self, limit: int) -> None:
        """Allow *limit* bytes."""
        self.limit = limit
        self.used = 0
        self.freed = 0
        """How often something was dropped, rejected or closed to stay in the budget."""

    def take(self, size: int) -> bool:
        """Return whether *size* more bytes are in the budget, and use them if so; else count it.

        The first of its kind is always in the budget, however large.
        """
        if self.used and self.used + size > self.limit:
            self.freed += 1
            return False
        self.used += size
        return True

    def give_back(self, size: int) -> None:
        """Use *size* bytes less."""
        self.used -= size

    def __repr__(self) -> str:
        return f"<MemoryBudget {self.used} of {self.limit} bytes>"


class NodeMemory:
    """The budgets of one node."""

    __slots__ = (
        "backlogs",
        "bodies",
        "history_pages",
        "incoming",
        "newest_messages",
        "outboxes",
        "recoveries",
    )

    def __init__(self, total: int = NODE_MEMORY_BYTES) -> None:
        """Share *total* bytes."""
        sizes = {name: min(int(total * share.fraction), share.most) for name, share in SHARES.items()}
        self.newest_messages = MemoryBudget(sizes["newest_messages"])
        """The newest messages of channels, kept for clients that resume (`gateway.hub.newest_messages`)."""
        self.history_pages = MemoryBudget(sizes["history_pages"])
        """Histories read for clients that catch up (`gateway.hub.history_cache`)."""
        self.incoming = MemoryBudget(sizes["incoming"])
        """Incomplete messages of clients (`gateway.transport.incoming_memory`)."""
        self.backlogs = MemoryBudget(sizes["backlogs"])
        """Commands that wait until an earlier one of their client is done (`gateway.hub.session`)."""
        self.recoveries = MemoryBudget(sizes["recoveries"])
        """Missed messages that wait for a reply (`gateway.hub.recovery`)."""
        self.bodies = MemoryBudget(sizes["bodies"])
        """Bodies of requests to the push API."""
        self.outboxes = MemoryBudget(total - sum(sizes.values()))
        """What waits for clients that do not read (`gateway.delivery.outbox_memory`)."""

    def budgets(self) -> dict[str, MemoryBudget]:
        """Return every budget by its name."""
        return {name: getattr(self, name) for name in ("outboxes", *SHARES)}

    def statistics(self) -> dict[str, int]:
        """Return of each budget the bytes in use, the limit, and how often its policy was applied."""
        figures: dict[str, int] = {}
        for name, budget in self.budgets().items():
            figures[f"{name}_bytes"] = budget.used
            figures[f"{name}_limit_bytes"] = budget.limit
            figures[f"{name}_freed"] = budget.freed
        return figures

    def __repr__(self) -> str:
        used = sum(budget.used for budget in self.budgets().values())
        return f"<NodeMemory {used} bytes in use>"
