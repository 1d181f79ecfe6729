"""What most tests of the broker begin with: a Redis of their own, and nodes on it."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio

from tests.broker.redis_fleet import Fleet
from tests.broker.redis_proxy import Proxy
from tests.broker.redis_server import RedisServer, serving


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    """A Redis that keeps nothing; a file that needs another kind has its own."""
    with serving(tmp_path) as server:
        yield server


@pytest_asyncio.fixture
async def fleet(server: RedisServer) -> AsyncIterator[Fleet]:
    """Nodes on *server*."""
    async with Fleet(server.url) as fleet:
        yield fleet


@pytest_asyncio.fixture
async def proxy(server: RedisServer) -> AsyncIterator[Proxy]:
    """A way to *server* that can be blocked."""
    async with Proxy(server.port) as proxy:
        yield proxy
