"""A `redis-server` whose clock is stepped while it runs."""

import contextlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from tests.broker.redis_server import RedisServer
from tests.chaos.ports import reserved
from tests.stepped_clock import SteppedClock


class SteppedRedis(RedisServer):
    """A server with a clock of its own."""

    def __init__(self, folder: Path, *options: str) -> None:
        super().__init__(folder, *options)
        self.clock = SteppedClock(folder)

    def _environment(self) -> Mapping[str, str]:
        return {**os.environ, **self.clock.environment}


@contextlib.contextmanager
def running_stepped_redis(folder: Path, *options: str) -> Iterator[SteppedRedis]:
    """Run a server until the end of the block."""
    with reserved() as port:
        server = SteppedRedis(folder, *options)
        server.port = port
        try:
            server.start()
            yield server
        finally:
            server.kill()
