"""The books of one process: what it published, and what each of its subscribers heard. No I/O, no clock."""

from __future__ import annotations

from array import array
from collections import Counter, defaultdict
from typing import Any

from loadtests.numbering import EPOCH, Numbering
from loadtests.track import Track


class Stream:
    """What one publisher sent to one channel, numbered from 1: what was acknowledged, and at which place."""

    __slots__ = ("acknowledged", "last", "own", "places")

    def __init__(self) -> None:
        self.own = False
        """Whether it is published by this process."""
        self.places = array("Q")
        """By number - 1; 0 where nobody has said yet."""
        self.acknowledged = bytearray()
        self.last: int | None = None
        """The place that was acknowledged last."""

    def attempt(self) -> int:
        """Return the number of the next message."""
        self.own = True
        self._reach(len(self.places) + 1)
        return len(self.places)

    def acknowledge(self, number: int, place: int | None) -> bool:
        """Note that *number* was published at *place*; return whether nobody knows it by another one."""
        self.acknowledged[number - 1] = 1
        self.last = place
        return self._agree(number, place)

    def witness(self, number: int, place: int | None) -> bool:
        """Note that *number* arrived at *place*; return whether that can be."""
        if number > len(self.places):
            if self.own:
                return False
            self._reach(number)
        return self._agree(number, place)

    def _agree(self, number: int, place: int | None) -> bool:
        if place is None:
            return True
        known = self.places[number - 1]
        if known // EPOCH != place // EPOCH or not known:
            # What was said again after its history was lost stands in the newer one.
            self.places[number - 1] = max(known, place)
            return True
        return known == place

    def _reach(self, number: int) -> None:
        grown = number - len(self.places)
        self.places.extend([0] * grown)
        self.acknowledged.extend(bytes(grown))


class Ledger:
    """Publications by channel and publisher, and a track for each subscriber of a channel.

    Who publishes calls `attempt` before and `acknowledge` after; who listens calls `follow` when it is
    subscribed, and then `arrived` for every message. Ids are None in channels that number nothing. What it
    all amounts to is for `verdict.judge` to say, of the statements of all processes together.
    """

    def __init__(self) -> None:
        self.streams: dict[str, dict[str, Stream]] = {}
        self.arrivals = 0
        self._numberings: defaultdict[str, Numbering] = defaultdict(Numbering)
        self._tops: Counter[str] = Counter()
        self._open: dict[Track, None] = {}
        self._closed: list[Track] = []
        self._departed: dict[str, Counter[str]] = {}
        self._misnumbered: Counter[str] = Counter()

    # ------------------------------------------------------------ publishers

    def attempt(self, channel: str, by: str) -> int:
        """Return the number of a message that *by* is about to publish, with an outcome yet unknown."""
        return self._stream(channel, by).attempt()

    def acknowledge(self, channel: str, by: str, number: int, message_id: str | None) -> int | None:
        """Note that the server took this message; return its place."""
        stream = self._stream(channel, by)
        place = None
        if message_id is not None:
            place = self._numberings[channel].establish(message_id, above=stream.last)
            self._tops[channel] = max(place, self._tops[channel])
        if not stream.acknowledge(number, place):
            self._misnumbered[channel] += 1
        return place

    # ------------------------------------------------------------ subscribers

    def follow(self, who: str, channel: str, position: str | None) -> Track:
        """Return the track of a subscriber who has just been told that the channel stands at *position*."""
        if position is None:
            streams = self.streams.get(channel, {})
            floors = {by: len(stream.places) for by, stream in streams.items() if stream.own}
            track = Track(who, channel, None, floors)
        else:
            track = Track(who, channel, self._numberings[channel].establish(position))
        self._open[track] = None
        return track

    def arrived(self, track: Track, by: str, number: int, message_id: str | None) -> None:
        """Note that a subscriber got message *number* of publisher *by*."""
        self.arrivals += 1
        stream = self._stream(track.channel, by)
        place, agreed = None, True
        if message_id is not None:
            place, agreed = self._numberings[track.channel].witness(message_id)
        agreed = stream.witness(number, place) and agreed
        track.arrived(by, number, place, agreed=agreed, own=stream.own)

    def reached(self, track: Track, position: str | None) -> None:
        """Note that the server says that everything up to *position* is here."""
        if position is not None:
            track.reached(self._numberings[track.channel].establish(position, above=track.last))

    def was_told(self, track: Track, position: str | None) -> None:
        """Note that the server says that what lies before *position* is missing, or that it counts anew."""
        place = None
        if position is not None:
            place = self._numberings[track.channel].establish(position, above=track.last)
        track.was_told(place)

    def leave(self, track: Track, through: int | None = None) -> None:
        """End *track*; see `Track.close`. Of one without faults only the counts are kept."""
        track.close(through)
        self._open.pop(track, None)
        if track.spotless and not track.samples:
            self._departed.setdefault(track.channel, Counter()).update(track.counts(), subscribers=1)
        else:
            self._closed.append(track)

    # ------------------------------------------------------------ the sum of it

    def outstanding(self) -> int:
        """Return how many deliveries of what was acknowledged here are still to come."""
        return sum(track.behind(self._tops[track.channel]) for track in self._open)

    def statement(self) -> dict[str, Any]:
        """Return everything that `verdict.judge` needs, in types that travel between processes."""
        return {
            "streams": {
                channel: {
                    by: [bytes(stream.acknowledged), stream.places.tobytes()]
                    for by, stream in streams.items()
                    if stream.own
                }
                for channel, streams in self.streams.items()
            },
            "tracks": [track.statement() for track in (*self._open, *self._closed)],
            "departed": {channel: dict(counts) for channel, counts in self._departed.items()},
            "misnumbered": dict(self._misnumbered),
        }

    def _stream(self, channel: str, by: str) -> Stream:
        streams = self.streams.get(channel)
        if streams is None:
            streams = self.streams[channel] = {}
        stream = streams.get(by)
        if stream is None:
            stream = streams[by] = Stream()
        return stream

    def __repr__(self) -> str:
        return f"<Ledger {self.arrivals} arrivals, {len(self._open)} open, {self.outstanding()} outstanding>"
