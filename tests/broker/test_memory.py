from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from gateway.broker.memory import MemoryBroker
from gateway.clock import FakeClock
from tests.broker.contract import BrokerContract, Later
from tests.broker.node import RecordingNode

KEY_TTL, META_TTL = 300.0, 3_600.0


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def node() -> RecordingNode:
    return RecordingNode()


def made(clock: FakeClock, memory: int = 1024 * 1024) -> MemoryBroker:
    return MemoryBroker(memory=memory, key_ttl=KEY_TTL, meta_ttl=META_TTL, clock=clock, wall_clock=clock)


@pytest_asyncio.fixture
async def broker(clock: FakeClock, node: RecordingNode) -> AsyncIterator[MemoryBroker]:
    broker = made(clock)
    await broker.start(node)
    yield broker
    await broker.close()


class TestMemoryBroker(BrokerContract):
    @pytest_asyncio.fixture
    async def other(self, clock: FakeClock) -> AsyncIterator[MemoryBroker]:
        other = made(clock)
        await other.start(RecordingNode("n2"))
        yield other
        await other.close()

    @pytest.fixture
    def idle(self, clock: FakeClock) -> MemoryBroker:
        return made(clock)

    @pytest.fixture
    def later(self, clock: FakeClock, broker: MemoryBroker) -> Later:
        async def later(seconds: float) -> None:
            clock.advance(seconds)
            broker.sweep()

        return later

    @pytest.fixture
    def key_ttl(self) -> float:
        return KEY_TTL

    @pytest.fixture
    def meta_ttl(self) -> float:
        return META_TTL
