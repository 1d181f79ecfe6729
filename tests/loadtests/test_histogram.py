from hypothesis import given
from hypothesis import strategies as st

from loadtests.histogram import PERCENTILES, Histogram

DURATIONS = st.lists(st.integers(0, 2**40), min_size=1)


def histogram_of(values: list[int]) -> Histogram:
    histogram = Histogram()
    for value in values:
        histogram.record(value)
    return histogram


def exact_percentile(values: list[int], percent: float) -> int:
    """Return the smallest value that *percent* of the values do not exceed, from the values themselves."""
    wanted = len(values) * percent / 100
    return next(
        value for rank, value in enumerate(sorted(values), 1) if rank >= wanted or rank == len(values)
    )


@given(DURATIONS, st.sampled_from(list(PERCENTILES.values())))
def test_a_percentile_is_never_below_the_true_one_and_at_most_a_thousandth_above(
    values: list[int], percent: float
) -> None:
    true = exact_percentile(values, percent)
    assert true <= histogram_of(values).percentile(percent) <= true * (1 + 1 / 1024)


@given(DURATIONS)
def test_small_values_are_exact(values: list[int]) -> None:
    small = [value % 2048 for value in values]
    assert histogram_of(small).items() == sorted({(value, small.count(value)) for value in small})


@given(DURATIONS, DURATIONS)
def test_merged_histograms_equal_one_histogram_of_all_values(left: list[int], right: list[int]) -> None:
    merged = Histogram.merge([histogram_of(left), histogram_of(right)])
    assert merged.items() == histogram_of(left + right).items()
    assert merged.count == len(left) + len(right)


@given(DURATIONS)
def test_the_items_of_a_histogram_make_an_equal_histogram(values: list[int]) -> None:
    histogram = histogram_of(values)
    assert Histogram.from_items(histogram.items()).items() == histogram.items()


def test_the_number_of_buckets_is_bounded() -> None:
    histogram = histogram_of([*range(0, 2**20, 7), *range(0, 2**30, 99_991)])
    assert len(histogram.items()) < 20_000


def test_the_percentiles_of_an_empty_histogram_are_zero() -> None:
    assert set(Histogram().percentiles().values()) == {0}


def test_a_negative_value_counts_as_zero() -> None:
    assert histogram_of([-5]).items() == [(0, 1)]


def test_it_counts_the_values_over_a_bound() -> None:
    assert histogram_of([10, 20, 30]).count_over(15) == 2
