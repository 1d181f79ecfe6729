"""What is wrong with a history, said so that somebody can look for it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

SHOWN = 25
"""Faults that a verdict spells out; the rest is counted."""


class Kind(StrEnum):
    LOST = "lost"
    """A client did not get a message, and nothing told it so."""
    DUPLICATED = "duplicated"
    """A client got a message twice."""
    REORDERED = "reordered"
    """A message came after one that it precedes."""
    DIVERGING = "diverging"
    """Two saw different things: data, places or numbers of the same message."""
    PHANTOM = "phantom"
    """A client got what was never published, or not there, or what it did not subscribe to."""
    SILENT = "silent"
    """A client's stream broke, or is not the one that it followed, and nothing told it so."""


@dataclass(frozen=True, slots=True, order=True)
class Fault:
    kind: Kind
    channel: str
    client: str
    """Empty where it is the channel's fault as such."""
    ids: tuple[str, ...]
    """The messages or positions that it is about; the name of the publish where a message has no id."""
    why: str

    def __str__(self) -> str:
        where = f"{self.channel} at {self.client}" if self.client else self.channel
        return f"{self.kind} in {where}: {', '.join(self.ids)}: {self.why}"


@dataclass(frozen=True, slots=True, order=True)
class Told:
    """A client was told that it misses something."""

    client: str
    channel: str
    how: str
    """`recovered: false`, or the reason of the gap."""


@dataclass(frozen=True, slots=True)
class Verdict:
    faults: tuple[Fault, ...]
    told: tuple[Told, ...]
    """In the order of the history; no fault, but to be expected only where something was lost."""
    published: Counter[str]
    """How many publishes ended how."""
    delivered: int
    """How many messages all clients got together."""

    @property
    def clean(self) -> bool:
        return not self.faults

    @property
    def kinds(self) -> set[Kind]:
        return {fault.kind for fault in self.faults}

    def __str__(self) -> str:
        counts = Counter(fault.kind.value for fault in self.faults)
        told = {"delivered": self.delivered, "told": len(self.told)}
        summary = f"{_counted(counts) or 'nothing wrong'} ({_counted({**self.published, **told})})"
        more = len(self.faults) - SHOWN
        lines = [summary, *map(str, self.faults[:SHOWN])]
        return "\n".join([*lines, f"… and {more} more"] if more > 0 else lines)


def _counted(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {what}" for what, count in counts.items())
