from hypothesis import given
from hypothesis import strategies as st

from loadtests.histogram import PERCENTILES, Histogram

DURATIONS = st.lists(st.integers(0, 2**40), min_size=1)


def recorded(values: list[int]) -> Histogram:
    histogram = Histogram()
    for value in values:
        histogram.record(value)
    return histogram


def exact(values: list[int], percent: float) -> int:
    """Return the smallest value that so many percent do not exceed, from the values themselves."""
    wanted = len(values) * percent / 100
    return next(
        value for rank, value in enumerate(sorted(values), 1) if rank >= wanted or rank == len(values)
    )


@given(DURATIONS, st.sampled_from(list(PERCENTILES.values())))
def test_a_percentile_is_never_below_the_true_one_and_at_most_a_thousandth_above(
    values: list[int], percent: float
) -> None:
    true = exact(values, percent)
    assert true <= recorded(values).percentile(percent) <= true * (1 + 1 / 1024)


@given(DURATIONS)
def test_small_values_are_exact(values: list[int]) -> None:
    small = [value % 2048 for value in values]
    assert recorded(small).items() == sorted({(value, small.count(value)) for value in small})


@given(DURATIONS, DURATIONS)
def test_merged_parts_say_what_one_histogram_would(left: list[int], right: list[int]) -> None:
    merged = Histogram.merged([recorded(left), recorded(right)])
    assert merged.items() == recorded(left + right).items()
    assert merged.count == len(left) + len(right)


@given(DURATIONS)
def test_what_travels_between_processes_makes_an_equal_histogram(values: list[int]) -> None:
    histogram = recorded(values)
    assert Histogram.of(histogram.items()).items() == histogram.items()


def test_the_buckets_are_few_whatever_is_recorded() -> None:
    histogram = recorded([*range(0, 2**20, 7), *range(0, 2**30, 99_991)])
    assert len(histogram.items()) < 20_000


def test_an_empty_histogram_says_zero() -> None:
    assert set(Histogram().percentiles().values()) == {0}


def test_what_is_negative_counts_as_zero() -> None:
    assert recorded([-5]).items() == [(0, 1)]


def test_it_tells_how_many_are_over_a_bound() -> None:
    assert recorded([10, 20, 30]).over(15) == 2
