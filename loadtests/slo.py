"""Service level objectives (`p99<=50ms`, `unrecovered<=0`, `delivered>=100000`) and whether they are met."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from loadtests.histogram import PERCENTILES, Histogram

MICROSECONDS_PER_UNIT = {"us": 1.0, "µs": 1.0, "ms": 1e3, "s": 1e6}

_COMPARISONS: dict[str, Callable[[float, float], bool]] = {"<=": operator.le, ">=": operator.ge}
_GRAMMAR = re.compile(
    r"(?P<metric>[a-z][a-z0-9_.:]*) *(?P<sign><=|>=) *(?P<bound>\d+(?:\.\d+)?) *(?P<unit>us|µs|ms|s|)"
)


class MalformedObjective(ValueError):
    """An objective that cannot be parsed; the message says what was expected."""


@dataclass(frozen=True, slots=True)
class Objective:
    """A bound for one figure of a run."""

    metric: str
    """A percentile alone (`p99`) is that of deliveries; `publish.p99` is that of the timing `publish`."""
    sign: str
    bound: float
    """In microseconds where the metric is a time."""

    @property
    def is_time(self) -> bool:
        """Whether the metric is a percentile of a duration."""
        return self.metric.endswith(tuple(PERCENTILES))

    def __str__(self) -> str:
        return f"{self.metric} {self.sign} {format_value(self.bound, is_time=self.is_time)}"


@dataclass(frozen=True, slots=True)
class ObjectiveResult:
    """Whether an objective was met; a time for which nothing was measured is not met."""

    objective: Objective
    measured: float | None
    met: bool


def parse(text: str) -> list[Objective]:
    """Return the objectives in *text*, separated by commas; raise `MalformedObjective`."""
    return [_parse_one(part.strip()) for part in text.split(",") if part.strip()]


def _parse_one(text: str) -> Objective:
    match = _GRAMMAR.fullmatch(text)
    if match is None:
        raise MalformedObjective(
            f"objective {text!r}: expected METRIC<=BOUND or METRIC>=BOUND, as in p99<=50ms"
        )
    objective = Objective(
        match["metric"], match["sign"], float(match["bound"]) * MICROSECONDS_PER_UNIT.get(match["unit"], 1.0)
    )
    if objective.is_time != bool(match["unit"]):
        raise MalformedObjective(
            f"objective {text!r}: a time needs a unit ({', '.join(MICROSECONDS_PER_UNIT)}), a count has none"
        )
    return objective


def override(defaults: Iterable[Objective], given: Iterable[Objective]) -> list[Objective]:
    """Return *given*, and those *defaults* whose metric is not among them."""
    given = list(given)
    named = {objective.metric for objective in given}
    return [*(objective for objective in defaults if objective.metric not in named), *given]


def evaluate(
    objectives: Iterable[Objective], counts: Mapping[str, float], timings: Mapping[str, Histogram]
) -> list[ObjectiveResult]:
    """Return the result of each objective; a count that is absent from *counts* is 0."""
    return [_evaluate_one(objective, counts, timings) for objective in objectives]


def _evaluate_one(
    objective: Objective, counts: Mapping[str, float], timings: Mapping[str, Histogram]
) -> ObjectiveResult:
    if not objective.is_time:
        measured = counts.get(objective.metric, 0)
        return ObjectiveResult(objective, measured, _COMPARISONS[objective.sign](measured, objective.bound))
    name = next(
        name for name in sorted(PERCENTILES, key=len, reverse=True) if objective.metric.endswith(name)
    )
    kind = objective.metric.removesuffix(name).removesuffix(".") or "delivery"
    histogram = timings.get(kind)
    if histogram is None or not histogram.count:
        return ObjectiveResult(objective, None, met=False)
    measured = histogram.percentile(PERCENTILES[name])
    return ObjectiveResult(objective, measured, _COMPARISONS[objective.sign](measured, objective.bound))


def format_value(value: float, *, is_time: bool) -> str:
    """Return *value* (a time: microseconds) as text; times in milliseconds with three decimals."""
    return f"{value / 1e3:,.3f} ms" if is_time else f"{value:,.0f}"
