"""A history without violations, in which to find places for faults, and what must be found afterwards."""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from random import Random
from typing import NamedTuple, TypeVar

from tests.chaos.history import (
    Delivered,
    Event,
    Gap,
    HistoryReset,
    PublishAttempted,
    PublishResolved,
    PublishResult,
    ReceivedMessage,
    Subscribed,
    SubscribeSent,
    SubscriptionEnded,
)
from tests.chaos.verdict import Violation, ViolationKind

T = TypeVar("T")


class NoPlace(Exception):
    """The history has no place for the fault."""


class ExpectedViolation(NamedTuple):
    """What the checker must report for a planted fault; None where more than one answer is correct."""

    kinds: tuple[ViolationKind, ...]
    channel: str
    client: str | None = None
    id: str | None = None

    def is_among(self, violations: Iterable[Violation]) -> bool:
        return any(
            violation.kind in self.kinds
            and violation.channel == self.channel
            and (self.client is None or self.client in violation.client.split(", "))
            and (self.id is None or self.id in violation.ids)
            for violation in violations
        )


PlantedFault = tuple[Sequence[Event], ExpectedViolation]
"""The changed events, and what the checker must report."""


class CleanHistory:
    """Indexes *events*, and returns changed copies of them; *events* itself stays as it is.

    A place is an index into *events*.
    """

    def __init__(self, events: Sequence[Event], random: Random) -> None:
        self.events = events
        self.random = random
        self.deliveries = [(at, event) for at, event in enumerate(events) if isinstance(event, Delivered)]
        self.answers = [(at, event) for at, event in enumerate(events) if isinstance(event, Subscribed)]
        self.gaps = [(at, event) for at, event in enumerate(events) if isinstance(event, Gap)]
        attempted = [(at, event) for at, event in enumerate(events) if isinstance(event, PublishAttempted)]
        self.attempts = {event.publish: at for at, event in attempted}
        """The place of each attempt, by the name of the publish."""
        self.channels = {event.publish: event.channel for _, event in attempted}
        """The channel of each publish, by its name."""
        self.outcomes = {event.publish: event for event in events if isinstance(event, PublishResolved)}
        self._resets = [(at, event) for at, event in enumerate(events) if isinstance(event, HistoryReset)]
        self._places: dict[tuple[str, str], list[int]] = defaultdict(list)
        """Where each client received something in each channel, or its subscription ended."""
        requested = {(event.client, event.channel) for event in events if isinstance(event, SubscribeSent)}
        for at, event in enumerate(events):
            match event:
                case Delivered(client, channel) | Subscribed(client, channel) | Gap(client, channel):
                    self._places[client, channel].append(at)
                case SubscriptionEnded(client, channel):
                    for subscriber, where in requested:
                        if subscriber == client and channel in ("", where):
                            self._places[subscriber, where].append(at)

    # ------------------------------------------------------------ places

    def pick(self, places: Iterable[T]) -> T:
        """Return a random one of *places*; `NoPlace` where there is none."""
        choice = list(places)
        if not choice:
            raise NoPlace
        return self.random.choice(choice)

    def deliveries_with(self, result: PublishResult) -> list[tuple[int, Delivered]]:
        """Deliveries of publishes that ended with *result*."""
        return [(at, event) for at, event in self.deliveries if self.result_of(event.message) is result]

    def result_of(self, message: ReceivedMessage) -> PublishResult | None:
        outcome = self.outcomes.get(message.publish)
        return outcome.result if outcome is not None else None

    def recoveries(self, *, min_messages: int) -> list[tuple[int, Subscribed]]:
        """Answers with `recovered: true` that carry at least *min_messages* messages."""
        return [
            (at, event)
            for at, event in self.answers
            if event.recovered and len(event.messages) >= min_messages
        ]

    def consecutive_deliveries(self) -> Iterator[tuple[int, Delivered, int, Delivered]]:
        """Pairs of deliveries that follow each other at the same client in the same channel."""
        for at, event in self.deliveries:
            place = self.next_place(at, event.client, event.channel)
            if place is not None and isinstance(second := self.events[place], Delivered):
                yield at, event, place, second

    def next_place(self, at: int, client: str, channel: str) -> int | None:
        """The place where the client next receives something in that channel, or unsubscribes from it."""
        places = self._places[client, channel]
        which = bisect_right(places, at)
        return places[which] if which < len(places) else None

    def reset_notice_follows(self, at: int, client: str, channel: str) -> bool:
        """Whether the next that the client receives there is a notice that the history was reset."""
        place = self.next_place(at, client, channel)
        while place is not None and isinstance(self.events[place], SubscriptionEnded):
            place = self.next_place(place, client, channel)
        match None if place is None else self.events[place]:
            case Gap(reason="reset") | Subscribed(recovered=False):
                return True
        return False

    def received_before(self, before: int, client: str, channel: str) -> list[ReceivedMessage]:
        """What the client has received in that channel before a place."""
        received: list[ReceivedMessage] = []
        for event in self.events[:before]:
            match event:
                case Delivered(other, where, message) if (other, where) == (client, channel):
                    received.append(message)
                case Subscribed(other, where, messages=messages) if (other, where) == (client, channel):
                    received += messages
        return received

    def segment_start(self, before: int, client: str, channel: str) -> int | None:
        """The last place before *before* at which a segment of the client begins."""
        for place in range(before - 1, -1, -1):
            match self.events[place]:
                case Gap(other, where) | Subscribed(other, where, recovered=False):
                    if (other, where) == (client, channel):
                        return place
        return None

    def request_of(self, answered: int, client: str, channel: str) -> tuple[int, SubscribeSent]:
        """The request that the answer at the place *answered* belongs to, and its place."""
        for place in range(answered - 1, -1, -1):
            event = self.events[place]
            if isinstance(event, SubscribeSent) and (event.client, event.channel) == (client, channel):
                return place, event
        raise NoPlace

    def must_recover(self, answered: int, client: str, channel: str, message: ReceivedMessage) -> bool:
        """Whether *message* was sent since the segment began, and acknowledged before the request."""
        start, outcome = self.segment_start(answered, client, channel), self.outcomes.get(message.publish)
        if start is None or outcome is None or outcome.result is not PublishResult.OK:
            return False
        requested, _ = self.request_of(answered, client, channel)
        return start < self.attempts[message.publish] and self.events.index(outcome) < requested

    def is_reset_after(self, at: int, channel: str) -> bool:
        return any(place >= at and event.channel in ("", channel) for place, event in self._resets)

    def times_received(self, message: ReceivedMessage) -> int:
        """How many deliveries and answers carry *message*."""
        return sum(event.message == message for _, event in self.deliveries) + sum(
            message in answer.messages for _, answer in self.answers
        )

    def ids(self, channel: str) -> list[str]:
        """The ids of that channel, each as often as it was observed."""
        seen = [outcome.id for name, outcome in self.outcomes.items() if self.channels[name] == channel]
        for _, answer in self.answers:
            if answer.channel == channel:
                seen += [answer.position, *(message.id for message in answer.messages)]
        seen += [gap.position for _, gap in self.gaps if gap.channel == channel]
        return [id for id in seen if id] + [
            event.message.id for _, event in self.deliveries if event.channel == channel
        ]

    # ------------------------------------------------------------ changed copies

    def with_events(self, at: int, *events: Event, replaced: int = 0) -> list[Event]:
        """Return the history with *events* at a place, instead of the *replaced* events that are there."""
        return [*self.events[:at], *events, *self.events[at + replaced :]]

    def with_swapped(self, one: int, other: int) -> list[Event]:
        """Return the history with two events exchanged."""
        events = list(self.events)
        events[one], events[other] = events[other], events[one]
        return events


def shifted(id: str, by: int) -> str:
    """Return *id* with *by* added to its number, and the same uid."""
    number, _, uid = id.partition("-")
    return f"{int(number) + by}-{uid}"


def with_ids(event: Event, ids: dict[str, str]) -> Event:
    """Return *event* with its ids replaced as *ids* maps them."""
    event = _with_messages(event, lambda message: message._replace(id=ids.get(message.id, message.id)))
    match event:
        case PublishResolved(id=id):
            return replace(event, id=ids.get(id, id))
        case SubscribeSent(since=str(since)):
            return replace(event, since=ids.get(since, since))
        case Subscribed(position=position) | Gap(position=position):
            return replace(event, position=ids.get(position, position))
    return event


def with_names(event: Event, names: dict[str, str]) -> Event:
    """Return *event* with the publishes of its messages replaced as *names* maps them."""
    return _with_messages(
        event, lambda message: message._replace(publish=names.get(message.publish, message.publish))
    )


def _with_messages(event: Event, change: Callable[[ReceivedMessage], ReceivedMessage]) -> Event:
    match event:
        case Delivered(message=message):
            return replace(event, message=change(message))
        case Subscribed(messages=messages):
            return replace(event, messages=tuple(map(change, messages)))
    return event
