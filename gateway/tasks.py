"""Coroutines that are started by a call: no task and no turn of the event loop if they need not wait.

A task costs about 8 µs and waits for the next turn of the event loop. With the memory broker no command waits
for anything: commands are coroutines because of Redis, and started by a call because of the memory broker.
Python 3.12 has eager tasks (`asyncio.eager_task_factory`); this module does the same for 3.11.

The part of a coroutine before its first wait runs outside of any task: that part may await futures, but
`asyncio.timeout` and `asyncio.current_task` do not work there. Code that needs them runs in `Tasks.spawn`.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine, Generator, Iterable
from typing import Any, TypeVar

T = TypeVar("T")


SLICE_MICROSECONDS = 2_000
"""Of long work in one turn of the event loop: half of the 5 ms that other work may have to wait."""

SHORT_MICROSECONDS = 60
"""A part that takes no longer need not wait for its turn: calls that belong together would be torn apart."""


class Slicer:
    """Lets long work run in slices: all long work of a node together gets one slice in each turn of the loop.

    A coroutine asks before each part of its work, with an estimate of the time that the part takes. Estimates
    are constants that were measured; the clock is not read, so that tests can count. `asyncio.sleep(0)` would
    not do: of a hundred coroutines that each yield in this way, all hundred run in the next turn.
    """

    __slots__ = ("_left", "_slice", "_waiting")

    def __init__(self, slice_microseconds: int = SLICE_MICROSECONDS) -> None:
        """Let work of *slice_microseconds* and the rest of one part run in a turn."""
        self._slice = slice_microseconds
        self._left = slice_microseconds
        self._waiting: deque[tuple[asyncio.Future[None], int]] = deque()

    async def turn(self, microseconds: int) -> None:
        """Return once the next *microseconds* of work may run; in the order of the calls."""
        if self._left > 0 and not self._waiting:
            self._left -= microseconds
            return
        loop = asyncio.get_running_loop()
        waiter = loop.create_future()
        self._waiting.append((waiter, microseconds))
        if len(self._waiting) == 1:
            loop.call_soon(self._begin_slice)
        await waiter

    def statistics(self) -> dict[str, int]:
        """Return how many parts of long work wait for their turn."""
        return {"waiting": len(self._waiting)}

    def _begin_slice(self) -> None:
        self._left = self._slice
        while self._waiting and self._left > 0:
            waiter, microseconds = self._waiting.popleft()
            if not waiter.done():  # the caller may have been cancelled
                self._left -= microseconds
                waiter.set_result(None)
        if self._waiting:
            asyncio.get_running_loop().call_soon(self._begin_slice)

    def __repr__(self) -> str:
        return f"<Slicer {len(self._waiting)} waiting>"


class Tasks:
    """Owner of tasks: `close` ends all of them, and each exception is reported."""

    def __init__(self, on_error: Callable[[BaseException], None]) -> None:
        """Call *on_error* with each exception of a task, whether or not a coroutine awaits the task."""
        self._running: set[asyncio.Task[Any]] = set()
        self._on_error = on_error

    def start(self, coroutine: Coroutine[Any, Any, T]) -> T | asyncio.Task[T]:
        """Run *coroutine* until it waits: return its result, or the task in which it continues.

        An exception that it raises before it waits is raised here, and not reported.
        """
        try:
            awaited = coroutine.send(None)
        except StopIteration as done:
            result: T = done.value
            return result
        return self.spawn(_StartedCoroutine(coroutine, awaited))

    def spawn(self, coroutine: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Run *coroutine* in a task, from its beginning; return the task."""
        task = asyncio.get_running_loop().create_task(coroutine)
        self._running.add(task)
        task.add_done_callback(self._on_done)
        return task

    async def gather_in_order(
        self, coroutines: Iterable[Coroutine[Any, Any, T]], *, yield_every: int
    ) -> list[T]:
        """Start all *coroutines* in order, wait for all, and return their results in the same order.

        After each *yield_every* of them, other callbacks of the event loop run. A coroutine that waits only
        once, as a publish of a batch does, needs no task: 2 µs less of 18. If the caller is cancelled,
        those that wait continue in tasks of this owner; if one fails, its exception is raised and the
        others continue.
        """
        results: list[Any] = []
        waiting: deque[tuple[int, Coroutine[Any, Any, T], asyncio.Future[Any]]] = deque()
        in_tasks: list[tuple[int, asyncio.Task[T]]] = []
        try:
            for index, coroutine in enumerate(coroutines):
                results.append(None)
                try:
                    awaited = coroutine.send(None)
                except StopIteration as done:
                    results[index] = done.value
                else:
                    if awaited is None:
                        in_tasks.append((index, self.spawn(_StartedCoroutine(coroutine, awaited))))
                    else:
                        waiting.append((index, coroutine, awaited))
                if index % yield_every == yield_every - 1:
                    await asyncio.sleep(0)
            while waiting:
                index, coroutine, awaited = waiting[0]
                await _wait_until_done(awaited)
                waiting.popleft()
                try:
                    in_tasks.append((index, self.spawn(_StartedCoroutine(coroutine, coroutine.send(None)))))
                except StopIteration as done:
                    results[index] = done.value
        finally:
            for _, coroutine, awaited in waiting:
                self.spawn(_StartedCoroutine(coroutine, awaited))
        for index, task in in_tasks:
            results[index] = await task
        return results

    async def run_all(self, coroutines: Iterable[Coroutine[Any, Any, None]]) -> None:
        """Start all *coroutines* in order, and return once all have ended.

        Each continues in a task if it has to wait. One that fails does not cancel the others; once all
        have ended, the exception of the first in order is raised. If the caller is cancelled, all are
        cancelled, and have ended before this call does.
        """
        running = [future for each in coroutines if (future := self._start_caught(each)) is not None]
        if not running:
            return
        try:
            await asyncio.wait(running)
        except BaseException:
            for each in running:
                each.cancel()
            await asyncio.wait(running)
            raise
        for each in running:
            each.result()

    async def close(self) -> None:
        """Cancel all tasks, including those that they start while ending, and wait until all have ended."""
        while running := list(self._running):
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)

    def report(self, error: BaseException) -> None:
        """Report *error* if there is no caller to raise it to."""
        self._on_error(error)

    def statistics(self) -> dict[str, int]:
        """Return how many tasks are running."""
        return {"running": len(self._running)}

    def _start_caught(self, coroutine: Coroutine[Any, Any, None]) -> asyncio.Future[None] | None:
        """Start *coroutine*; return a future with its end or its exception, None if it has succeeded."""
        try:
            return self.start(coroutine)
        except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001 (run_all raises it later)
            failed = asyncio.get_running_loop().create_future()
            failed.set_exception(error)
            return failed

    def _on_done(self, task: asyncio.Task[Any]) -> None:
        self._running.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._on_error(error)

    def __repr__(self) -> str:
        return f"<Tasks {len(self._running)} running>"


def call_exception_handler(message: str, error: BaseException) -> None:
    """Call the exception handler of the running event loop, which by default logs *message* and *error*."""
    asyncio.get_running_loop().call_exception_handler({"message": message, "exception": error})


async def _wait_until_done(future: asyncio.Future[Any]) -> None:
    """Wait until *future* is done, without raising its exception: the coroutine that awaits it does that."""
    if future.done():
        return
    done = asyncio.Event()
    future.add_done_callback(lambda _: done.set())
    await done.wait()


class _StartedCoroutine(Coroutine[Any, Any, T]):
    """A coroutine that already runs and waits for *awaited*, in the form that a task can continue.

    A coroutine function around it would not do: a task that is cancelled before its first step throws into a
    coroutine that has not started, and the inner one would never receive the cancellation.
    """

    __slots__ = ("_awaited", "_coroutine", "_taken_over")

    def __init__(self, coroutine: Coroutine[Any, Any, T], awaited: Any) -> None:
        self._coroutine = coroutine
        self._awaited = awaited
        self._taken_over = False
        """Whether the task has received what the coroutine waits for."""

    def send(self, value: Any, /) -> Any:
        if self._taken_over:
            return self._coroutine.send(value)
        return self._take_over()

    def throw(self, error: Any, /, *rest: Any) -> Any:
        if not self._taken_over:
            awaited = self._take_over()
            if isinstance(error, asyncio.CancelledError) and awaited is not None and awaited.cancel():
                # A task that is cancelled while it waits does the same: it cancels the future that it awaits,
                # and continues to wait for it.
                return awaited
        return self._coroutine.throw(error, *rest)

    def close(self) -> None:
        self._coroutine.close()

    def __await__(self) -> Generator[Any, Any, T]:
        raise NotImplementedError("only a task may run this")

    def _take_over(self) -> Any:
        self._taken_over = True
        awaited, self._awaited = self._awaited, None
        return awaited
