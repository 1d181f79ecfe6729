"""How many bytes the entries have that channels hold while their missing messages are read from history."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from gateway.broker.redis.options import HELD_MAX_BYTES

ENTRY_OVERHEAD_BYTES = 400
"""What an entry takes in addition to its body."""


class HeldEntry(Protocol):
    """An entry with a body."""

    @property
    def body(self) -> bytes: ...


class HeldEntries:
    """The entries that all channels of a broker hold."""

    __slots__ = ("bytes", "dropped", "max_bytes")

    def __init__(self, max_bytes: int = HELD_MAX_BYTES) -> None:
        """Allow *max_bytes* together."""
        self.max_bytes = max_bytes
        self.bytes = 0
        self.dropped = 0
        """Entries that were not held; history is read once more instead."""

    def has_room(self, entry: HeldEntry) -> bool:
        """Return whether *entry* may be held."""
        return self.bytes + len(entry.body) + ENTRY_OVERHEAD_BYTES <= self.max_bytes

    def add(self, entries: Iterable[HeldEntry]) -> None:
        """Count *entries*, which are held from now on."""
        self.bytes += _size(entries)

    def remove(self, entries: Iterable[HeldEntry]) -> None:
        """Count *entries* no longer."""
        self.bytes -= _size(entries)

    def statistics(self) -> dict[str, int]:
        """Return sizes and counters."""
        return {"held_bytes": self.bytes, "held_dropped": self.dropped}

    def __repr__(self) -> str:
        return f"<HeldEntries {self.bytes} bytes>"


def _size(entries: Iterable[HeldEntry]) -> int:
    return sum(len(entry.body) + ENTRY_OVERHEAD_BYTES for entry in entries)
