"""A gateway that keeps its promises, without a socket: it makes histories in which nothing is wrong.

Random in everything that a network and a crash may do: what is lost on the way, what is unknown, what comes
to whom first, where a history is trimmed or lost. It tells every client of whatever that costs it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random

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


@dataclass(eq=False)
class Stream:
    """A channel as the server has it."""

    name: str
    era: int = 0
    top: str = ""
    kept: list[Heard] = field(default_factory=list)
    dropped: str = ""
    """The position before the oldest kept."""

    def since(self, position: str) -> list[Heard] | None:
        """Return everything after *position*; None where that is not known any more."""
        if position == self.dropped:
            return list(self.kept)
        places = [message.id for message in self.kept]
        return self.kept[places.index(position) + 1 :] if position in places else None


@dataclass(eq=False)
class Follower:
    """A client on one channel: what is on its way to it, and where it stands."""

    client: str
    stream: Stream
    since: str | None = None
    subscribed: bool = False
    """As the server sees it."""
    way: deque[Subscribed | Delivered | Gap] = field(default_factory=deque)


@dataclass(eq=False)
class Sent:
    """A publish under way."""

    name: str
    stream: Stream
    landed: Heard | None = None
    resolved: bool = False
    refused: bool = False


class Model:
    """Makes a history, step by step."""

    def __init__(self, random: Random, *, clients: int, channels: int, keeps: int) -> None:
        self.random = random
        self.keeps = keeps
        self.events: list[Event] = []
        self.streams = [Stream(f"c{n}") for n in range(channels)]
        for stream in self.streams:
            stream.top = stream.dropped = self._id(0)
        self.followers = [Follower(f"k{n}", stream) for n in range(clients) for stream in self.streams]
        self.sent: list[Sent] = []

    def run(self, steps: int) -> list[Event]:
        """Take so many random steps, come to rest, and return the history."""
        kinds: dict[Callable[[], None], int] = {
            self._attempt: 20,
            self._land: 20,
            self._resolve: 20,
            self._arrive: 60,
            self._subscribe: 15,
            self._disconnect: 3,
            self._unsubscribe: 1,
            self._overflow: 2,
            self._reset: 1,
        }
        for step in self.random.choices(list(kinds), list(kinds.values()), k=steps):
            step()
        self._rest()
        return self.events

    # ------------------------------------------------------------ publishing

    def _attempt(self) -> None:
        sent = Sent(f"m{len(self.sent)}", self.random.choice(self.streams))
        self.sent.append(sent)
        self.events.append(Attempted(sent.name, sent.stream.name))

    def _land(self) -> None:
        """Store one, of which the publisher may have lost sight; some are refused, some never arrive."""
        waiting = [sent for sent in self.sent if not (sent.landed or sent.refused)]
        if not waiting:
            return
        sent = self.random.choice(waiting)
        stream = sent.stream
        if not sent.resolved and self.random.random() < 0.1:
            sent.refused = True
            return
        sent.landed = Heard(self._id(int(stream.top.partition("-")[0]) + 1), sent.name)
        stream.top = sent.landed.id
        stream.kept.append(sent.landed)
        while len(stream.kept) > self.keeps:
            stream.dropped = stream.kept.pop(0).id
        for follower in self._followers(stream):
            follower.way.append(Delivered(follower.client, stream.name, sent.landed))

    def _resolve(self) -> None:
        waiting = [sent for sent in self.sent if not sent.resolved]
        if waiting:
            self._answer(self.random.choice(waiting))

    def _answer(self, sent: Sent) -> None:
        sent.resolved = True
        if sent.refused:
            self.events.append(Resolved(sent.name, Result.FAILED))
        elif sent.landed and self.random.random() < 0.8:
            self.events.append(Resolved(sent.name, Result.OK, sent.landed.id))
        else:
            self.events.append(Resolved(sent.name, Result.UNKNOWN))

    # ------------------------------------------------------------ hearing

    def _subscribe(self) -> None:
        absent = [follower for follower in self.followers if not follower.subscribed and not follower.way]
        if absent:
            self._join(self.random.choice(absent))

    def _join(self, follower: Follower) -> None:
        """Ask and be answered by the server; the answer is on its way."""
        stream = follower.stream
        self.events.append(Asked(follower.client, stream.name, follower.since))
        missed = None if follower.since is None else stream.since(follower.since)
        follower.subscribed = True
        answer = Subscribed(follower.client, stream.name, stream.top, missed is not None, tuple(missed or ()))
        follower.way.append(answer)

    def _arrive(self) -> None:
        moving = [follower for follower in self.followers if follower.way]
        if moving:
            self._take(self.random.choice(moving))

    def _take(self, follower: Follower) -> None:
        event = follower.way.popleft()
        self.events.append(event)
        follower.since = event.message.id if isinstance(event, Delivered) else event.position

    def _disconnect(self) -> None:
        """Lose a connection, and what was on its way there, in every channel."""
        self._lose(self.random.choice(self.followers).client)

    def _lose(self, client: str) -> None:
        lost = [follower for follower in self.followers if follower.client == client]
        for follower in lost:
            for _ in range(self.random.randint(0, len(follower.way))):
                self._take(follower)
            follower.way.clear()
            follower.subscribed = False
        self.events.append(Left(client))

    def _unsubscribe(self) -> None:
        follower = self.random.choice(self.followers)
        if follower.subscribed:
            while follower.way:
                self._take(follower)
            self.events.append(Left(follower.client, follower.stream.name))
            follower.subscribed = False

    # ------------------------------------------------------------ breaking, and saying so

    def _overflow(self) -> None:
        """Drop what waits for a slow client."""
        slow = [follower for follower in self.followers if follower.subscribed and follower.way]
        if slow:
            self._break(self.random.choice(slow), "overflow")

    def _break(self, follower: Follower, reason: str) -> None:
        answers = [event for event in follower.way if isinstance(event, Subscribed)]
        stream = follower.stream
        follower.way = deque([*answers, Gap(follower.client, stream.name, reason, stream.top)])

    def _reset(self) -> None:
        """Lose history, all of it or its end: by a restart, or under the clients' feet."""
        restarted = self.random.random() < 0.5
        if restarted:
            self.events.append(Reset())
        for stream in self.streams if restarted else [self.random.choice(self.streams)]:
            if not restarted:
                self.events.append(Reset(stream.name))
            left = self.random.choice([0, len(stream.kept) // 2])
            stream.top = stream.kept[left - 1].id if left else self._id(0)
            # Where others may have heard more, no position is good any more.
            stream.kept, stream.dropped = [], stream.top if not left else ""
            for follower in self._followers(stream):
                if not restarted:
                    self._break(follower, "reset")
        for client in sorted({follower.client for follower in self.followers}) if restarted else ():
            self._lose(client)

    # ------------------------------------------------------------ the end

    def _rest(self) -> None:
        for sent in self.sent:
            if not sent.resolved and self.random.random() < 0.9:
                self._answer(sent)
        for follower in self.followers:
            if not follower.subscribed and not follower.way and self.random.random() < 0.8:
                self._join(follower)
        while any(follower.way for follower in self.followers):
            self._arrive()

    def _followers(self, stream: Stream) -> list[Follower]:
        return [follower for follower in self.followers if follower.stream is stream and follower.subscribed]

    def _id(self, offset: int) -> str:
        return f"{offset}-{self.random.getrandbits(48):012x}"
