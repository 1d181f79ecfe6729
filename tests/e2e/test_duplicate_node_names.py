"""Two live nodes with one name: the second one logs a warning; one that replaces a dead node does not."""

import asyncio
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from tests.broker.redis_server import RedisServer, running_redis
from tests.e2e.clients import Client
from tests.e2e.gateway import TIMEOUT_SECONDS, GatewayProcess, gateway_process, publish


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[RedisServer]:
    (tmp_path / "redis").mkdir()
    with running_redis(tmp_path / "redis") as server:
        yield server


def node(home: Path, name: str, redis: RedisServer) -> AbstractContextManager[GatewayProcess]:
    home.mkdir()
    return gateway_process(
        home,
        NODE__NAME=name,
        BROKER__KIND="redis",
        BROKER__URL=redis.url,
        BROKER__LEASE="1s",
        DRAIN__WINDOW="0s",
        LOG__FORMAT="json",
    )


async def test_second_node_of_one_name_logs_a_warning_and_both_work(
    redis: RedisServer, tmp_path: Path
) -> None:
    with node(tmp_path / "crashed", "box", redis) as crashed:
        crashed.kill()
    with (
        node(tmp_path / "replaced", "box", redis) as replaced,
        node(tmp_path / "first", "twin", redis) as first,
        node(tmp_path / "second", "twin", redis) as second,
    ):
        async with asyncio.timeout(TIMEOUT_SECONDS):
            # Only the log of the node shows it.
            while "node name taken" not in second.stderr:  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        assert second.stderr.count("node name taken") == 1
        assert "node name taken" not in replaced.stderr, "it looked before"
        async with Client.open(first.public) as ann, Client.open(second.public) as bob:
            for client in (ann, bob):
                await client.call("subscribe", channel="room")
            for number, each in enumerate((first, second)):
                await publish(each.internal, "room", number)
            for client in (ann, bob):
                assert [(await client.next_push("message"))["data"] for _ in range(2)] == [0, 1]
