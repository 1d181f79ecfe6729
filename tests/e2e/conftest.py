"""The Redis of most tests of outages: each has its own, which persists every acknowledged write."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.broker.redis_server import DURABLE, RedisServer, running_redis


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[RedisServer]:
    """A Redis that restarts with all acknowledged writes; some files override this fixture."""
    (tmp_path / "redis").mkdir()
    with running_redis(tmp_path / "redis", *DURABLE) as server:
        yield server
