"""What happened, in the order in which it was seen: what publishers were told and what clients heard.

One history holds every publisher and every client of a run. Its order is the only clock that the checker has:
an event stands behind another only if it was seen later, whichever thread saw it.
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


class Result(StrEnum):
    """What a publisher knows of a publish."""

    OK = "ok"
    FAILED = "failed"
    """It was refused, or never left: nobody may hear it."""
    UNKNOWN = "unknown"
    """No answer came: it may be heard or not, but once and in one place."""


class Heard(NamedTuple):
    """A message as a client got it."""

    id: str
    """Empty where the channel keeps no history."""
    publish: str
    """Which publish its data is; anything else where it is none that we made."""


@dataclass(frozen=True, slots=True)
class Attempted:
    """A publish is about to be sent; *publish* is its name, its own in the whole history."""

    publish: str
    channel: str


@dataclass(frozen=True, slots=True)
class Resolved:
    """A publish was answered, or given up; without this event it is unknown."""

    publish: str
    result: Result
    id: str = ""


@dataclass(frozen=True, slots=True)
class Asked:
    """A client is about to ask for a subscription."""

    client: str
    channel: str
    since: str | None = None


@dataclass(frozen=True, slots=True)
class Subscribed:
    """A client was told that it is subscribed, and what it missed."""

    client: str
    channel: str
    position: str
    recovered: bool
    messages: tuple[Heard, ...] = ()


@dataclass(frozen=True, slots=True)
class Delivered:
    """A client was sent a message."""

    client: str
    channel: str
    message: Heard


@dataclass(frozen=True, slots=True)
class Gap:
    """A client was told that messages are missing up to *position*."""

    client: str
    channel: str
    reason: str
    position: str


@dataclass(frozen=True, slots=True)
class Left:
    """A client hears no more: of one channel, or of any, because its connection ended."""

    client: str
    channel: str = ""


@dataclass(frozen=True, slots=True)
class Reset:
    """What the server keeps may be lost from here on: it was restarted without it, or failed over.

    Only this allows that one number is given to two messages. It excuses no silence.
    """

    channel: str = ""
    """Empty for every channel."""


Event = Attempted | Resolved | Asked | Subscribed | Delivered | Gap | Left | Reset

_KINDS: dict[str, type[Event]] = {
    kind.__name__.lower(): kind
    for kind in (Attempted, Resolved, Asked, Subscribed, Delivered, Gap, Left, Reset)
}


def offset(id: str) -> int:
    """Return the number in an id or a position."""
    return int(id.partition("-")[0])


class History:
    """Records events from any thread or task."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._began = time.monotonic()
        self._lines: list[tuple[float, Event]] = []

    def record(self, event: Event) -> None:
        """Add *event* behind all that were recorded before."""
        with self._lock:
            self._lines.append((time.monotonic() - self._began, event))

    def events(self) -> list[Event]:
        """Return what was recorded until now."""
        with self._lock:
            return [event for _, event in self._lines]

    def dump(self, path: Path) -> None:
        """Write a line of JSON for each event to *path*, with the seconds since the beginning."""
        with self._lock:
            lines = list(self._lines)
        with path.open("wb") as file:
            file.writelines(_line(at, event) for at, event in lines)

    def __len__(self) -> int:
        return len(self._lines)

    def __repr__(self) -> str:
        return f"<History {len(self)} events>"


def read(path: Path) -> list[Event]:
    """Return the events of a dump."""
    return [_event(orjson.loads(line)) for line in path.read_bytes().splitlines()]


def _line(at: float, event: Event) -> bytes:
    fields = {name: getattr(event, name) for name in _fields(type(event))}
    line = {"at": round(at, 6), "event": type(event).__name__.lower(), **fields}
    return orjson.dumps(line, default=list, option=orjson.OPT_APPEND_NEWLINE)


def _event(line: dict[str, Any]) -> Event:
    kind = _KINDS[line["event"]]
    fields = {name: _READ.get(name, _same)(line[name]) for name in _fields(kind)}
    return kind(**fields)


def _fields(kind: type[Event]) -> list[str]:
    return [field.name for field in dataclasses.fields(kind)]


def _same(value: Any) -> Any:
    return value


def _messages(pairs: Iterable[Sequence[str]]) -> tuple[Heard, ...]:
    return tuple(Heard(*pair) for pair in pairs)


_READ: dict[str, Callable[[Any], Any]] = {
    "result": Result,
    "message": lambda pair: Heard(*pair),
    "messages": _messages,
}
"""How to read what JSON has no type for."""
