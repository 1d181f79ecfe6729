"""Fixtures of most tests of the broker: a Redis, and nodes on it."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio

from tests.broker.redis_fleet import Fleet
from tests.broker.redis_proxy import Proxy
from tests.broker.redis_server import RedisServer, running_redis


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    """A Redis without persistence; files that need another kind override this."""
    with running_redis(tmp_path) as server:
        yield server


@pytest_asyncio.fixture
async def fleet(server: RedisServer) -> AsyncIterator[Fleet]:
    """Nodes on *server*."""
    async with Fleet(server.url) as fleet:
        yield fleet


@pytest_asyncio.fixture
async def proxy(server: RedisServer) -> AsyncIterator[Proxy]:
    """A proxy to *server* that can be paused."""
    async with Proxy(server.port) as proxy:
        yield proxy
