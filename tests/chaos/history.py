"""What happened, in the order of observation: each publish with its result, and what clients received.

One history holds every publisher and every client of a run. Its order is the only clock of the checker: an
event is later than another one if it was recorded later, whichever thread recorded it.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from threading import Lock
from typing import Any, NamedTuple

import orjson


class PublishResult(StrEnum):
    """What a publisher knows about a publish."""

    OK = "ok"
    FAILED = "failed"
    """It was rejected, or never sent: no client may receive it."""
    UNKNOWN = "unknown"
    """No answer arrived: clients may receive it or not, but once and under one id."""


class ReceivedMessage(NamedTuple):
    """A message as a client received it."""

    id: str
    """Empty where the channel keeps no history."""
    publish: str
    """The name of the publish that its data belongs to; any other text where no publisher sent the data."""


@dataclass(frozen=True, slots=True)
class PublishAttempted:
    """A publish is about to be sent; the name *publish* is unique in the history."""

    publish: str
    channel: str


@dataclass(frozen=True, slots=True)
class PublishResolved:
    """A publish was answered, or given up; without this event its result is unknown."""

    publish: str
    result: PublishResult
    id: str = ""


@dataclass(frozen=True, slots=True)
class SubscribeSent:
    """A client is about to send the request for a subscription."""

    client: str
    channel: str
    since: str | None = None


@dataclass(frozen=True, slots=True)
class Subscribed:
    """A client received that it is subscribed, with the messages that it missed."""

    client: str
    channel: str
    position: str
    recovered: bool
    messages: tuple[ReceivedMessage, ...] = ()


@dataclass(frozen=True, slots=True)
class Delivered:
    """A client received a message."""

    client: str
    channel: str
    message: ReceivedMessage


@dataclass(frozen=True, slots=True)
class Gap:
    """A client received a notice that messages are missing up to *position*."""

    client: str
    channel: str
    reason: str
    position: str


@dataclass(frozen=True, slots=True)
class SubscriptionEnded:
    """A client receives no more: of one channel, or of all, because its connection ended."""

    client: str
    channel: str = ""


@dataclass(frozen=True, slots=True)
class HistoryReset:
    """What the server keeps may be lost from here on: it was restarted without its data, or failed over.

    Only this event allows that one number is given to two messages. Clients must still get a notice.
    """

    channel: str = ""
    """Empty for every channel."""


Event = (
    PublishAttempted
    | PublishResolved
    | SubscribeSent
    | Subscribed
    | Delivered
    | Gap
    | SubscriptionEnded
    | HistoryReset
)

_EVENT_TYPES: dict[str, type[Event]] = {
    type.__name__: type
    for type in (
        PublishAttempted,
        PublishResolved,
        SubscribeSent,
        Subscribed,
        Delivered,
        Gap,
        SubscriptionEnded,
        HistoryReset,
    )
}


def offset(id: str) -> int:
    """Return the number in a message id or a position."""
    return int(id.partition("-")[0])


class History:
    """Records events from any thread or task."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._started = time.monotonic()
        self._entries: list[tuple[float, Event]] = []

    def record(self, event: Event) -> None:
        """Append *event*."""
        with self._lock:
            self._entries.append((time.monotonic() - self._started, event))

    def events(self) -> list[Event]:
        """Return the events recorded so far."""
        with self._lock:
            return [event for _, event in self._entries]

    def dump(self, path: Path) -> None:
        """Write one line of JSON per event to *path*, with the seconds since the history was made."""
        with self._lock:
            entries = list(self._entries)
        with path.open("wb") as file:
            file.writelines(_encoded(seconds, event) for seconds, event in entries)

    def __len__(self) -> int:
        return len(self._entries)

    def __repr__(self) -> str:
        return f"<History {len(self)} events>"


def read_dump(path: Path) -> list[Event]:
    """Return the events of a dump."""
    return [_decoded(orjson.loads(line)) for line in path.read_bytes().splitlines()]


def _encoded(seconds: float, event: Event) -> bytes:
    fields = {name: getattr(event, name) for name in _fields(type(event))}
    line = {"at": round(seconds, 6), "event": type(event).__name__, **fields}
    return orjson.dumps(line, default=list, option=orjson.OPT_APPEND_NEWLINE)


def _decoded(line: dict[str, Any]) -> Event:
    made = _EVENT_TYPES[line["event"]]
    fields = {name: _FIELD_READERS.get(name, _unchanged)(line[name]) for name in _fields(made)}
    return made(**fields)


def _fields(made: type[Event]) -> list[str]:
    return [field.name for field in dataclasses.fields(made)]


def _unchanged(value: Any) -> Any:
    return value


def _messages(pairs: Iterable[Sequence[str]]) -> tuple[ReceivedMessage, ...]:
    return tuple(ReceivedMessage(*pair) for pair in pairs)


_FIELD_READERS: dict[str, Callable[[Any], Any]] = {
    "result": PublishResult,
    "message": lambda pair: ReceivedMessage(*pair),
    "messages": _messages,
}
"""How to read the fields that JSON has no type for."""
