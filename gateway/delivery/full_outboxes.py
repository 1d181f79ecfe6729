"""The outboxes of a node whose sockets are full, and for how long they have been."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Protocol

from gateway.clock import Clock

STALLED_SECONDS = 1.0
"""For how long a socket counts as full only for a moment.

A socket that is full accepts more once asyncio's write buffer is down from `outbox.high_water` to
`outbox.low_water`. A client that needs longer for that reads less than 48 KiB a second, with the default
settings, or nothing.
"""


class SizedOutbox(Protocol):
    """An outbox, as far as its size is asked for."""

    @property
    def size(self) -> int:
        """Bytes in the queue."""


class FullOutboxes:
    """Outboxes with messages for a socket that accepts nothing now.

    Between two flushes, all other outboxes are empty.
    """

    __slots__ = ("_clock", "_recent", "_stalled")

    def __init__(self, clock: Clock) -> None:
        """Measure with *clock* for how long each is full."""
        self._clock = clock
        self._recent: dict[SizedOutbox, float] = {}
        """Since when each is full; the first one for longest."""
        self._stalled: set[SizedOutbox] = set()

    def add(self, outbox: SizedOutbox) -> None:
        """Count *outbox* as full from now on; no effect where it is full already."""
        if outbox not in self._recent and outbox not in self._stalled:
            self._recent[outbox] = self._clock()

    def discard(self, outbox: SizedOutbox) -> None:
        """Count *outbox* as full no longer: its socket accepts more, or is gone."""
        if self._recent.pop(outbox, None) is None:
            self._stalled.discard(outbox)

    def recent(self) -> Collection[SizedOutbox]:
        """Return those that are full for less than `STALLED_SECONDS`; the caller must not keep it."""
        recent, stalled_before = self._recent, self._clock() - STALLED_SECONDS
        while recent and recent[oldest := next(iter(recent))] <= stalled_before:
            del recent[oldest]
            self._stalled.add(oldest)
        return recent.keys()

    def __contains__(self, outbox: object) -> bool:
        return outbox in self._recent or outbox in self._stalled

    def __iter__(self) -> Iterator[SizedOutbox]:
        yield from self._recent
        yield from self._stalled

    def __len__(self) -> int:
        return len(self._recent) + len(self._stalled)

    def __repr__(self) -> str:
        return f"<FullOutboxes {len(self._recent)} recent {len(self._stalled)} stalled>"
