"""An event loop with virtual time: where no callback is ready, its clock jumps to the next timer."""

import asyncio
import functools
import selectors
from collections.abc import Callable, Coroutine
from typing import Any, ParamSpec

from hypothesis import HealthCheck, settings

from gateway.clock import FakeClock

P = ParamSpec("P")

no_deadline = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
"""Settings for Hypothesis: a test must not fail because the machine is busy."""


class _Selector(selectors.SelectSelector):
    """Moves the clock to the next timer instead of waiting; raises where there is none: it would hang."""

    def __init__(self, clock: FakeClock) -> None:
        super().__init__()
        self.clock = clock

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if not ready and timeout is None:
            raise RuntimeError("deadlock: no callback is ready and no timer is set")
        if not ready and timeout:
            self.clock.now += timeout
        return ready


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """The loop; its time is `clock`."""

    _ready: Any
    _scheduled: Any

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.callback_errors: list[dict[str, Any]] = []
        super().__init__(_Selector(self.clock))
        self.time = self.clock  # type: ignore[method-assign]
        self.set_exception_handler(lambda _, context: self.callback_errors.append(context))

    @property
    def has_ready_callbacks(self) -> bool:
        """Whether a callback can run without time passing."""
        return bool(self._ready)

    @property
    def timer_count(self) -> int:
        """How many timers are set."""
        return sum(not timer.cancelled() for timer in self._scheduled)

    async def advance_to_next_timer(self) -> None:
        """Let time pass until the next timer, and run what it makes ready."""
        self.clock.now = max(self.clock.now, min(timer.when() for timer in self._scheduled))
        await until_idle()


def virtual_loop() -> VirtualTimeLoop:
    """Return the running loop."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualTimeLoop)
    return loop


async def until_idle() -> None:
    """Run callbacks until none is ready; no time passes."""
    loop = virtual_loop()
    next_turn = asyncio.sleep
    await next_turn(0)
    while loop.has_ready_callbacks:
        await next_turn(0)


async def advance(seconds: float) -> None:
    """Let so much time pass, and run what it makes ready."""
    await asyncio.sleep(seconds)
    await until_idle()


def on_virtual_time(test: Callable[P, Coroutine[Any, Any, None]]) -> Callable[P, None]:
    """Run *test* on a `VirtualTimeLoop`; it fails where a callback raised or a task is left."""

    @functools.wraps(test)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        async def whole() -> None:
            await test(*args, **kwargs)
            await until_idle()
            left = asyncio.all_tasks() - {asyncio.current_task()}
            assert not left, left
            assert not virtual_loop().callback_errors, virtual_loop().callback_errors

        with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
            runner.run(whole())

    return run
