"""A loop on which time stands still until nothing else is left to do: an hour takes no time."""

import asyncio
import functools
import selectors
from collections.abc import Callable, Coroutine
from typing import Any, ParamSpec

from hypothesis import HealthCheck, settings

from gateway.clock import FakeClock

P = ParamSpec("P")

patient = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
"""For Hypothesis: what a busy machine takes is no fault of the code."""


class _Selector(selectors.SelectSelector):
    """Instead of waiting, moves the clock to the next timer; without one, nothing would ever happen again."""

    def __init__(self, clock: FakeClock) -> None:
        super().__init__()
        self.clock = clock

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if not ready and timeout is None:
            raise RuntimeError("everything waits, and nothing is left to happen")
        if not ready and timeout:
            self.clock.now += timeout
        return ready


class StandingLoop(asyncio.SelectorEventLoop):
    """The loop; `clock` is its time."""

    _ready: Any
    _scheduled: Any

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.failures: list[dict[str, Any]] = []
        super().__init__(_Selector(self.clock))
        self.time = self.clock  # type: ignore[method-assign]
        self.set_exception_handler(lambda _, context: self.failures.append(context))

    @property
    def busy(self) -> bool:
        """Whether anything can happen without time passing."""
        return bool(self._ready)

    @property
    def timers(self) -> int:
        """How many are set."""
        return sum(not timer.cancelled() for timer in self._scheduled)

    async def next_timer(self) -> None:
        """Let time pass until something happens by itself."""
        self.clock.now = max(self.clock.now, min(timer.when() for timer in self._scheduled))
        await quiet()


def the_loop() -> StandingLoop:
    """Return the loop that runs."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, StandingLoop)
    return loop


async def quiet() -> None:
    """Let everything happen that can without time passing."""
    loop = the_loop()
    turn = asyncio.sleep
    await turn(0)
    while loop.busy:
        await turn(0)


async def passed(seconds: float) -> None:
    """Let so much time pass, and everything happen that it makes due."""
    await asyncio.sleep(seconds)
    await quiet()


def standing(test: Callable[P, Coroutine[Any, Any, None]]) -> Callable[P, None]:
    """Run *test* on such a loop; it fails where a callback failed or a task is left."""

    @functools.wraps(test)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        async def whole() -> None:
            await test(*args, **kwargs)
            await quiet()
            left = asyncio.all_tasks() - {asyncio.current_task()}
            assert not left, left
            assert not the_loop().failures, the_loop().failures

        with asyncio.Runner(loop_factory=StandingLoop) as runner:
            runner.run(whole())

    return run
