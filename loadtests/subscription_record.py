"""What one subscriber received on one channel, checked against the numbers that messages carry. Pure."""

from __future__ import annotations

from typing import Any

from loadtests.message_ordinals import HISTORY_STRIDE, history_of, offset_of
from loadtests.sequence_checker import Arrival, SequenceChecker

MAX_SAMPLES_PER_KIND = 5
"""Faulty messages of one kind that are named; all of them are counted."""


class SubscriptionRecord:
    """One subscriber's messages on one channel, from the moment it subscribed.

    Two numbers are checked: the ordinal of the id that the server gave a message, and the number in its
    payload, which its publisher gave. The ordinals alone would miss messages that the server lost before it
    numbered them; the payload numbers alone would report messages as lost that were never acknowledged.
    """

    __slots__ = (
        "_missing_earlier",
        "_ordinals",
        "_publisher_numbers",
        "announced",
        "channel",
        "delivered",
        "duplicated",
        "late",
        "misnumbered",
        "open",
        "reordered",
        "samples",
        "sent_before",
        "start",
        "subscriber",
    )

    def __init__(
        self, subscriber: str, channel: str, start: int | None, sent_before: dict[str, int] | None = None
    ) -> None:
        """Start after the ordinal *start*; None if messages of the channel carry no ids.

        *sent_before*: without ids, the last number of each publisher sent before the subscription.
        """
        self.subscriber = subscriber
        self.channel = channel
        self.start = start
        self.sent_before = sent_before or {}
        self.open = True
        """Whether this subscriber must still receive what is published later."""
        self.delivered = self.duplicated = self.reordered = self.misnumbered = self.late = 0
        self.announced = 0
        """How many messages it did not receive, and the server announced that."""
        self.samples: list[tuple[str, str]] = []
        """The first faults: their kind, and the message."""
        self._ordinals = None if start is None else SequenceChecker(start)
        self._publisher_numbers: dict[str, SequenceChecker] = {}
        self._missing_earlier: list[int] = []
        """Ordinals found missing before the server announced a gap or a new history."""

    @property
    def last(self) -> int | None:
        """The ordinal up to which the subscriber has received messages; None without ids."""
        return None if self._ordinals is None else self._ordinals.last

    def record_delivery(
        self,
        publisher: str,
        number: int,
        ordinal: int | None,
        *,
        consistent: bool = True,
        publisher_is_local: bool = False,
    ) -> None:
        """Record message *number* of *publisher*, delivered under *ordinal*.

        *consistent*: everybody else knows this message by the same id; *publisher_is_local*: the publisher is
        in this process.
        """
        self.delivered += 1
        if (
            ordinal is not None
            and self._ordinals is not None
            and history_of(ordinal) != history_of(self._ordinals.last or 0)
        ):
            # A message of another history that the server has not announced.
            consistent = False
            self._start_new_history(ordinal - 1)
        numbers = self._publisher_numbers.get(publisher)
        if numbers is None:
            numbers = self._first_number(publisher, number, publisher_is_local=publisher_is_local)
            self._publisher_numbers[publisher] = numbers
        by_number = numbers.observe(number)
        by_ordinal = (
            by_number if ordinal is None or self._ordinals is None else self._ordinals.observe(ordinal)
        )
        if by_number is Arrival.DUPLICATE:
            self.duplicated += 1
            self._add_sample("duplicated", publisher, number, ordinal)
        elif by_ordinal is Arrival.DUPLICATE or not consistent:
            self.misnumbered += 1
            self._add_sample("misnumbered", publisher, number, ordinal)
        elif by_number is Arrival.OUT_OF_ORDER or by_ordinal is Arrival.OUT_OF_ORDER:
            self.reordered += 1
            self._add_sample("reordered", publisher, number, ordinal)

    def record_late(self, publisher: str, number: int, ordinal: int | None) -> None:
        """Record that this message took longer than `--late` allows."""
        self.late += 1
        self._add_sample("late", publisher, number, ordinal)

    def require_through(self, ordinal: int | None) -> None:
        """Record what has not arrived up to *ordinal* as missing: the server says that it sent everything."""
        if self._ordinals is None or ordinal is None:
            return
        if history_of(ordinal) == history_of(self._ordinals.last or 0):
            self._ordinals.require_through(ordinal)

    def record_announced_gap(self, ordinal: int | None) -> None:
        """Continue after *ordinal*: the server announced missing messages before it, or a new history."""
        if self._ordinals is None or ordinal is None:
            self._allow_jumps()
        elif history_of(ordinal) != history_of(self._ordinals.last or 0):
            self.announced += offset_of(ordinal)
            self._start_new_history(ordinal)
        else:
            self.announced += max(0, ordinal - (self._ordinals.last or 0))
            # What was already missing is not part of what the server announces now.
            self._missing_earlier += self._ordinals.missing
            self._ordinals = SequenceChecker(ordinal)
            self._allow_jumps()

    def close(self, through: int | None = None) -> None:
        """End the subscription. *through*: the newest ordinal that was certainly sent before it ended."""
        self.require_through(through)
        self.open = False

    def has_reached(self, ordinal: int) -> bool:
        """Whether everything up to *ordinal* has arrived, or can no longer arrive."""
        return self._ordinals is None or (self._ordinals.last or 0) >= ordinal

    def outstanding(self, newest: int) -> int:
        """Return how many messages up to *newest* must still arrive; at least 1 of a later history."""
        if self._ordinals is None or not self.open or self.has_reached(newest):
            return 0
        return (newest - (self._ordinals.last or 0)) % HISTORY_STRIDE or 1

    @property
    def nothing_missing(self) -> bool:
        """Whether no message is missing, by ordinal or by publisher number."""
        missing = self._missing_earlier or (self._ordinals is not None and self._ordinals.missing)
        return not missing and not any(numbers.missing for numbers in self._publisher_numbers.values())

    def snapshot(self) -> dict[str, Any]:
        """Return the input of `check_deliveries`, in types that can be sent to another process."""
        without_ids = self._ordinals is None
        return {
            "subscriber": self.subscriber,
            "channel": self.channel,
            "start": self.start,
            "last": self.last,
            "open": self.open,
            "missing": sorted({*self._missing_earlier, *(self._ordinals.missing if self._ordinals else ())}),
            "publisher_numbers": {
                publisher: [numbers.last, sorted(numbers.missing)]
                for publisher, numbers in self._publisher_numbers.items()
                if without_ids or numbers.missing
            },
            "sent_before": self.sent_before if without_ids else {},
            "samples": self.samples,
            **self.counts(),
        }

    def counts(self) -> dict[str, int]:
        """Return what was counted while messages arrived."""
        return {
            "delivered": self.delivered,
            "duplicated": self.duplicated,
            "reordered": self.reordered,
            "misnumbered": self.misnumbered,
            "late": self.late,
            "announced": self.announced,
        }

    # ------------------------------------------------------------ private

    def _start_new_history(self, ordinal: int) -> None:
        """Check another history from after *ordinal*; idempotency keys are lost with the old one as well."""
        if self._ordinals is not None:
            self._missing_earlier += self._ordinals.missing
        self._ordinals = SequenceChecker(ordinal)
        self._publisher_numbers.clear()

    def _allow_jumps(self) -> None:
        for numbers in self._publisher_numbers.values():
            numbers.allow_jump()

    def _first_number(self, publisher: str, number: int, *, publisher_is_local: bool) -> SequenceChecker:
        """Return a checker for the numbers of *publisher*, of which *number* arrives first."""
        if self._ordinals is not None or not publisher_is_local:
            return SequenceChecker()
        # Messages under way while the subscription was made may arrive or not; those sent later must.
        return SequenceChecker(min(self.sent_before.get(publisher, 0), number - 1))

    def _add_sample(self, kind: str, publisher: str, number: int, ordinal: int | None) -> None:
        if sum(kind == known for known, _ in self.samples) < MAX_SAMPLES_PER_KIND:
            self.samples.append((kind, message_label(publisher, number, ordinal)))

    def __repr__(self) -> str:
        return f"<SubscriptionRecord {self.subscriber} on {self.channel}: {self.counts()}>"


def message_label(publisher: str, number: int, ordinal: int | None) -> str:
    """Return how reports name a message: its publisher, its number, and the offset given by the server."""
    return f"{publisher}#{number}" if ordinal is None else f"{publisher}#{number} at {offset_of(ordinal)}"
