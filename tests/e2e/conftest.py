"""What most tests of outages begin with: a Redis of their own that keeps what it was told."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.broker.redis_server import DURABLE, RedisServer, running_redis


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[RedisServer]:
    """A Redis that comes back with all it had acknowledged; a file that needs another kind has its own."""
    (tmp_path / "redis").mkdir()
    with running_redis(tmp_path / "redis", *DURABLE) as server:
        yield server
