"""Every message id of a history: who saw it first, and between which resets it was given out."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping
from typing import NamedTuple

from protocol.position import MessageId
from tests.chaos.runs import Account

PUBLISHER = "its publisher"


class Span(NamedTuple):
    """In which stretches between two resets, counted from 0, an id may have been given out."""

    earliest: int
    latest: int

    def overlaps(self, earliest: int, latest: int) -> bool:
        return self.earliest <= latest and earliest <= self.latest


class Sighting(NamedTuple):
    """Somebody saw an id."""

    channel: str
    id: MessageId
    who: str
    at: float
    publish: str
    """Empty where it was told as a position."""


class Ids:
    """All ids of numbered channels; a position before the first message is none."""

    def __init__(self, account: Account) -> None:
        self.sightings = [seen for seen in _sightings(account) if seen.id.offset]
        self._offsets: dict[str, dict[int, dict[MessageId, Sighting]]] = defaultdict(
            lambda: defaultdict(dict)
        )
        self._spans: dict[tuple[str, MessageId], Span] = {}
        for seen in sorted(self.sightings, key=lambda seen: seen.at):
            first = self._offsets[seen.channel][seen.id.offset].setdefault(seen.id, seen)
            latest = account.resets_before(seen.channel, first.at)
            known = self._spans.get((seen.channel, seen.id), Span(0, latest))
            self._spans[seen.channel, seen.id] = Span(max(known.earliest, _earliest(account, seen)), latest)

    def channels(self) -> Collection[str]:
        return self._offsets.keys()

    def by_offset(self, channel: str) -> Mapping[int, Mapping[MessageId, Sighting]]:
        """The ids at each offset of *channel*, each with who saw it first."""
        return self._offsets.get(channel, {})

    def span(self, channel: str, id: MessageId) -> Span:
        """When *id* was made: after its publish was attempted, before somebody saw it."""
        return self._spans.get((channel, id), Span(0, 0))


def _earliest(account: Account, seen: Sighting) -> int:
    publish = account.in_channel(seen.channel, seen.publish)
    if publish is None or publish.attempted > seen.at:
        return 0
    return account.resets_before(seen.channel, publish.attempted)


def _sightings(account: Account) -> Iterator[Sighting]:
    for publish in account.publishes.values():
        if publish.id is not None:
            yield Sighting(publish.channel, publish.id, PUBLISHER, publish.resolved, publish.name)
    for run in account.runs():
        if run.start is not None:
            yield Sighting(run.channel, run.start, run.client, run.began, "")
        for claim in run.claims:
            yield Sighting(run.channel, claim.position, run.client, claim.at, "")
        for hearing in run.heard:
            if hearing.id is not None:
                yield Sighting(run.channel, hearing.id, run.client, hearing.at, hearing.publish)
