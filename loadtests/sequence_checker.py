"""Finds missing, duplicate and out-of-order numbers in a sequence that should be consecutive. Pure."""

from __future__ import annotations

from enum import Enum, auto


class Arrival(Enum):
    """How a number relates to the numbers before it."""

    NEWEST = auto()
    """It is the highest so far; numbers that it skipped are missing."""
    OUT_OF_ORDER = auto()
    """It was missing: it arrives after a number that it should precede."""
    DUPLICATE = auto()
    """It arrived before."""


class SequenceChecker:
    """Numbers that should arrive consecutively: the last one, and those missing before it."""

    __slots__ = ("_first", "_jump_allowed", "last", "missing")

    def __init__(self, start_after: int | None = None) -> None:
        """Expect the number after *start_after*; None: start with the first number that arrives."""
        self.last = start_after
        self.missing: set[int] = set()
        self._first: int | None = None
        """The lowest number, if the start was not known."""
        self._jump_allowed = False

    def observe(self, number: int) -> Arrival:
        """Record *number* and return how it relates to the numbers before it."""
        if self.last is None:
            self._first = self.last = number
            return Arrival.NEWEST
        if number == self.last + 1:
            self.last, self._jump_allowed = number, False
            return Arrival.NEWEST
        if number > self.last:
            if not self._jump_allowed:
                self.missing.update(range(self.last + 1, number))
            self.last, self._jump_allowed = number, False
            return Arrival.NEWEST
        if number in self.missing:
            self.missing.discard(number)
            return Arrival.OUT_OF_ORDER
        if self._first is not None and number < self._first:
            self.missing.update(range(number + 1, self._first))
            self._first = number
            return Arrival.OUT_OF_ORDER
        return Arrival.DUPLICATE

    def require_through(self, number: int) -> None:
        """Record every number up to *number* that has not arrived as missing."""
        if self.last is not None and number > self.last:
            self.missing.update(range(self.last + 1, number + 1))
            self.last = number

    def allow_jump(self) -> None:
        """Accept any higher number as the next one: the server announced that some are missing."""
        self._jump_allowed = True

    def __repr__(self) -> str:
        return f"<SequenceChecker up to {self.last}, {len(self.missing)} missing>"
