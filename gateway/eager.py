"""Coroutines that start at once: no task, no turn of the loop, where nothing has to be waited for.

A task costs about 8 µs and the rest of the loop's turn; with the embedded broker no command waits for anything, so
commands are coroutines for the sake of Redis and plain calls for the sake of speed. Python 3.12 has eager tasks; this is
what 3.11 needs.

The part that runs at once runs outside of any task: it may await futures, but `asyncio.timeout` and `asyncio.current_task`
do not work there. Whoever needs them starts a task of its own.
"""

from __future__ import annotations

import asyncio
import types
from collections.abc import Callable, Coroutine, Generator
from typing import Any, TypeVar

T = TypeVar("T")


class Tasks:
    """Owner of the coroutines that had to wait: none outlives `close`, none fails unheard."""

    def __init__(self, on_error: Callable[[BaseException], None]) -> None:
        """Report what a task raises to *on_error*, unless somebody awaits that task."""
        self._running: set[asyncio.Task[Any]] = set()
        self._on_error = on_error

    def start(self, coroutine: Coroutine[Any, Any, T]) -> T | asyncio.Task[T]:
        """Run *coroutine* until it waits: return its result, or the task that goes on with it.

        What it raises before it waits is raised here.
        """
        try:
            awaited = coroutine.send(None)
        except StopIteration as done:
            result: T = done.value
            return result
        return self.adopt(_rest(coroutine, awaited))

    def adopt(self, coroutine: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Run *coroutine* in a task that ends with this owner."""
        task = asyncio.get_running_loop().create_task(coroutine)
        self._running.add(task)
        task.add_done_callback(self._done)
        return task

    async def close(self) -> None:
        """Cancel what still runs and wait until it has ended."""
        running = list(self._running)
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)

    def statistics(self) -> dict[str, int]:
        """Return how many coroutines are waiting."""
        return {"running": len(self._running)}

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._running.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._on_error(error)


async def _rest(coroutine: Coroutine[Any, Any, T], awaited: Any) -> T:
    return await _resumed(coroutine, awaited)


@types.coroutine
def _resumed(coroutine: Coroutine[Any, Any, T], awaited: Any) -> Generator[Any, Any, T]:
    """Hand what *coroutine* waits for to the task that runs this, then let it go on as if the task had been its own."""
    while True:
        try:
            yield awaited
        except BaseException as error:  # noqa: BLE001 (a cancellation, too, belongs to the coroutine)
            try:
                awaited = coroutine.throw(error)
            except StopIteration as done:
                thrown: T = done.value
                return thrown
        else:
            result: T = yield from coroutine
            return result
