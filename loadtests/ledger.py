"""The books of one process: what it published, and what each of its subscribers heard. No I/O, no clock."""

from __future__ import annotations

from array import array
from collections import Counter
from typing import Any

from loadtests.track import Track


class Stream:
    """What one publisher sent to one channel, numbered from 1: what was acknowledged, under which offset."""

    __slots__ = ("acknowledged", "offsets", "own")

    def __init__(self) -> None:
        self.own = False
        """Whether it is published by this process."""
        self.offsets = array("Q")
        """By number - 1; 0 where nobody has said yet."""
        self.acknowledged = bytearray()

    def attempt(self) -> int:
        """Return the number of the next message."""
        self.own = True
        self._reach(len(self.offsets) + 1)
        return len(self.offsets)

    def acknowledge(self, number: int, offset: int | None) -> bool:
        """Note that *number* was published under *offset*; return whether nobody knows it by another one."""
        self.acknowledged[number - 1] = 1
        return self._agree(number, offset)

    def witness(self, number: int, offset: int | None) -> bool:
        """Note that *number* arrived under *offset*; return whether that can be."""
        if number > len(self.offsets):
            if self.own:
                return False
            self._reach(number)
        return self._agree(number, offset)

    def _agree(self, number: int, offset: int | None) -> bool:
        if offset is None:
            return True
        known = self.offsets[number - 1]
        if not known:
            self.offsets[number - 1] = offset
        return not known or known == offset

    def _reach(self, number: int) -> None:
        grown = number - len(self.offsets)
        self.offsets.extend([0] * grown)
        self.acknowledged.extend(bytes(grown))


class Ledger:
    """Publications by channel and publisher, and a track for each subscriber of a channel.

    Who publishes calls `attempt` before and `acknowledge` after; who listens calls `follow` when it is
    subscribed, and then `arrived` for every message. What it all amounts to is for `verdict.judge` to say, of
    the statements of all processes together.
    """

    def __init__(self) -> None:
        self.streams: dict[str, dict[str, Stream]] = {}
        self.tops: Counter[str] = Counter()
        """The highest acknowledged offset of each channel."""
        self._open: dict[Track, None] = {}
        self._closed: list[Track] = []
        self._departed: dict[str, Counter[str]] = {}
        self.arrivals = self._published = 0
        self._misnumbered: Counter[str] = Counter()

    # ------------------------------------------------------------ publishers

    def attempt(self, channel: str, by: str) -> int:
        """Return the number of a message that *by* is about to publish, with an outcome yet unknown."""
        return self._stream(channel, by).attempt()

    def acknowledge(self, channel: str, by: str, number: int, offset: int | None) -> None:
        """Note that the server took this message; *offset* None where the channel numbers nothing."""
        self._published += 1
        if not self._stream(channel, by).acknowledge(number, offset):
            self._misnumbered[channel] += 1
        if offset is not None and offset > self.tops[channel]:
            self.tops[channel] = offset

    # ------------------------------------------------------------ subscribers

    def follow(self, who: str, channel: str, position: int | None) -> Track:
        """Return the track of a subscriber who has just been told that the channel stands at *position*."""
        streams = self.streams.get(channel, {})
        floors = {by: len(stream.offsets) for by, stream in streams.items() if stream.own}
        track = Track(who, channel, position, floors if position is None else None)
        self._open[track] = None
        return track

    def arrived(self, track: Track, by: str, number: int, offset: int | None) -> None:
        """Note that a subscriber got message *number* of publisher *by*."""
        self.arrivals += 1
        stream = self._stream(track.channel, by)
        track.arrived(by, number, offset, agreed=stream.witness(number, offset), own=stream.own)

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
        return sum(track.behind(self.tops[track.channel]) for track in self._open)

    def statement(self) -> dict[str, Any]:
        """Return everything that `verdict.judge` needs, in types that travel between processes."""
        return {
            "streams": {
                channel: {
                    by: [bytes(stream.acknowledged), stream.offsets.tobytes()]
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
        figures = f"{self._published} published, {len(self._open)} open, {self.outstanding()} outstanding"
        return f"<Ledger {figures}>"
