"""What a run says in the end: tables for people, JSON for programs. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from loadtests.account import Sums
from loadtests.histogram import PERCENTILES
from loadtests.slo import Outcome, shown
from loadtests.verdict import COLUMNS, FAULTS

ROWS = 12
"""Channels and faults that are shown one by one; the JSON report has them all."""

LATE_ROWS, FIRST = 3, 2
"""Subscribers that got messages late, where nothing is worse; and messages that are named of each."""

FATAL = ("crashes", "adrift", "presence.absent", "presence.ghosts", "presence.stale")
"""Counts that fail a run whatever its objectives: users failed, or who is here was told wrongly."""


@dataclass(frozen=True, slots=True)
class Report:
    """One run of one scenario."""

    scenario: str
    setting: Mapping[str, Any]
    seconds: float
    sums: Sums
    outcomes: Sequence[Outcome]

    def failures(self) -> list[str]:
        """Return why this run failed; nothing where it passed."""
        sums = self.sums
        reasons = [f"{count:,} {fault}" for fault, count in sums.verdict.faults.items()]
        reasons += [f"{sums.counts[kind]:,} {kind}" for kind in FATAL if sums.counts.get(kind)]
        if not sums.verdict.totals["delivered"]:
            reasons.append("nothing was delivered")
        return reasons + [f"{outcome.objective} broken" for outcome in self.outcomes if not outcome.kept]

    def as_json(self) -> dict[str, Any]:
        """Return everything, for orjson."""
        verdict = self.sums.verdict
        return {
            "scenario": self.scenario,
            "passed": not self.failures(),
            "failures": self.failures(),
            "setting": dict(self.setting),
            "seconds": round(self.seconds, 3),
            "totals": verdict.totals,
            "channels": {channel: dict(row) for channel, row in verdict.channels.items()},
            "findings": [asdict(finding) for finding in verdict.findings],
            "counts": dict(self.sums.counts),
            "timings_us": {
                kind: {"count": histogram.count, **histogram.percentiles()}
                for kind, histogram in self.sums.timings.items()
            },
            "objectives": [
                {"objective": str(each.objective), "measured": each.measured, "kept": each.kept}
                for each in self.outcomes
            ],
            "notes": {kind: list(notes) for kind, notes in self.sums.notes.items()},
        }

    def as_text(self) -> str:
        """Return tables, the verdict last."""
        setting = ", ".join(f"{name} {value}" for name, value in self.setting.items())
        parts = [
            f"{self.scenario}: {setting}; {self.seconds:.1f} s",
            self._channels(),
            self._timings(),
            self._counts(),
            self._findings(),
            self._objectives(),
            "\n".join(f"{kind}: {note}" for kind, notes in self.sums.notes.items() for note in notes),
            self._verdict(),
        ]
        return "\n\n".join(part for part in parts if part)

    # ------------------------------------------------------------ its parts

    def _channels(self) -> str:
        verdict = self.sums.verdict
        worst = sorted(
            verdict.channels.items(), key=lambda item: (-sum(item[1][fault] for fault in FAULTS), item[0])
        )
        rows = [[name, *(f"{row[column]:,}" for column in COLUMNS)] for name, row in worst[:ROWS]]
        if left := len(worst) - len(rows):
            rows.append([f"({left} more)", *("" for _ in COLUMNS)])
        rows.append(["all", *(f"{count:,}" for count in verdict.totals.values())])
        return table(["channel", *COLUMNS], rows)

    def _timings(self) -> str:
        rows = [
            [kind, f"{histogram.count:,}", *(f"{value:,}" for value in histogram.percentiles().values())]
            for kind, histogram in self.sums.timings.items()
        ]
        return table(["µs", "count", *PERCENTILES], rows)

    def _counts(self) -> str:
        delivered = self.sums.verdict.totals["delivered"] / self.seconds
        counts = "  ".join(f"{kind} {count:,}" for kind, count in sorted(self.sums.counts.items()))
        return f"{delivered:,.0f} deliveries a second  {counts}"

    def _findings(self) -> str:
        findings = self.sums.verdict.findings
        faults = [each for each in findings if each.kind in FAULTS][:ROWS]
        shown = [*faults, *(each for each in findings if each.kind not in FAULTS)][
            : max(len(faults), LATE_ROWS)
        ]
        rows = [
            [each.kind, each.who, each.channel, f"{each.count:,}", ", ".join(each.which[:FIRST])]
            for each in shown
        ]
        if left := len(findings) - len(rows):
            rows.append([f"({left} more)", "", "", "", ""])
        return table(["found", "subscriber", "channel", "messages", "first"], rows) if rows else ""

    def _objectives(self) -> str:
        rows = [
            [
                str(each.objective),
                "nothing" if each.measured is None else shown(each.measured, time=each.objective.is_time),
                "kept" if each.kept else "BROKEN",
            ]
            for each in self.outcomes
        ]
        return table(["objective", "measured", ""], rows) if rows else ""

    def _verdict(self) -> str:
        if failures := self.failures():
            return f"FAILED {self.scenario}: {'; '.join(failures)}"
        totals = self.sums.verdict.totals
        return (
            f"PASSED {self.scenario}: {totals['published']:,} published, {totals['delivered']:,} delivered, "
            f"none lost, duplicated, reordered or misnumbered"
        )


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return columns under their heads: the first to the left, numbers to the right."""
    lines = [list(head), *(list(row) for row in rows)]
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
