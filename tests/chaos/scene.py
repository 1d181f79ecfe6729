"""A history in which nothing is wrong, to find places for faults in, and what must be found afterwards."""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from random import Random
from typing import NamedTuple, TypeVar

from tests.chaos.history import (
    Asked,
    Attempted,
    Delivered,
    Event,
    Gap,
    Heard,
    Left,
    Reset,
    Resolved,
    Result,
    Subscribed,
)
from tests.chaos.verdict import Fault, Kind

T = TypeVar("T")


class NoPlace(Exception):
    """This history has no place for this fault."""


class Expected(NamedTuple):
    """What a fault must say; None where there is more than one truth."""

    kinds: tuple[Kind, ...]
    channel: str
    client: str | None = None
    id: str | None = None

    def among(self, faults: Iterable[Fault]) -> bool:
        return any(
            fault.kind in self.kinds
            and fault.channel == self.channel
            and (self.client is None or self.client in fault.client.split(", "))
            and (self.id is None or self.id in fault.ids)
            for fault in faults
        )


Planted = tuple[Sequence[Event], Expected]


class Scene:
    """The history, with what a look at it tells; it stays as it is."""

    def __init__(self, events: Sequence[Event], random: Random) -> None:
        self.events = events
        self.random = random
        self.deliveries = [(at, event) for at, event in enumerate(events) if isinstance(event, Delivered)]
        self.answers = [(at, event) for at, event in enumerate(events) if isinstance(event, Subscribed)]
        self.gaps = [(at, event) for at, event in enumerate(events) if isinstance(event, Gap)]
        self.attempts = {event.publish: at for at, event in enumerate(events) if isinstance(event, Attempted)}
        self.channels = {event.publish: event.channel for event in events if isinstance(event, Attempted)}
        self.outcomes = {event.publish: event for event in events if isinstance(event, Resolved)}
        self._resets = [(at, event) for at, event in enumerate(events) if isinstance(event, Reset)]
        self._threads: dict[tuple[str, str], list[int]] = defaultdict(list)
        followed = {(event.client, event.channel) for event in events if isinstance(event, Asked)}
        for at, event in enumerate(events):
            match event:
                case Delivered(client, channel) | Subscribed(client, channel) | Gap(client, channel):
                    self._threads[client, channel].append(at)
                case Left(client, channel):
                    for one, where in followed:
                        if one == client and channel in ("", where):
                            self._threads[one, where].append(at)

    # ------------------------------------------------------------ places

    def pick(self, places: Iterable[T]) -> T:
        """Return one of *places*; `NoPlace` where there is none."""
        choice = list(places)
        if not choice:
            raise NoPlace
        return self.random.choice(choice)

    def sent(self, *, result: Result) -> list[tuple[int, Delivered]]:
        """Deliveries of publishes that ended with *result*."""
        return [(at, event) for at, event in self.deliveries if self.result(event.message) is result]

    def result(self, message: Heard) -> Result | None:
        outcome = self.outcomes.get(message.publish)
        return outcome.result if outcome is not None else None

    def resumes(self, *, least: int) -> list[tuple[int, Subscribed]]:
        """Answers with `recovered: true` that bring at least so many messages."""
        return [(at, event) for at, event in self.answers if event.recovered and len(event.messages) >= least]

    def pairs(self) -> Iterator[tuple[int, Delivered, int, Delivered]]:
        """Deliveries that follow each other at the same client in the same channel."""
        for at, event in self.deliveries:
            place = self.next(at, event.client, event.channel)
            if place is not None and isinstance(second := self.events[place], Delivered):
                yield at, event, place, second

    def next(self, at: int, client: str, channel: str) -> int | None:
        """The place where the client next hears something in that channel, or leaves it."""
        places = self._threads[client, channel]
        which = bisect_right(places, at)
        return places[which] if which < len(places) else None

    def forsaken(self, at: int, client: str, channel: str) -> bool:
        """Whether the next that the client hears there is that its history is no more."""
        place = self.next(at, client, channel)
        while place is not None and isinstance(self.events[place], Left):
            place = self.next(place, client, channel)
        match None if place is None else self.events[place]:
            case Gap(reason="reset") | Subscribed(recovered=False):
                return True
        return False

    def heard(self, before: int, client: str, channel: str) -> list[Heard]:
        """What the client has got in that channel before a place."""
        heard: list[Heard] = []
        for event in self.events[:before]:
            match event:
                case Delivered(other, where, message) if (other, where) == (client, channel):
                    heard.append(message)
                case Subscribed(other, where, messages=messages) if (other, where) == (client, channel):
                    heard += messages
        return heard

    def begun(self, before: int, client: str, channel: str) -> int | None:
        """Where the client was last told, before a place, where its stream begins."""
        for place in range(before - 1, -1, -1):
            match self.events[place]:
                case Gap(other, where) | Subscribed(other, where, recovered=False):
                    if (other, where) == (client, channel):
                        return place
        return None

    def asked(self, answered: int, client: str, channel: str) -> tuple[int, Asked]:
        """What the client had asked when it got the answer at a place, and where."""
        for place in range(answered - 1, -1, -1):
            event = self.events[place]
            if isinstance(event, Asked) and (event.client, event.channel) == (client, channel):
                return place, event
        raise NoPlace

    def owed(self, answered: int, client: str, channel: str, message: Heard) -> bool:
        """Whether *message* was sent since the client's stream began, and acknowledged before it asked."""
        begun, outcome = self.begun(answered, client, channel), self.outcomes.get(message.publish)
        if begun is None or outcome is None or outcome.result is not Result.OK:
            return False
        asked, _ = self.asked(answered, client, channel)
        return begun < self.attempts[message.publish] and self.events.index(outcome) < asked

    def reset_after(self, at: int, channel: str) -> bool:
        return any(place >= at and event.channel in ("", channel) for place, event in self._resets)

    def times_heard(self, message: Heard) -> int:
        """How many deliveries and answers brought it."""
        return sum(event.message == message for _, event in self.deliveries) + sum(
            message in answer.messages for _, answer in self.answers
        )

    def ids(self, channel: str) -> list[str]:
        """The ids of that channel, as often as somebody saw one."""
        told = [outcome.id for name, outcome in self.outcomes.items() if self.channels[name] == channel]
        for _, answer in self.answers:
            if answer.channel == channel:
                told += [answer.position, *(message.id for message in answer.messages)]
        told += [gap.position for _, gap in self.gaps if gap.channel == channel]
        return [id for id in told if id] + [
            event.message.id for _, event in self.deliveries if event.channel == channel
        ]

    # ------------------------------------------------------------ changes

    def put(self, at: int, *events: Event, instead: int = 0) -> list[Event]:
        """Return the history with *events* at a place, *instead* of so many that stand there."""
        return [*self.events[:at], *events, *self.events[at + instead :]]

    def swap(self, one: int, other: int) -> list[Event]:
        """Return the history with two events in each other's place."""
        events = list(self.events)
        events[one], events[other] = events[other], events[one]
        return events


def moved(id: str, by: int) -> str:
    """Return the id that is so many places further on, with the same uid."""
    number, _, uid = id.partition("-")
    return f"{int(number) + by}-{uid}"


def with_ids(event: Event, ids: dict[str, str]) -> Event:
    """Return *event* with other ids for those in *ids*."""
    event = _changed(event, lambda message: message._replace(id=ids.get(message.id, message.id)))
    match event:
        case Resolved(id=id):
            return replace(event, id=ids.get(id, id))
        case Asked(since=str(since)):
            return replace(event, since=ids.get(since, since))
        case Subscribed(position=position) | Gap(position=position):
            return replace(event, position=ids.get(position, position))
    return event


def with_names(event: Event, names: dict[str, str]) -> Event:
    """Return *event* with the data of other publishes for those in *names*."""
    return _changed(
        event, lambda message: message._replace(publish=names.get(message.publish, message.publish))
    )


def _changed(event: Event, change: Callable[[Heard], Heard]) -> Event:
    match event:
        case Delivered(message=message):
            return replace(event, message=change(message))
        case Subscribed(messages=messages):
            return replace(event, messages=tuple(map(change, messages)))
    return event
