"""Service level objectives: `p99<=50ms`, `unrecovered<=0`, `delivered>=100000`; kept or broken."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from loadtests.histogram import PERCENTILES, Histogram

UNITS = {"us": 1.0, "µs": 1.0, "ms": 1e3, "s": 1e6}
"""Microseconds in each unit."""

_COMPARE: dict[str, Callable[[float, float], bool]] = {"<=": operator.le, ">=": operator.ge}
_GRAMMAR = re.compile(
    r"(?P<metric>[a-z][a-z0-9_.:]*) *(?P<sign><=|>=) *(?P<bound>\d+(?:\.\d+)?) *(?P<unit>us|µs|ms|s|)"
)


class MalformedObjective(ValueError):
    """An objective that cannot be understood, with what would be."""


@dataclass(frozen=True, slots=True)
class Objective:
    """What one figure of a run is to be."""

    metric: str
    """`p99` and its like mean those of deliveries; `publish.p99` those of what is timed as `publish`."""
    sign: str
    bound: float
    """In microseconds where the metric is a time."""

    @property
    def is_time(self) -> bool:
        """Whether the metric is a percentile of a duration."""
        return self.metric.endswith(tuple(PERCENTILES))

    def __str__(self) -> str:
        return f"{self.metric} {self.sign} {shown(self.bound, time=self.is_time)}"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of an objective; nothing measured breaks it, if it is a time."""

    objective: Objective
    measured: float | None
    kept: bool


def parse(text: str) -> list[Objective]:
    """Return the objectives in *text*, divided by commas; raise `MalformedObjective`."""
    return [_objective(part.strip()) for part in text.split(",") if part.strip()]


def _objective(text: str) -> Objective:
    match = _GRAMMAR.fullmatch(text)
    if match is None:
        raise MalformedObjective(
            f"objective {text!r}: expected METRIC<=BOUND or METRIC>=BOUND, as in p99<=50ms"
        )
    objective = Objective(
        match["metric"], match["sign"], float(match["bound"]) * UNITS.get(match["unit"], 1.0)
    )
    if objective.is_time != bool(match["unit"]):
        raise MalformedObjective(
            f"objective {text!r}: a time needs a unit ({', '.join(UNITS)}), a count has none"
        )
    return objective


def override(defaults: Iterable[Objective], given: Iterable[Objective]) -> list[Objective]:
    """Return *defaults*, but for each metric that is *given* only what was given."""
    given = list(given)
    named = {objective.metric for objective in given}
    return [*(objective for objective in defaults if objective.metric not in named), *given]


def outcomes(
    objectives: Iterable[Objective], counts: Mapping[str, float], timings: Mapping[str, Histogram]
) -> list[Outcome]:
    """Return what became of each objective; a count that nothing was counted for is 0."""
    return [_outcome(objective, counts, timings) for objective in objectives]


def _outcome(objective: Objective, counts: Mapping[str, float], timings: Mapping[str, Histogram]) -> Outcome:
    if not objective.is_time:
        measured = counts.get(objective.metric, 0)
        return Outcome(objective, measured, _COMPARE[objective.sign](measured, objective.bound))
    name = next(
        name for name in sorted(PERCENTILES, key=len, reverse=True) if objective.metric.endswith(name)
    )
    kind = objective.metric.removesuffix(name).removesuffix(".") or "delivery"
    histogram = timings.get(kind)
    if histogram is None or not histogram.count:
        return Outcome(objective, None, kept=False)
    measured = histogram.percentile(PERCENTILES[name])
    return Outcome(objective, measured, _COMPARE[objective.sign](measured, objective.bound))


def shown(value: float, *, time: bool) -> str:
    """Return *value* for people: times in milliseconds, with their microseconds."""
    return f"{value / 1e3:,.3f} ms" if time else f"{value:,.0f}"
