"""One timer for all members whose connection has ended, and whose leave waits for their user to return."""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Callable
from itertools import count
from typing import Generic, TypeVar

T = TypeVar("T")

MAX_WAITING = 100_000
"""Leaves that one timer delays at once: about 30 MB. A node that loses more connections within the grace
announces the further leaves early (docs/presence.md#limits)."""


class GraceTimer(Generic[T]):
    """Calls back when graces end, with one timer of the event loop for all."""

    def __init__(self, on_ended: Callable[[list[T]], None]) -> None:
        """Call *on_ended* with the items whose graces have ended, oldest first."""
        self._on_ended = on_ended
        self._waiting: list[tuple[float, int, T]] = []
        self._numbers = count()
        self._timer: asyncio.TimerHandle | None = None
        self._fires_at = 0.0
        """By the event loop's clock, while there is a timer."""

    def start(self, item: T, seconds: float) -> bool:
        """Start the grace of *item*; return False, and do nothing, if `MAX_WAITING` graces run already."""
        if len(self._waiting) >= MAX_WAITING:
            return False
        heapq.heappush(
            self._waiting, (asyncio.get_running_loop().time() + seconds, next(self._numbers), item)
        )
        self._set_timer()
        return True

    def cancel(self) -> None:
        """Forget all items."""
        self._waiting.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _set_timer(self) -> None:
        end, *_ = self._waiting[0]
        if self._timer is not None and self._fires_at <= end:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._fires_at = end
        self._timer = asyncio.get_running_loop().call_at(end, self._end_graces)

    def _end_graces(self) -> None:
        # The event loop may call back a little early, by the resolution of its clock.
        now = max(asyncio.get_running_loop().time(), self._fires_at)
        self._timer = None
        ended: list[T] = []
        while self._waiting and self._waiting[0][0] <= now:
            ended.append(heapq.heappop(self._waiting)[2])
        if self._waiting:
            self._set_timer()
        if ended:
            self._on_ended(ended)

    def __len__(self) -> int:
        return len(self._waiting)

    def __repr__(self) -> str:
        return f"<GraceTimer {len(self)} waiting>"
