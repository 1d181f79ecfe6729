"""A history as the checker reads it: publishes with their outcomes, and what each client heard, in runs.

A run is a stretch of one channel in which the server promises that nothing is missing: from a position that
the client was told to where it is told of a break. A reconnect that recovers goes on with the run.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from protocol.position import MessageId
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
from tests.chaos.verdict import Told


@dataclass(slots=True, eq=False)
class Publish:
    """One publish; *attempted* and *resolved* are places in the history."""

    name: str
    channel: str
    attempted: int
    resolved: float = math.inf
    result: Result = Result.UNKNOWN
    id: MessageId | None = None


@dataclass(frozen=True, slots=True)
class Hearing:
    """A message that a client got, at a place in the history; *id* None where it has none."""

    at: int
    id: MessageId | None
    publish: str

    def __str__(self) -> str:
        return self.publish if self.id is None else str(self.id)


@dataclass(frozen=True, slots=True)
class Claim:
    """The server said that a client which was at *since* now has everything up to *position*."""

    at: int
    since: MessageId
    position: MessageId
    heard: MessageId | None
    """The newest that it did have then."""


@dataclass(slots=True, eq=False)
class Run:
    client: str
    channel: str
    began: int
    """The place in the history from which on the server owes everything that is published."""
    start: MessageId | None
    """The position behind which it begins; None in a channel without history, where nothing is owed."""
    heard: list[Hearing] = field(default_factory=list)
    claims: list[Claim] = field(default_factory=list)
    complete: float = -1
    """Everything acknowledged before this place in the history is owed, whatever came later."""
    complete_before: float = -1
    """The same, as it was before the last recovery."""

    @property
    def last(self) -> MessageId | None:
        """The newest id that was heard, else the start."""
        ids = [hearing.id for hearing in self.heard if hearing.id is not None]
        return max(ids, key=lambda id: id.offset, default=self.start)


@dataclass(slots=True, eq=False)
class View:
    """What one client heard of one channel."""

    client: str
    channel: str
    runs: list[Run] = field(default_factory=list)
    follows: bool = False
    """Whether it is subscribed now."""
    unasked: list[Hearing] = field(default_factory=list)
    """What it got while it was not."""
    asked: tuple[int, str | None] = (0, None)

    def hear(self, at: int, message: Heard) -> None:
        hearing = Hearing(at, _id(message.id), message.publish)
        if self.follows:
            self.runs[-1].heard.append(hearing)
        else:
            self.unasked.append(hearing)

    def forsake(self) -> None:
        """Hear that the history of the last run is no more: what its last recovery still owes is told.

        A recovery is true of the node that serves the client. Where the store has lost writes, another node
        may have found out, number anew and acknowledge a moment before this one finds out, and says so.
        """
        if self.runs:
            self.runs[-1].complete = self.runs[-1].complete_before

    def begin(self, at: int, position: str) -> None:
        self.runs.append(Run(self.client, self.channel, at, _id(position)))
        self.follows = True

    def subscribed(self, at: int, event: Subscribed) -> bool:
        """Begin or go on; return whether the client was told of a break."""
        (asked, since), self.asked = self.asked, (at, None)
        recovered = event.recovered and since is not None
        if not recovered:
            if since is not None:
                self.forsake()
            self.begin(at, event.position)
        elif not self.runs:
            self.begin(asked, since or "")
        self.follows = True
        for message in event.messages:
            self.hear(at, message)
        if recovered:
            run, claimed, position = self.runs[-1], _id(since or ""), _id(event.position)
            run.complete, run.complete_before = max(run.complete, asked), run.complete
            if claimed is not None and position is not None:
                run.claims.append(Claim(at, claimed, position, run.last))
        return since is not None and not recovered


class Account:
    """Everything that the checker wants to know of a history."""

    def __init__(self, events: Iterable[Event]) -> None:
        self.publishes: dict[str, Publish] = {}
        self.views: dict[tuple[str, str], View] = {}
        self.told: list[Told] = []
        self.resets: dict[str, list[int]] = defaultdict(list)
        for at, event in enumerate(events):
            self._take(at, event)
        for view in self.views.values():
            if view.follows and view.runs:
                view.runs[-1].complete = math.inf

    def runs(self) -> Iterator[Run]:
        """Every run with positions."""
        for view in self.views.values():
            yield from (run for run in view.runs if run.start is not None)

    def in_channel(self, channel: str, publish: str) -> Publish | None:
        """The publish of that name, if it went to *channel*."""
        found = self.publishes.get(publish)
        return found if found is not None and found.channel == channel else None

    def resets_before(self, channel: str, at: float) -> int:
        """How many resets of *channel* came before a place in the history."""
        return sum(reset < at for reset in (*self.resets[channel], *self.resets[""]))

    def _take(self, at: int, event: Event) -> None:
        match event:
            case Attempted() | Resolved():
                self._published(at, event)
            case Reset(channel):
                self.resets[channel].append(at)
            case Left(client, channel):
                for view in self.views.values():
                    if view.client == client and channel in ("", view.channel):
                        view.follows = False
            case _:
                self._heard(at, event)

    def _published(self, at: int, event: Attempted | Resolved) -> None:
        if isinstance(event, Resolved):
            publish = self.publishes[event.publish]
            publish.resolved, publish.result, publish.id = at, event.result, _id(event.id)
        elif event.publish in self.publishes:
            raise ValueError(f"two publishes are called {event.publish!r}: each needs a name of its own")
        else:
            self.publishes[event.publish] = Publish(event.publish, event.channel, at)

    def _heard(self, at: int, event: Asked | Subscribed | Delivered | Gap) -> None:
        view = self._view(event.client, event.channel)
        match event:
            case Asked(since=since):
                view.asked = (at, since)
            case Subscribed():
                if view.subscribed(at, event):
                    self.told.append(Told(event.client, event.channel, "recovered: false"))
            case Delivered(message=message):
                view.hear(at, message)
            case Gap(reason=reason, position=position):
                if reason == "reset":
                    view.forsake()
                view.begin(at, position)
                self.told.append(Told(event.client, event.channel, reason))

    def _view(self, client: str, channel: str) -> View:
        return self.views.setdefault((client, channel), View(client, channel))


def _id(text: str) -> MessageId | None:
    return MessageId.parse(text) if text else None
