"""Counts what happens between two turns of the event loop: work per turn instead of time."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any


class WorkPerTurn:
    """Counts calls of `add` in each turn of the event loop."""

    def __init__(self) -> None:
        self.turn = 0
        self._units: Counter[int] = Counter()

    def begin_turn(self) -> None:
        """Count a turn now, and each further one when it begins."""
        self.turn += 1
        self._handle = asyncio.get_running_loop().call_soon(self.begin_turn)

    def stop(self) -> None:
        """Count no further turn."""
        self._handle.cancel()

    def add(self, units: int = 1) -> None:
        """Count *units* of work in this turn."""
        self._units[self.turn] += units

    def counting(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return *function*, each call of which counts."""

        def counted(*args: Any, **kwargs: Any) -> Any:
            self.add()
            return function(*args, **kwargs)

        return counted

    async def until(self, condition: Callable[[], bool], *, turns: int = 10_000) -> None:
        """Return once *condition* is true; fail after so many *turns*. No time passes on a virtual loop."""
        last = self.turn + turns
        while not condition():
            assert self.turn < last, condition
            await asyncio.sleep(0)

    @property
    def most(self) -> int:
        """The most work in one turn."""
        return max(self._units.values(), default=0)

    @property
    def total(self) -> int:
        """The work in all turns."""
        return self._units.total()


@asynccontextmanager
async def work_per_turn() -> AsyncIterator[WorkPerTurn]:
    """Give a counter of the work in each turn of the running event loop."""
    work = WorkPerTurn()
    work.begin_turn()
    try:
        yield work
    finally:
        work.stop()
