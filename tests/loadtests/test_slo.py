import pytest

from loadtests.histogram import Histogram
from loadtests.options import PROFILES
from loadtests.slo import MalformedObjective, Objective, evaluate, format_value, override, parse


def timings(**values: list[int]) -> dict[str, Histogram]:
    return {kind: Histogram.from_items((value, 1) for value in some) for kind, some in values.items()}


TIMINGS = timings(delivery=[900, 1_000, 60_000], push=[1_000])
COUNTS = {"gaps": 2, "delivered": 100, "errors.http_503": 1}

OBJECTIVES = {
    "p50<=1ms": (1_000, True),
    "p99<=50ms": (60_000, False),
    "p99.9 <= 60 ms": (60_000, True),
    "max<=0.06s": (60_000, True),
    "push.p99<=999us": (1_000, False),
    "push.p99<=1000µs": (1_000, True),
    "publish.p99<=1s": (None, False),
    "gaps<=2": (2, True),
    "gaps<=1": (2, False),
    "unrecovered<=0": (0, True),
    "errors.http_503<=0": (1, False),
    "delivered>=100": (100, True),
    "delivered>=101": (100, False),
}


@pytest.mark.parametrize(("text", "expected"), OBJECTIVES.items(), ids=OBJECTIVES)
def test_an_objective_is_met_or_not(text: str, expected: tuple[float | None, bool]) -> None:
    (result,) = evaluate(parse(text), COUNTS, TIMINGS)
    assert (result.measured, result.met) == expected


@pytest.mark.parametrize("text", ["p99", "p99<50ms", "p99<=50", "gaps<=0ms", "p99<=-1ms", "<=3", "p99<=fast"])
def test_a_malformed_objective_is_rejected_and_named(text: str) -> None:
    with pytest.raises(MalformedObjective, match=r"^objective '"):
        parse(text)


def test_several_objectives_are_separated_by_commas() -> None:
    assert parse("p99<=50ms, gaps<=0,") == [Objective("p99", "<=", 50_000), Objective("gaps", "<=", 0)]


def test_a_given_objective_replaces_only_the_default_of_the_same_metric() -> None:
    overridden = override(parse("p99<=50ms, gaps<=0"), parse("p99<=80ms, late<=3"))
    assert overridden == parse("gaps<=0, p99<=80ms, late<=3")


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("scenario", PROFILES["seconds"])
def test_the_objectives_of_the_profiles_can_be_parsed(profile: str, scenario: str) -> None:
    assert parse(PROFILES[profile][scenario].slo)


@pytest.mark.parametrize("scenario", PROFILES["seconds"])
def test_the_profile_of_the_test_suite_bounds_no_time(scenario: str) -> None:
    assert not any(objective.is_time for objective in parse(PROFILES["seconds"][scenario].slo))


def test_objectives_are_formatted_with_their_units() -> None:
    assert [str(objective) for objective in parse("p99<=50ms,gaps<=1000")] == [
        "p99 <= 50.000 ms",
        "gaps <= 1,000",
    ]
    assert format_value(1_234_567, is_time=True) == "1,234.567 ms"
