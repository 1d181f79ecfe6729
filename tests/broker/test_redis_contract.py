from collections.abc import AsyncIterator, Iterator

import pytest
import pytest_asyncio

from gateway.broker.redis import RedisBroker, RedisOptions
from tests.broker.contract import BrokerContract
from tests.broker.recording_node import Later, RecordingNode
from tests.broker.redis_server import RedisServer, running_redis

KEY_TTL, META_TTL = 300.0, 3_600.0


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with running_redis(tmp_path_factory.mktemp("redis")) as server:
        yield server


def made(server: RedisServer, prefix: str = "fanway", shards: int = 1) -> RedisBroker:
    options = RedisOptions(
        prefix=prefix, shards_per_server=shards, key_ttl=KEY_TTL, meta_ttl=META_TTL, start_timeout=5.0
    )
    return RedisBroker([server.url], options)


class TestRedisBroker(BrokerContract):
    SHARDS = 1

    @pytest_asyncio.fixture
    async def broker(self, server: RedisServer, node: RecordingNode) -> AsyncIterator[RedisBroker]:
        server.execute("FLUSHALL")
        broker = made(server, shards=self.SHARDS)
        await broker.start(node)
        yield broker
        await broker.close()

    @pytest_asyncio.fixture
    async def other(self, server: RedisServer) -> AsyncIterator[RedisBroker]:
        other = made(server, "another")
        await other.start(RecordingNode("n2"))
        yield other
        await other.close()

    @pytest.fixture
    def idle(self, server: RedisServer) -> RedisBroker:
        server.execute("FLUSHALL")
        return made(server, shards=self.SHARDS)

    @pytest.fixture
    def node(self) -> RecordingNode:
        return RecordingNode()

    @pytest.fixture
    def later(self, server: RedisServer) -> Later:
        async def later(seconds: float) -> None:
            server.age(seconds)

        return later

    @pytest.fixture
    def key_ttl(self) -> float:
        return KEY_TTL

    @pytest.fixture
    def meta_ttl(self) -> float:
        return META_TTL


class TestThreeShards(TestRedisBroker):
    SHARDS = 3
