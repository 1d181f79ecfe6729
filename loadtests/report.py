"""The report of a run: tables for people, JSON for programs. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from loadtests.delivery_check import COLUMNS, FAULTS
from loadtests.histogram import PERCENTILES
from loadtests.metrics import MergedMetrics
from loadtests.slo import ObjectiveResult, format_value

MAX_ROWS = 12
"""Channels and faults listed one by one in the text; the JSON report lists all of them."""

MAX_LATE_ROWS = 3
"""Subscribers with late messages that are listed if there are no faults."""

MAX_MESSAGES_PER_ROW = 2
"""Messages named for each finding in the text."""

FATAL_COUNTS = ("crashes", "disconnected_at_end", "presence.missing", "presence.departed", "presence.stale")
"""Counts that fail a run whatever its objectives: failed users, and wrong presence information."""


@dataclass(frozen=True, slots=True)
class Report:
    """One run of one scenario."""

    scenario: str
    settings: Mapping[str, Any]
    seconds: float
    metrics: MergedMetrics
    objectives: Sequence[ObjectiveResult]

    def failures(self) -> list[str]:
        """Return the reasons why this run failed; empty if it passed."""
        metrics = self.metrics
        reasons = [f"{count:,} {fault}" for fault, count in metrics.deliveries.faults.items()]
        reasons += [f"{metrics.counts[kind]:,} {kind}" for kind in FATAL_COUNTS if metrics.counts.get(kind)]
        if not metrics.deliveries.totals["delivered"]:
            reasons.append("nothing was delivered")
        return reasons + [f"{result.objective} not met" for result in self.objectives if not result.met]

    def as_json(self) -> dict[str, Any]:
        """Return the whole report, for orjson."""
        deliveries = self.metrics.deliveries
        return {
            "scenario": self.scenario,
            "passed": not self.failures(),
            "failures": self.failures(),
            "settings": dict(self.settings),
            "seconds": round(self.seconds, 3),
            "totals": deliveries.totals,
            "channels": {channel: dict(row) for channel, row in deliveries.channels.items()},
            "findings": [asdict(finding) for finding in deliveries.findings],
            "counts": dict(self.metrics.counts),
            "timings_us": {
                kind: {"count": histogram.count, **histogram.percentiles()}
                for kind, histogram in self.metrics.timings.items()
            },
            "objectives": [
                {"objective": str(each.objective), "measured": each.measured, "met": each.met}
                for each in self.objectives
            ],
            "notes": {kind: list(notes) for kind, notes in self.metrics.notes.items()},
        }

    def as_text(self) -> str:
        """Return the report as tables; the last line says whether the run passed."""
        settings = ", ".join(f"{name} {value}" for name, value in self.settings.items())
        sections = [
            f"{self.scenario}: {settings}; {self.seconds:.1f} s",
            self._channels(),
            self._timings(),
            self._counts(),
            self._findings(),
            self._objectives(),
            "\n".join(f"{kind}: {note}" for kind, notes in self.metrics.notes.items() for note in notes),
            self._result(),
        ]
        return "\n\n".join(section for section in sections if section)

    # ------------------------------------------------------------ sections of the text

    def _channels(self) -> str:
        deliveries = self.metrics.deliveries
        most_faults_first = sorted(
            deliveries.channels.items(), key=lambda item: (-sum(item[1][fault] for fault in FAULTS), item[0])
        )
        rows = [
            [name, *(f"{row[column]:,}" for column in COLUMNS)] for name, row in most_faults_first[:MAX_ROWS]
        ]
        if omitted := len(most_faults_first) - len(rows):
            rows.append([f"({omitted} more)", *("" for _ in COLUMNS)])
        rows.append(["all", *(f"{count:,}" for count in deliveries.totals.values())])
        return table(["channel", *COLUMNS], rows)

    def _timings(self) -> str:
        rows = [
            [kind, f"{histogram.count:,}", *(f"{value:,}" for value in histogram.percentiles().values())]
            for kind, histogram in self.metrics.timings.items()
        ]
        return table(["µs", "count", *PERCENTILES], rows)

    def _counts(self) -> str:
        per_second = self.metrics.deliveries.totals["delivered"] / self.seconds
        counts = "  ".join(f"{kind} {count:,}" for kind, count in sorted(self.metrics.counts.items()))
        return f"{per_second:,.0f} deliveries per second  {counts}"

    def _findings(self) -> str:
        findings = self.metrics.deliveries.findings
        faults = [each for each in findings if each.kind in FAULTS][:MAX_ROWS]
        late = [each for each in findings if each.kind not in FAULTS]
        listed = [*faults, *late][: max(len(faults), MAX_LATE_ROWS)]
        rows = [
            [
                each.kind,
                each.subscriber,
                each.channel,
                f"{each.count:,}",
                ", ".join(each.messages[:MAX_MESSAGES_PER_ROW]),
            ]
            for each in listed
        ]
        if omitted := len(findings) - len(rows):
            rows.append([f"({omitted} more)", "", "", "", ""])
        return table(["finding", "subscriber", "channel", "messages", "first messages"], rows) if rows else ""

    def _objectives(self) -> str:
        rows = [
            [
                str(each.objective),
                "nothing"
                if each.measured is None
                else format_value(each.measured, is_time=each.objective.is_time),
                "met" if each.met else "NOT MET",
            ]
            for each in self.objectives
        ]
        return table(["objective", "measured", ""], rows) if rows else ""

    def _result(self) -> str:
        if failures := self.failures():
            return f"FAILED {self.scenario}: {'; '.join(failures)}"
        totals = self.metrics.deliveries.totals
        return (
            f"PASSED {self.scenario}: {totals['published']:,} published, {totals['delivered']:,} delivered, "
            f"none lost, duplicated, reordered or misnumbered"
        )


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return aligned columns below *header*; the first column left, columns of numbers right."""
    lines = [list(header), *(list(row) for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if index and _is_number(lines[-1][index]) else cell.ljust(width)
            for index, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def _is_number(cell: str) -> bool:
    return cell.replace(",", "").replace(".", "").isdigit()
