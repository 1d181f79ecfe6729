"""The verdict: what the books of all processes amount to, by channel and subscriber. Pure."""

from __future__ import annotations

from array import array
from bisect import bisect
from collections import Counter, defaultdict
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from loadtests.numbering import offset
from loadtests.track import SAMPLES, message

FAULTS = ("lost", "duplicated", "reordered", "misnumbered")
"""What no server may do, however busy it is."""

COLUMNS = ("subscribers", "published", "unknown", "delivered", *FAULTS, "late", "told")
"""What is counted of each channel; `unknown`: sent, never answered; `told`: missed, and told so."""


@dataclass(frozen=True, slots=True)
class Finding:
    """What went wrong for one subscriber on one channel."""

    kind: str
    who: str
    channel: str
    count: int
    which: tuple[str, ...]
    """The first few messages."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What was counted."""

    channels: Mapping[str, Mapping[str, int]]
    """The `COLUMNS` of each channel."""
    findings: Sequence[Finding]
    """Faults first, those that concern most messages first."""

    @property
    def totals(self) -> dict[str, int]:
        """The sums of all channels."""
        return {column: sum(row[column] for row in self.channels.values()) for column in COLUMNS}

    @property
    def faults(self) -> dict[str, int]:
        """The sums of what must not be, where it is not 0."""
        totals = self.totals
        return {fault: totals[fault] for fault in FAULTS if totals[fault]}


class _Stream:
    """What one publisher sent to one channel, read back from a statement."""

    __slots__ = ("acknowledged", "places")

    def __init__(self, acknowledged: bytes, places: bytes) -> None:
        self.acknowledged = acknowledged
        self.places = array("Q")
        self.places.frombytes(places)

    def knows(self, number: int) -> bool:
        """Whether the server has said that it took message *number*."""
        return 0 < number <= len(self.acknowledged) and bool(self.acknowledged[number - 1])

    def place(self, number: int) -> int:
        """Return the place of message *number*; 0 where it has none."""
        return self.places[number - 1]


class _Channel:
    """What all publishers of all processes sent to one channel."""

    def __init__(self) -> None:
        self.streams: dict[str, _Stream] = {}

    def counts(self) -> dict[str, int]:
        published = sum(sum(stream.acknowledged) for stream in self.streams.values())
        sent = sum(len(stream.acknowledged) for stream in self.streams.values())
        return {"published": published, "unknown": sent - published}

    @cached_property
    def names(self) -> dict[int, str]:
        """Messages by their place."""
        return {
            place: message(by, number, place)
            for by, stream in self.streams.items()
            for number, place in enumerate(stream.places, 1)
            if place
        }

    @cached_property
    def promised(self) -> list[int]:
        """The places of all messages that the server has acknowledged."""
        return sorted(
            place
            for stream in self.streams.values()
            for place, taken in zip(stream.places, stream.acknowledged, strict=True)
            if taken and place
        )


def judge(statements: Sequence[Mapping[str, Any]]) -> Verdict:
    """Return the verdict on the *statements* of all ledgers."""
    published = _published(statements)
    rows: dict[str, Counter[str]] = {name: Counter(channel.counts()) for name, channel in published.items()}
    findings: list[Finding] = []
    for statement in statements:
        for channel, counts in statement["departed"].items():
            rows.setdefault(channel, Counter()).update(counts)
        for channel, count in statement["misnumbered"].items():
            rows.setdefault(channel, Counter())["misnumbered"] += count
            findings.append(Finding("misnumbered", "(publishers)", channel, count, ()))
        for track in statement["tracks"]:
            name = track["channel"]
            lost = _lost(track, published[name], statement["streams"].get(name, {}))
            counts = {column: track[column] for column in COLUMNS if column in track}
            rows.setdefault(name, Counter()).update(counts, subscribers=1, lost=len(lost))
            findings += _findings(track, lost)
    return Verdict(
        {channel: {column: row[column] for column in COLUMNS} for channel, row in sorted(rows.items())},
        sorted(findings, key=lambda finding: (finding.kind not in FAULTS, -finding.count)),
    )


def _published(statements: Iterable[Mapping[str, Any]]) -> dict[str, _Channel]:
    published: defaultdict[str, _Channel] = defaultdict(_Channel)
    for statement in statements:
        for channel, streams in statement["streams"].items():
            for by, (acknowledged, offsets) in streams.items():
                published[channel].streams[by] = _Stream(acknowledged, offsets)
    return published


def _lost(track: Mapping[str, Any], channel: _Channel, own: Container[str]) -> list[str]:
    """Return which messages the subscriber should have got and never did, each once, however it was found.

    *own*: the publishers in the subscriber's process.
    """
    places, unnumbered = set(track["missing"]), list[str]()
    if track["last"] is not None and track["open"]:
        places.update(channel.promised[bisect(channel.promised, track["last"]) :])
    for by, stream in channel.streams.items():
        for number in _missing_numbers(track, by, len(stream.acknowledged), own=by in own):
            if not stream.knows(number):
                continue  # nobody was promised anything
            if not (place := stream.place(number)):
                unnumbered.append(message(by, number, None))
            elif place > (track["start"] or 0):
                places.add(place)
    return [*(channel.names.get(place, f"at {offset(place)}") for place in sorted(places)), *unnumbered]


def _missing_numbers(track: Mapping[str, Any], by: str, sent: int, *, own: bool) -> Iterable[int]:
    last, missing = track["numbers"].get(by, (None, ()))
    yield from missing
    if track["last"] is None and track["open"] and (own or last is not None):
        # Without places, what was sent before the subscription is known only of the same process.
        yield from range((track["floors"].get(by, 0) if last is None else last) + 1, sent + 1)


def _findings(track: Mapping[str, Any], lost: Sequence[str]) -> Iterable[Finding]:
    if lost:
        yield Finding("lost", track["who"], track["channel"], len(lost), tuple(lost[:SAMPLES]))
    for kind in (*FAULTS[1:], "late"):
        if track[kind]:
            which = tuple(message for known, message in track["samples"] if known == kind)
            yield Finding(kind, track["who"], track["channel"], track[kind], which)
