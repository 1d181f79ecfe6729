"""An event loop whose time a test sets: aiolimiter reads the time of the running loop."""

import asyncio
from collections.abc import Callable

from gateway.clock import FakeClock


class ClockLoop(asyncio.SelectorEventLoop):
    """A loop whose time is a clock's."""

    def __init__(self, clock: FakeClock) -> None:
        super().__init__()
        self.time = clock  # type: ignore[method-assign]


def run_with_clock(scenario: Callable[[FakeClock], None]) -> None:
    """Run *scenario* inside a loop, with the clock that is its time."""
    clock = FakeClock()

    async def run() -> None:
        scenario(clock)

    with asyncio.Runner(loop_factory=lambda: ClockLoop(clock)) as runner:
        runner.run(run())
