"""Names by the second at which each is due: what is due is found without looking at the others."""

from __future__ import annotations

import heapq
import math


class ExpiryWheel:
    """Names, each due at one time; the time counts in whole seconds, rounded up.

    Adding and moving a name costs an entry in a dictionary, and a heap operation for a second that has no
    other name. Nothing is left of a name that was moved, so that moving takes no memory.
    """

    __slots__ = ("_buckets", "_seconds")

    def __init__(self) -> None:
        self._buckets: dict[int, dict[str, None]] = {}
        """The names that are due in each second."""
        self._seconds: list[int] = []
        """A heap of the seconds that have names, or had some."""

    def add(self, name: str, due: float) -> int:
        """Add *name*, due at *due*; return the second, which `discard` needs."""
        second = math.ceil(due)
        bucket = self._buckets.get(second)
        if bucket is None:
            bucket = self._buckets[second] = {}
            heapq.heappush(self._seconds, second)
        bucket[name] = None
        return second

    def discard(self, name: str, second: int) -> None:
        """Remove *name*, which `add` has put into *second*; does nothing if it was popped meanwhile."""
        bucket = self._buckets.get(second)
        if bucket is not None:
            bucket.pop(name, None)

    def pop_due(self, now: float) -> str | None:
        """Remove and return a name that is due at *now*, from the earliest second that has one; else None."""
        seconds = self._seconds
        while seconds and seconds[0] <= now:
            bucket = self._buckets[seconds[0]]
            if bucket:
                name, _ = bucket.popitem()
                return name
            del self._buckets[heapq.heappop(seconds)]
        return None

    def __repr__(self) -> str:
        return f"<ExpiryWheel {len(self._seconds)} seconds>"
