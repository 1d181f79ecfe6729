"""Everything that one process counted and timed, and the totals of several processes."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from loadtests.delivery_check import DeliveryResult, check_deliveries
from loadtests.delivery_record import DeliveryRecord
from loadtests.histogram import Histogram

MAX_NOTES_PER_KIND = 5
"""Problems of one kind that are described in words; all of them are counted."""

DELIVERY, REPLAY = "delivery", "replay"
"""Timings of live messages, and of replayed messages, which are as old as the disconnection was long."""


class ProcessMetrics:
    """The delivery record, counters and histograms of one process; users write, the end of the run reads."""

    def __init__(self, *, late_after_us: int) -> None:
        """Count live messages as late that took more than *late_after_us* microseconds."""
        self.deliveries = DeliveryRecord()
        self.late_after_us = late_after_us
        self.counts: Counter[str] = Counter()
        self.timings: defaultdict[str, Histogram] = defaultdict(Histogram)
        self.notes: dict[str, list[str]] = {}

    def record_problem(self, kind: str, note: str) -> None:
        """Count a problem, and keep the *note* if it is one of the first of its kind."""
        self.counts[kind] += 1
        self.notes[kind] = [*self.notes.get(kind, ()), note][:MAX_NOTES_PER_KIND]

    def record_error(self, code: str, note: str) -> None:
        """Count a command or request that was rejected with *code*, under `errors` and `errors.CODE`."""
        self.counts[f"errors.{code}"] += 1
        self.record_problem("errors", note)

    def snapshot(self) -> dict[str, Any]:
        """Return all metrics, in types that can be sent to another process."""
        return {
            "deliveries": self.deliveries.snapshot(),
            "counts": dict(self.counts),
            "timings": {kind: histogram.items() for kind, histogram in self.timings.items()},
            "notes": self.notes,
        }


@dataclass(frozen=True, slots=True)
class MergedMetrics:
    """The totals of all processes."""

    deliveries: DeliveryResult
    counts: Mapping[str, int]
    timings: Mapping[str, Histogram]
    notes: Mapping[str, Sequence[str]]

    def figures(self) -> dict[str, int]:
        """Return every count that an objective may bound, by its name; timings are separate."""
        return {**self.deliveries.totals, **self.counts}


def merge_snapshots(snapshots: Iterable[Mapping[str, Any]]) -> MergedMetrics:
    """Return the totals of the *snapshots* of several processes, with the result of the delivery check."""
    snapshots = list(snapshots)
    counts: Counter[str] = Counter()
    notes: defaultdict[str, list[str]] = defaultdict(list)
    histograms: defaultdict[str, list[Histogram]] = defaultdict(list)
    for snapshot in snapshots:
        counts.update(snapshot["counts"])
        for kind, items in snapshot["timings"].items():
            histograms[kind].append(Histogram.from_items((value, count) for value, count in items))
        for kind, some in snapshot["notes"].items():
            notes[kind] += some
    return MergedMetrics(
        check_deliveries([snapshot["deliveries"] for snapshot in snapshots]),
        counts,
        {kind: Histogram.merge(parts) for kind, parts in sorted(histograms.items())},
        {kind: some[:MAX_NOTES_PER_KIND] for kind, some in notes.items()},
    )
