"""What the checker found in a history, as text that says where to look."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

MAX_LISTED = 25
"""Violations that the text of a verdict lists; the others are counted."""


class ViolationKind(StrEnum):
    """The kinds of docs/chaos.md#what-is-checked."""

    LOST = "lost"
    """A client did not get an acknowledged message, and got no notice of it."""
    DUPLICATED = "duplicated"
    """A client got a message twice."""
    REORDERED = "reordered"
    """A client got a message after one that it precedes."""
    DIVERGING = "diverging"
    """Two clients saw different data, ids or numbers of one message."""
    PHANTOM = "phantom"
    """A client got what nobody published there, or what it had not subscribed to."""
    SILENT = "silent"
    """A client's stream was interrupted, or replaced by another one, and it got no notice of it."""


@dataclass(frozen=True, slots=True, order=True)
class Violation:
    kind: ViolationKind
    channel: str
    client: str
    """Empty where the violation concerns no single client."""
    ids: tuple[str, ...]
    """The messages or positions concerned; the name of the publish where a message has no id."""
    reason: str

    def __str__(self) -> str:
        where = f"{self.channel} at {self.client}" if self.client else self.channel
        return f"{self.kind} in {where}: {', '.join(self.ids)}: {self.reason}"


@dataclass(frozen=True, slots=True, order=True)
class LossNotice:
    """A client was notified that messages are missing."""

    client: str
    channel: str
    reason: str
    """`recovered: false`, or the reason of the gap."""


@dataclass(frozen=True, slots=True)
class Verdict:
    violations: tuple[Violation, ...]
    notices: tuple[LossNotice, ...]
    """In the order of the history. They are no violations, but only expected where messages were lost."""
    published: Counter[str]
    """The number of publishes with each result."""
    delivered: int
    """The number of messages that all clients together got."""

    @property
    def clean(self) -> bool:
        return not self.violations

    @property
    def kinds(self) -> set[ViolationKind]:
        return {violation.kind for violation in self.violations}

    def __str__(self) -> str:
        counts = Counter(violation.kind.value for violation in self.violations)
        totals = {"delivered": self.delivered, "notices": len(self.notices)}
        summary = f"{_counted(counts) or 'no violations'} ({_counted({**self.published, **totals})})"
        more = len(self.violations) - MAX_LISTED
        lines = [summary, *map(str, self.violations[:MAX_LISTED])]
        return "\n".join([*lines, f"… and {more} more"] if more > 0 else lines)


def _counted(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in counts.items())
