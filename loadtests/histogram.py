"""A histogram of durations with the same relative precision for every magnitude."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Self

PRECISION_BITS = 11
"""Significant bits of a value: its relative error is below 1/1024, three decimal digits."""

PERCENTILES = {"p50": 50.0, "p90": 90.0, "p99": 99.0, "p99.9": 99.9, "max": 100.0}
"""The percentiles that reports show, by the names that objectives use."""


class Histogram:
    """Counts of whole numbers (here: microseconds), each rounded up to 11 significant bits.

    After Gil Tene's HdrHistogram: constant relative precision, a few thousand buckets at most, exact merging.
    Percentiles are never below the true ones, and at most 0.1 % above.
    """

    __slots__ = ("_buckets", "count")

    def __init__(self) -> None:
        self._buckets: dict[int, int] = {}
        self.count = 0

    def record(self, value: int) -> None:
        """Count *value*; negative values count as 0."""
        shift = value.bit_length() - PRECISION_BITS
        bucket = max(value, 0) if shift <= 0 else ((value >> shift) + 1 << shift) - 1
        self._buckets[bucket] = self._buckets.get(bucket, 0) + 1
        self.count += 1

    def percentile(self, percent: float) -> int:
        """Return the value that *percent* of the recorded values do not exceed; 0 if nothing was recorded."""
        wanted_count = self.count * percent / 100.0
        seen = 0
        for bucket in sorted(self._buckets):
            seen += self._buckets[bucket]
            # A rounding error must not move a percentile just below a whole count into the next bucket.
            if seen >= wanted_count - 1e-9:
                return bucket
        return 0

    def percentiles(self) -> dict[str, int]:
        """Return the values of `PERCENTILES` by their names."""
        return {name: self.percentile(percent) for name, percent in PERCENTILES.items()}

    def count_over(self, bound: int) -> int:
        """Return how many values exceed *bound*, to the histogram's precision."""
        return sum(count for bucket, count in self._buckets.items() if bucket > bound)

    def items(self) -> list[tuple[int, int]]:
        """Return pairs of value and count, from which `from_items` makes an equal histogram."""
        return sorted(self._buckets.items())

    @classmethod
    def from_items(cls, items: Iterable[tuple[int, int]]) -> Self:
        """Return a histogram of pairs of value and count."""
        histogram = cls()
        for value, count in items:
            histogram._buckets[value] = histogram._buckets.get(value, 0) + count
            histogram.count += count
        return histogram

    @classmethod
    def merge(cls, parts: Iterable[Self]) -> Self:
        """Return one histogram of all values recorded in *parts*."""
        return cls.from_items(pair for part in parts for pair in part.items())

    def __repr__(self) -> str:
        return f"<Histogram {self.count} values, {summary(self.percentiles())}>"


def summary(percentiles: Mapping[str, int]) -> str:
    """Return percentiles in one line, in microseconds."""
    return ", ".join(f"{name} {value:,} µs" for name, value in percentiles.items())
