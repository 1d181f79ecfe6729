"""What one subscriber heard of one channel, held against the numbers that messages carry."""

from __future__ import annotations

from enum import Enum, auto
from typing import Any

from loadtests.numbering import EPOCH, offset

SAMPLES = 5
"""Faulty messages that are named one by one; the rest is counted."""


class Step(Enum):
    """How a number stands to those before it."""

    FORWARD = auto()
    """It is new, and the highest so far; what it skipped is missing."""
    BACK = auto()
    """It was missing: it comes after one that it should precede."""
    AGAIN = auto()
    """It was there before."""


class Sequence:
    """Numbers that should come one after another: which one was the last, and which are missing before it."""

    __slots__ = ("_first", "_loose", "last", "missing")

    def __init__(self, before: int | None = None) -> None:
        """Expect the number after *before*; None: begin with whichever comes first."""
        self.last = before
        self.missing: set[int] = set()
        self._first: int | None = None
        """The first number, where that was not known before."""
        self._loose = False

    def take(self, number: int) -> Step:
        """Note *number* and return how it stands."""
        if self.last is None:
            self._first = self.last = number
            return Step.FORWARD
        if number == self.last + 1:
            self.last, self._loose = number, False
            return Step.FORWARD
        if number > self.last:
            if not self._loose:
                self.missing.update(range(self.last + 1, number))
            self.last, self._loose = number, False
            return Step.FORWARD
        if number in self.missing:
            self.missing.discard(number)
            return Step.BACK
        if self._first is not None and number < self._first:
            self.missing.update(range(number + 1, self._first))
            self._first = number
            return Step.BACK
        return Step.AGAIN

    def expect(self, number: int) -> None:
        """Take everything up to *number* for missing that has not come."""
        if self.last is not None and number > self.last:
            self.missing.update(range(self.last + 1, number + 1))
            self.last = number

    def loosen(self) -> None:
        """Let the next number be any higher one: the server has told that some are missing."""
        self._loose = True

    def __repr__(self) -> str:
        return f"<Sequence up to {self.last}, {len(self.missing)} missing>"


class Track:
    """One subscriber's view of one channel, from the moment it subscribed.

    Two numbers are followed: the place that the server gave to a message, and the number in its payload,
    which its publisher gave. The first alone would believe a server that loses messages before it numbers
    them, the second would blame it for what was never acknowledged.
    """

    __slots__ = (
        "_numbers",
        "_places",
        "_retired",
        "channel",
        "delivered",
        "duplicated",
        "floors",
        "late",
        "misnumbered",
        "open",
        "reordered",
        "samples",
        "start",
        "told",
        "who",
    )

    def __init__(
        self, who: str, channel: str, position: int | None, floors: dict[str, int] | None = None
    ) -> None:
        """Begin after the place *position*; None where the channel numbers nothing.

        *floors* says then for each publisher which of its numbers were sent before the subscription.
        """
        self.who = who
        self.channel = channel
        self.start = position
        self.floors = floors or {}
        self.open = True
        """Whether this subscriber is to have whatever is published later."""
        self.delivered = self.duplicated = self.reordered = self.misnumbered = self.late = 0
        self.told = 0
        """How many messages it did not get, and was told so."""
        self.samples: list[tuple[str, str]] = []
        """The first faults: their kind, and which message."""
        self._places = None if position is None else Sequence(position)
        self._numbers: dict[str, Sequence] = {}
        self._retired: list[int] = []

    @property
    def last(self) -> int | None:
        """The place up to which it heard."""
        return None if self._places is None else self._places.last

    def arrived(
        self, by: str, number: int, place: int | None, *, agreed: bool = True, own: bool = False
    ) -> None:
        """Note message *number* of publisher *by* at *place*.

        *agreed*: everybody else knows it by that place, too; *own*: its publisher is in this process.
        """
        self.delivered += 1
        if (
            place is not None
            and self._places is not None
            and place // EPOCH != (self._places.last or 0) // EPOCH
        ):
            # Another history, and not a word of it.
            agreed = False
            self._begin_anew(place - 1)
        numbers = self._numbers.get(by)
        if numbers is None:
            numbers = self._numbers[by] = self._sequence(by, number, own=own)
        told = numbers.take(number)
        placed = told if place is None or self._places is None else self._places.take(place)
        if told is Step.AGAIN:
            self.duplicated += 1
            self._sample("duplicated", by, number, place)
        elif placed is Step.AGAIN or not agreed:
            self.misnumbered += 1
            self._sample("misnumbered", by, number, place)
        elif told is Step.BACK or placed is Step.BACK:
            self.reordered += 1
            self._sample("reordered", by, number, place)

    def was_late(self, by: str, number: int, place: int | None) -> None:
        """Note that this message took longer than it may."""
        self.late += 1
        self._sample("late", by, number, place)

    def reached(self, place: int | None) -> None:
        """Take for missing what has not come up to *place*: the server says that everything is here."""
        if self._places is None or place is None:
            return
        if place // EPOCH == (self._places.last or 0) // EPOCH:
            self._places.expect(place)

    def was_told(self, place: int | None) -> None:
        """Go on after *place*: the server says that what is between is missing, or that it counts anew."""
        if self._places is None or place is None:
            self._loosen()
        elif place // EPOCH != (self._places.last or 0) // EPOCH:
            self.told += place % EPOCH
            self._begin_anew(place)
        else:
            self.told += max(0, place - (self._places.last or 0))
            # What was missing before is no part of what the server tells of now.
            self._retired += self._places.missing
            self._places = Sequence(place)
            self._loosen()

    def close(self, through: int | None = None) -> None:
        """End: the subscriber left. *through*: the newest place that it knew to be on its way to it."""
        self.reached(through)
        self.open = False

    def heard(self, place: int) -> bool:
        """Whether everything up to *place* is here, or will not come any more."""
        return self._places is None or (self._places.last or 0) >= place

    def behind(self, top: int) -> int:
        """Return how many messages up to the place *top* are to come; of a later history, at least one."""
        if self._places is None or not self.open or self.heard(top):
            return 0
        return (top - (self._places.last or 0)) % EPOCH or 1

    @property
    def spotless(self) -> bool:
        """Whether there is nothing to tell but counts."""
        missing = self._retired or (self._places is not None and self._places.missing)
        return not missing and not any(numbers.missing for numbers in self._numbers.values())

    def statement(self) -> dict[str, Any]:
        """Return what `verdict.judge` needs, in types that travel between processes."""
        unnumbered = self._places is None
        return {
            "who": self.who,
            "channel": self.channel,
            "start": self.start,
            "last": self.last,
            "open": self.open,
            "missing": sorted({*self._retired, *(self._places.missing if self._places else ())}),
            "numbers": {
                by: [numbers.last, sorted(numbers.missing)]
                for by, numbers in self._numbers.items()
                if unnumbered or numbers.missing
            },
            "floors": self.floors if unnumbered else {},
            "samples": self.samples,
            **self.counts(),
        }

    def counts(self) -> dict[str, int]:
        """Return what was counted as messages came."""
        return {
            "delivered": self.delivered,
            "duplicated": self.duplicated,
            "reordered": self.reordered,
            "misnumbered": self.misnumbered,
            "late": self.late,
            "told": self.told,
        }

    # ------------------------------------------------------------ inside

    def _begin_anew(self, place: int) -> None:
        """Follow another history after *place*; with the old one, keys of publishes are forgotten as well."""
        if self._places is not None:
            self._retired += self._places.missing
        self._places = Sequence(place)
        self._numbers.clear()

    def _loosen(self) -> None:
        for numbers in self._numbers.values():
            numbers.loosen()

    def _sequence(self, by: str, number: int, *, own: bool) -> Sequence:
        """Return a sequence for *by*, whose first message to come is *number*."""
        if self._places is not None or not own:
            return Sequence()
        # What was on its way while the subscription was made may come or not; what was sent later must.
        return Sequence(min(self.floors.get(by, 0), number - 1))

    def _sample(self, kind: str, by: str, number: int, place: int | None) -> None:
        if sum(kind == known for known, _ in self.samples) < SAMPLES:
            self.samples.append((kind, message(by, number, place)))

    def __repr__(self) -> str:
        return f"<Track {self.who} on {self.channel}: {self.counts()}>"


def message(by: str, number: int, place: int | None) -> str:
    """Return how reports name a message: whose it is, its number, and the one that the server gave it."""
    return f"{by}#{number}" if place is None else f"{by}#{number} at {offset(place)}"
