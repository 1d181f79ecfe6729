"""What the client takes from its platform: time, chance, and news of the network. Tests pass their own."""

from __future__ import annotations

import asyncio
import inspect
import random
import secrets
import time
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Protocol, TypeVar

T = TypeVar("T")

PlatformEvent = str
"""`online`, `offline`: the network is back, or gone; `wake`: the machine has slept, or the application was in
the background; `hide`: it goes there, and its socket may not stay open."""


class Timer(Protocol):
    """A callback that has not run yet."""

    def cancel(self) -> None:
        """Do not run it."""


class Environment(Protocol):
    """Time, chance, tasks and the network."""

    def now(self) -> float:
        """Return seconds, which go on while the machine sleeps."""

    def random(self) -> float:
        """Return a number in [0, 1), for the jitter."""

    def key(self) -> str:
        """Return a random string, for the key of a publish."""

    def call_later(self, seconds: float, callback: Callable[[], None]) -> Timer:
        """Call *callback* after *seconds*."""

    def call_soon(self, callback: Callable[[], None]) -> None:
        """Call *callback* after what runs now."""

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run *work*, which handles its own errors; return its task."""

    def online(self) -> bool:
        """Return whether the platform believes that it has a network."""


class AsyncioEnvironment:
    """The running event loop, and the tasks of one client in *tasks*."""

    def __init__(self, tasks: asyncio.TaskGroup) -> None:
        self._loop = asyncio.get_running_loop()
        self._tasks = tasks

    def now(self) -> float:
        return time.time()

    def random(self) -> float:
        return random.random()

    def key(self) -> str:
        return secrets.token_urlsafe(12)

    def call_later(self, seconds: float, callback: Callable[[], None]) -> Timer:
        return self._loop.call_later(seconds, callback)

    def call_soon(self, callback: Callable[[], None]) -> None:
        self._loop.call_soon(callback)

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        return self._tasks.create_task(work)

    def online(self) -> bool:
        return True


class Timers:
    """The timers of one client, so that the end of the client ends them all."""

    def __init__(self, environment: Environment) -> None:
        self._environment = environment
        self._timers: dict[object, Timer] = {}

    def call_later(self, seconds: float, callback: Callable[[], None]) -> Timer:
        """Call *callback* after *seconds*, unless `clear` comes first."""
        key = object()

        def run() -> None:
            self._timers.pop(key, None)
            callback()

        timer = self._timers[key] = self._environment.call_later(seconds, run)
        return _OwnTimer(self._timers, key, timer)

    def clear(self) -> None:
        """Cancel every timer."""
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()


class Tasks:
    """The tasks of one client, so that the end of the client ends them all."""

    def __init__(self, environment: Environment) -> None:
        self._environment = environment
        self._tasks: set[asyncio.Task[None]] = set()

    def __len__(self) -> int:
        """Return how many tasks run."""
        return len(self._tasks)

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run *work*, which handles its own errors; return its task."""
        task = self._environment.spawn(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def cancel(self) -> None:
        """Cancel every task but the present one: a callback of the application may stop the client."""
        for task in self._tasks - {asyncio.current_task()}:
            task.cancel()

    async def finished(self) -> None:
        """Return when no task is left but the present one."""
        while others := self._tasks - {asyncio.current_task()}:
            await asyncio.wait(others)


async def answer_of(answer: T | Awaitable[T], name: str) -> T:
    """Return what a callback of the application returned, awaited if it is awaitable.

    Raises:
        RuntimeError: It was cancelled, by somebody else than this client; *name* is that of the callback.
    """
    if not inspect.isawaitable(answer):
        return answer
    try:
        return await answer
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise
        raise RuntimeError(f"{name} was cancelled") from None


class _OwnTimer:
    __slots__ = ("_key", "_timer", "_timers")

    def __init__(self, timers: dict[object, Timer], key: object, timer: Timer) -> None:
        self._timers = timers
        self._key = key
        self._timer = timer

    def cancel(self) -> None:
        self._timers.pop(self._key, None)
        self._timer.cancel()
