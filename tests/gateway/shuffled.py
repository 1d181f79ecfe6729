"""A loop on which whatever is ready may run next: by chance, and for the same seed always the same.

asyncio promises that callbacks run in the order of their registration. Nothing of ours may need that for its
answers to be right, as the order in which things happen elsewhere is nobody's to promise.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine
from random import Random
from typing import Any

from tests.gateway.standing import StandingLoop, quiet


class _AnyOrder(deque[Any]):
    """A queue that gives out any of what waits."""

    def __init__(self, chance: Random) -> None:
        super().__init__()
        self._chance = chance

    def popleft(self) -> Any:
        place = self._chance.randrange(len(self))
        self.rotate(-place)
        taken = super().popleft()
        self.rotate(place)
        return taken


class ShuffledLoop(StandingLoop):
    """Time stands still here as well, as long as anything is ready."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self._ready = _AnyOrder(Random(seed))


def in_any_order(seeds: int, scenario: Callable[[Random], Coroutine[Any, Any, None]]) -> None:
    """Run *scenario* under so many seeds, each on a loop of its own; nothing may fail or be left."""

    async def whole(seed: int) -> None:
        await scenario(Random(seed))
        await quiet()
        loop = asyncio.get_running_loop()
        left = asyncio.all_tasks() - {asyncio.current_task()}
        assert not left, left
        assert isinstance(loop, ShuffledLoop)
        assert not loop.failures, loop.failures

    for seed in range(seeds):
        with asyncio.Runner(loop_factory=lambda seed=seed: ShuffledLoop(seed)) as runner:  # type: ignore[misc]
            try:
                runner.run(whole(seed))
            except BaseException as error:
                error.add_note(f"seed {seed}")
                raise
