"""A virtual-time loop that runs ready callbacks in random order: for the same seed always the same order.

asyncio runs callbacks in the order of their registration. No answer of ours may depend on that: nothing
guarantees the order in which things happen in other processes.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine
from random import Random
from typing import Any

from tests.gateway.virtual_time import VirtualTimeLoop, until_idle


class _RandomOrder(deque[Any]):
    """A queue whose `popleft` returns any item."""

    def __init__(self, chance: Random) -> None:
        super().__init__()
        self._chance = chance

    def popleft(self) -> Any:
        place = self._chance.randrange(len(self))
        self.rotate(-place)
        taken = super().popleft()
        self.rotate(place)
        return taken


class ShuffledLoop(VirtualTimeLoop):
    """A `VirtualTimeLoop` with a random order of callbacks."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self._ready = _RandomOrder(Random(seed))


def run_shuffled(seeds: int, scenario: Callable[[Random], Coroutine[Any, Any, None]]) -> None:
    """Run *scenario* with so many *seeds*, each on a new loop; no callback may raise, no task may be left."""

    async def whole(seed: int) -> None:
        await scenario(Random(seed))
        await until_idle()
        loop = asyncio.get_running_loop()
        left = asyncio.all_tasks() - {asyncio.current_task()}
        assert not left, left
        assert isinstance(loop, ShuffledLoop)
        assert not loop.callback_errors, loop.callback_errors

    for seed in range(seeds):
        with asyncio.Runner(loop_factory=lambda seed=seed: ShuffledLoop(seed)) as runner:  # type: ignore[misc]
            try:
                runner.run(whole(seed))
            except BaseException as error:
                error.add_note(f"seed {seed}")
                raise
