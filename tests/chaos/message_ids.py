"""Every message id of a history: who observed it first, and between which resets the server assigned it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping
from typing import NamedTuple

from protocol.position import MessageId
from tests.chaos.history_index import HistoryIndex

PUBLISHER = "its publisher"


class EraRange(NamedTuple):
    """The eras in which an id may have been assigned. Era n of a channel follows its n-th reset."""

    earliest: int
    latest: int

    def overlaps(self, earliest: int, latest: int) -> bool:
        return self.earliest <= latest and earliest <= self.latest


class Observation(NamedTuple):
    """A client or a publisher observed an id."""

    channel: str
    id: MessageId
    observer: str
    at: float
    publish: str
    """Empty where the id was received as a position."""


class MessageIds:
    """All ids of channels with history; the position before the first message is none of them."""

    def __init__(self, index: HistoryIndex) -> None:
        self.observations = [seen for seen in _observations(index) if seen.id.offset]
        self._offsets: dict[str, dict[int, dict[MessageId, Observation]]] = defaultdict(
            lambda: defaultdict(dict)
        )
        self._eras: dict[tuple[str, MessageId], EraRange] = {}
        for seen in sorted(self.observations, key=lambda seen: seen.at):
            first = self._offsets[seen.channel][seen.id.offset].setdefault(seen.id, seen)
            latest = index.resets_before(seen.channel, first.at)
            known = self._eras.get((seen.channel, seen.id), EraRange(0, latest))
            earliest = max(known.earliest, _earliest_era(index, seen))
            self._eras[seen.channel, seen.id] = EraRange(earliest, latest)

    def channels(self) -> Collection[str]:
        return self._offsets.keys()

    def by_offset(self, channel: str) -> Mapping[int, Mapping[MessageId, Observation]]:
        """The ids at each offset of *channel*, each with its first observation."""
        return self._offsets.get(channel, {})

    def eras(self, channel: str, id: MessageId) -> EraRange:
        """The eras in which *id* may have been assigned: between its publish and its first observation."""
        return self._eras.get((channel, id), EraRange(0, 0))


def _earliest_era(index: HistoryIndex, seen: Observation) -> int:
    publish = index.publish_in(seen.channel, seen.publish)
    if publish is None or publish.attempted > seen.at:
        return 0
    return index.resets_before(seen.channel, publish.attempted)


def _observations(index: HistoryIndex) -> Iterator[Observation]:
    for publish in index.publishes.values():
        if publish.id is not None:
            yield Observation(publish.channel, publish.id, PUBLISHER, publish.resolved, publish.name)
    for segment in index.segments():
        if segment.start is not None:
            yield Observation(segment.channel, segment.start, segment.client, segment.began, "")
        for claim in segment.claims:
            yield Observation(segment.channel, claim.position, segment.client, claim.at, "")
        for delivery in segment.deliveries:
            if delivery.id is not None:
                yield Observation(segment.channel, delivery.id, segment.client, delivery.at, delivery.publish)
