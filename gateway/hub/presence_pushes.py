"""Joins and leaves of one channel on their way to those who watch it: encoded once, pushed together."""

from __future__ import annotations

from collections.abc import Collection
from typing import Generic, Protocol, TypeVar

from gateway.delivery.encoding import data_frame
from gateway.delivery.outbox import WRITE_BATCH_BYTES, Outbox
from protocol.codec import Codec
from protocol.messages import Join, Leave, Member

SECONDS_PER_WATCHER = 25e-6
"""How long pushes wait for more, for each watcher. Writing to one takes 6 to 10 µs: so the writes of joins
and leaves take about a third of the node's time at most, however many join (docs/presence.md#cost)."""

MIN_DELAY_SECONDS = 0.001
"""With so few watchers that the delay would be shorter, pushes only wait for the end of the turn."""

MAX_DELAY_SECONDS = 0.25

MAX_WAITING = 256
"""Pushes that wait at most: then they are pushed at once."""


class Watcher(Protocol):
    """A subscription that gets joins and leaves."""

    member: Member | None
    """What presence shows of it."""

    @property
    def codec(self) -> Codec:
        """The codec of its connection."""

    @property
    def outbox(self) -> Outbox:
        """The outbox of its session."""


W = TypeVar("W", bound=Watcher)


def delay_for(watchers: int) -> float:
    """Return for how many seconds joins and leaves for so many *watchers* wait for more; 0: for this turn."""
    delay = watchers * SECONDS_PER_WATCHER
    return 0.0 if delay < MIN_DELAY_SECONDS else min(delay, MAX_DELAY_SECONDS)


class PresencePushes(Generic[W]):
    """Those who watch the members of one channel, and the joins and leaves that wait to be pushed to them.

    The cost of a push is one encoding for each codec, and of all that wait together one item in the outbox of
    each watcher. A watcher gets no push about itself, and none from before it came.
    """

    __slots__ = ("_first_push", "_waiting", "scheduled", "watchers")

    def __init__(self) -> None:
        self.watchers: dict[W, None] = {}
        self.scheduled = False
        """Whether a call of `push_waiting` is scheduled."""
        self._waiting: list[Join | Leave] = []
        self._first_push: dict[W, int] = {}
        """The index of the first push for those who came while others waited."""

    def add(self, watcher: W) -> None:
        """Push to *watcher* what is collected from now on."""
        self.watchers[watcher] = None
        if self._waiting:
            self._first_push[watcher] = len(self._waiting)

    def remove(self, watcher: W) -> None:
        """Push nothing more to *watcher*."""
        self.watchers.pop(watcher, None)
        self._first_push.pop(watcher, None)

    def collect(self, push: Join | Leave) -> None:
        """Keep *push* for `push_waiting`, which is called at once if too many wait."""
        if not self.watchers:
            return
        self._waiting.append(push)
        if len(self._waiting) >= MAX_WAITING:
            self.push_waiting()

    def push_waiting(self) -> None:
        """Enqueue what waits for every watcher."""
        if not self._waiting:
            return
        waiting, self._waiting = self._waiting, []
        first_push, self._first_push = self._first_push, {}
        about: dict[str, list[int]] = {}
        for index, push in enumerate(waiting):
            about.setdefault(push.member.connection, []).append(index)
        encodings: dict[Codec, _Encoding] = {}
        # A copy: a watcher that is too slow is removed during the loop.
        for watcher in list(self.watchers):
            codec = watcher.codec
            encoding = encodings.get(codec)
            if encoding is None:
                encoding = encodings[codec] = _Encoding(codec, waiting)
            own = () if watcher.member is None else about.get(watcher.member.connection, ())
            first = first_push.get(watcher, 0)
            for part in encoding.some(first, own) if first or own else encoding.all:
                watcher.outbox.enqueue(part)

    def __repr__(self) -> str:
        return f"<PresencePushes {len(self._waiting)} waiting for {len(self.watchers)} watchers>"


class _Encoding:
    """The pushes in one codec, as frames."""

    __slots__ = ("_frames", "all")

    def __init__(self, codec: Codec, pushes: list[Join | Leave]) -> None:
        self._frames = [data_frame(codec.encode(push), binary=codec.binary) for push in pushes]
        self.all = _joined(self._frames)
        """All frames, joined to parts that are written at once."""

    def some(self, first: int, without: Collection[int]) -> list[bytes]:
        """Return the frames from the index *first* on, *without* some, joined in the same way."""
        frames = enumerate(self._frames[first:], start=first)
        return _joined([frame for index, frame in frames if index not in without])


def _joined(frames: list[bytes]) -> list[bytes]:
    """Return *frames* joined to parts of about `WRITE_BATCH_BYTES`, of which one at least has a frame."""
    parts: list[bytes] = []
    start = size = 0
    for end, frame in enumerate(frames, start=1):
        size += len(frame)
        if size >= WRITE_BATCH_BYTES or end == len(frames):
            parts.append(b"".join(frames[start:end]))
            start, size = end, 0
    return parts
