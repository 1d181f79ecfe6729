"""Everything that one process counted and timed, and the sum of what several did."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from loadtests.histogram import Histogram
from loadtests.ledger import Ledger
from loadtests.verdict import Verdict, judge

NOTES = 5
"""How many things of a kind that went wrong are told in words; all are counted."""

DELIVERY, REPLAY = "delivery", "replay"
"""Timings of messages that came live, and of those that a resume replayed: as long as one was away."""


class Account:
    """A ledger, counters and histograms; written by users, read when a run ends."""

    def __init__(self, *, late_bound: int) -> None:
        """Call messages late that took more than *late_bound* microseconds."""
        self.ledger = Ledger()
        self.late_bound = late_bound
        self.counts: Counter[str] = Counter()
        self.timings: defaultdict[str, Histogram] = defaultdict(Histogram)
        self.notes: dict[str, list[str]] = {}

    def fault(self, kind: str, note: str) -> None:
        """Count something that went wrong, and keep the first few in words."""
        self.counts[kind] += 1
        self.notes[kind] = [*self.notes.get(kind, ()), note][:NOTES]

    def error(self, code: str, note: str) -> None:
        """Count a command or a request that was refused."""
        self.counts[f"errors.{code}"] += 1
        self.fault("errors", note)

    def statement(self) -> dict[str, Any]:
        """Return everything, in types that travel between processes."""
        return {
            "ledger": self.ledger.statement(),
            "counts": dict(self.counts),
            "timings": {kind: histogram.items() for kind, histogram in self.timings.items()},
            "notes": self.notes,
        }


@dataclass(frozen=True, slots=True)
class Sums:
    """What all processes say together."""

    verdict: Verdict
    counts: Mapping[str, int]
    timings: Mapping[str, Histogram]
    notes: Mapping[str, Sequence[str]]

    def figures(self) -> dict[str, int]:
        """Return everything that objectives may bound, times excepted."""
        return {**self.verdict.totals, **self.counts}


def summed(statements: Iterable[Mapping[str, Any]]) -> Sums:
    """Return the sums of the *statements* of several accounts."""
    statements = list(statements)
    counts: Counter[str] = Counter()
    notes: defaultdict[str, list[str]] = defaultdict(list)
    parts: defaultdict[str, list[Histogram]] = defaultdict(list)
    for statement in statements:
        counts.update(statement["counts"])
        for kind, items in statement["timings"].items():
            parts[kind].append(Histogram.of((value, count) for value, count in items))
        for kind, some in statement["notes"].items():
            notes[kind] += some
    return Sums(
        judge([statement["ledger"] for statement in statements]),
        counts,
        {kind: Histogram.merged(histograms) for kind, histograms in sorted(parts.items())},
        {kind: some[:NOTES] for kind, some in notes.items()},
    )
