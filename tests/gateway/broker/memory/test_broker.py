from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from gateway.broker.base import Retention
from gateway.broker.memory.broker import SWEEP_SECONDS, MemoryBroker
from gateway.broker.memory.channel_log import ENTRY_OVERHEAD_BYTES
from gateway.clock import FakeClock
from gateway.errors import BrokerFull
from protocol.position import MessageId
from tests.broker.contract import BrokerContract
from tests.broker.recording_node import Later, RecordingNode, publication, publish, values
from tests.gateway.virtual_time import advance, on_virtual_time, virtual_loop

KEY_TTL, META_TTL = 300.0, 3_600.0


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def node() -> RecordingNode:
    return RecordingNode()


def memory_broker(clock: FakeClock, memory: int = 1024 * 1024) -> MemoryBroker:
    return MemoryBroker(
        memory=memory, key_ttl=KEY_TTL, meta_ttl=META_TTL, sweep_interval=0, clock=clock, wall_clock=clock
    )


@pytest_asyncio.fixture
async def broker(clock: FakeClock, node: RecordingNode) -> AsyncIterator[MemoryBroker]:
    broker = memory_broker(clock)
    await broker.start(node)
    yield broker
    await broker.close()


class TestMemoryBroker(BrokerContract):
    @pytest_asyncio.fixture
    async def other(self, clock: FakeClock) -> AsyncIterator[MemoryBroker]:
        other = memory_broker(clock)
        await other.start(RecordingNode("n2"))
        yield other
        await other.close()

    @pytest.fixture
    def idle(self, clock: FakeClock) -> MemoryBroker:
        return memory_broker(clock)

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


@on_virtual_time
async def test_the_broker_sweeps_periodically_between_start_and_close() -> None:
    clock = virtual_loop().clock
    broker = MemoryBroker(meta_ttl=META_TTL, clock=clock, wall_clock=clock)
    for _ in range(2):
        await broker.start(RecordingNode())
        await publish(broker, "a", 1, retention=Retention(5, 1.0))
        assert broker.statistics()["bytes"] == bytes_for(1)
        await advance(SWEEP_SECONDS + 1.0)
        assert broker.statistics()["bytes"] == ENTRY_OVERHEAD_BYTES
        await advance(META_TTL)
        assert broker.statistics()["channels"] == 0
        await broker.close()
    assert virtual_loop().timer_count == 0


@on_virtual_time
async def test_a_failed_sweep_is_reported() -> None:
    class Unsweepable(MemoryBroker):
        def sweep_slice(self) -> bool:
            raise ValueError("a bug")

    reported: list[BaseException] = []
    broker = Unsweepable(on_error=reported.append)
    await broker.start(RecordingNode())
    await advance(SWEEP_SECONDS)
    await broker.close()
    assert [str(each) for each in reported] == ["a bug"]


# ---------------------------------------------------------------- bounds


def bytes_for(count: int, data: int = 1) -> int:
    """Return the memory in which *count* messages of one channel have room, each of *data* bytes."""
    return ENTRY_OVERHEAD_BYTES + count * (ENTRY_OVERHEAD_BYTES + data)


async def started_broker(clock: FakeClock, memory: int) -> tuple[MemoryBroker, RecordingNode]:
    broker, node = memory_broker(clock, memory), RecordingNode()
    await broker.start(node)
    return broker, node


async def test_a_full_broker_rejects_a_publish_without_any_effect(clock: FakeClock) -> None:
    broker, node = await started_broker(clock, bytes_for(3))
    ids = await publish(broker, "a", 1, 2, 3)
    before = broker.statistics()
    assert before["bytes"] == before["bytes_limit"] == bytes_for(3)
    node.envelopes.clear()
    for wrong in (
        publication("a", 4),
        publication("b", 4),
        publication("a", 4, key="k"),
        publication("a", 4, key="k", retention=None),
    ):
        with pytest.raises(BrokerFull, match=f"{bytes_for(3)} bytes of at most {bytes_for(3)}"):
            await broker.publish(wrong)
    assert node.envelopes == []
    assert broker.statistics() == {**before, "refused": 4}
    page = await broker.read("a")
    assert (values(page.messages), page.position) == ([1, 2, 3], ids[-1])
    assert (await broker.read("b")).position.offset == 0


async def test_a_full_broker_delivers_messages_that_are_not_stored(clock: FakeClock) -> None:
    broker, node = await started_broker(clock, 1)
    await publish(broker, "a", 1, retention=None)
    assert len(node.envelopes) == 1


async def test_a_full_broker_accepts_a_message_that_replaces_one_of_its_channel(clock: FakeClock) -> None:
    broker, _ = await started_broker(clock, bytes_for(5))
    await publish(broker, "a", *range(9))
    assert values((await broker.read("a")).messages) == [4, 5, 6, 7, 8]
    with pytest.raises(BrokerFull):
        await publish(broker, "a", "ten bytes more")
    with pytest.raises(BrokerFull):
        await publish(broker, "a", 9, key="k")
    assert values((await broker.read("a")).messages) == [4, 5, 6, 7, 8]


async def test_a_full_broker_drops_expired_messages_first(clock: FakeClock) -> None:
    broker, _ = await started_broker(clock, bytes_for(2))
    await publish(broker, "a", 1, 2, retention=Retention(5, 10.0))
    clock.advance(10.0)
    await publish(broker, "a", 3)
    assert values((await broker.read("a")).messages) == [3]


async def test_a_full_broker_drops_what_has_expired_within_a_second(clock: FakeClock) -> None:
    broker, _ = await started_broker(clock, bytes_for(2))
    clock.advance(1.0)
    await publish(broker, "a", 1, 2, retention=Retention(5, 0.25))
    with pytest.raises(BrokerFull):
        await publish(broker, "b", 1)
    clock.advance(0.5)
    with pytest.raises(BrokerFull):
        await publish(broker, "b", 1)
    clock.advance(0.5)
    await publish(broker, "b", 1, retention=Retention(5, 1.0))


async def test_bytes_are_counted_for_a_log_that_the_sweep_for_room_removed(clock: FakeClock) -> None:
    broker, _ = await started_broker(clock, bytes_for(2))
    await publish(broker, "a", 1, 2, retention=Retention(5, 1.0))
    clock.advance(1.0 + META_TTL)
    await publish(broker, "a", 1, 2)
    statistics = broker.statistics()
    assert statistics["bytes"] == statistics["bytes_limit"]


async def test_receipts_count_toward_the_memory_limit(clock: FakeClock) -> None:
    broker, _ = await started_broker(clock, 6 * ENTRY_OVERHEAD_BYTES)
    await publish(broker, "a", 0)
    for n in range(3):
        await publish(broker, "a", n, key=f"k{n}", retention=None)
    with pytest.raises(BrokerFull):
        await publish(broker, "a", 4, key="k4", retention=None)
    assert (await broker.publish(publication("a", 1, key="k1"))).replayed
    clock.advance(KEY_TTL)
    await publish(broker, "a", 4, key="k4", retention=None)
    assert broker.statistics()["keys"] == 1


async def test_receipts_use_half_of_the_memory_and_leave_the_rest_to_histories(clock: FakeClock) -> None:
    broker, _ = await started_broker(clock, 20 * ENTRY_OVERHEAD_BYTES)
    for n in range(10):
        await publish(broker, "a", n, key=f"k{n}", retention=None)
    with pytest.raises(BrokerFull, match="10 idempotency keys"):
        await publish(broker, "a", 10, key="k10", retention=None)
    assert broker.statistics()["keys"] == broker.statistics()["keys_limit"] == 10
    assert broker.statistics()["refused"] == 1
    assert (await broker.publish(publication("a", 1, key="k1", retention=None))).replayed
    await publish(broker, "a", 10, 11)
    assert values((await broker.read("a")).messages) == [10, 11], "publishes without a key go on"
    clock.advance(KEY_TTL)
    await publish(broker, "a", 12, key="k10")


async def test_tags_count_toward_the_memory_limit(clock: FakeClock) -> None:
    broker, _ = await started_broker(clock, bytes_for(1) + 100)
    with pytest.raises(BrokerFull):
        await publish(broker, "a", 1, tags={"k": "v" * 100})
    await publish(broker, "a", 1, tags={"k": "v" * 99})
    assert broker.statistics()["bytes"] == bytes_for(1) + 100


async def test_all_bytes_are_free_after_everything_expired(clock: FakeClock, broker: MemoryBroker) -> None:
    for channel in ("a", "b", "c"):
        await publish(broker, channel, *range(9), tags={"k": "v"})
    await publish(broker, "d", 1, key="k", retention=None)
    await broker.clear("b")
    clock.advance(300.0)
    assert values((await broker.read("a")).messages) == []
    assert repr(broker) != "<MemoryBroker <Store 0 channels 0 bytes>>"
    broker.sweep()
    assert broker.statistics()["bytes"] == 3 * ENTRY_OVERHEAD_BYTES
    clock.advance(META_TTL)
    broker.sweep()
    statistics = broker.statistics()
    assert (statistics["bytes"], statistics["channels"], statistics["keys"]) == (0, 0, 0)
    assert repr(broker) == "<MemoryBroker <Store 0 channels 0 bytes>>"


async def test_expired_messages_and_keys_have_no_effect_before_the_sweep(
    clock: FakeClock, broker: MemoryBroker
) -> None:
    (id,) = await publish(broker, "a", 1, key="k")
    clock.advance(KEY_TTL)
    page = await broker.read("a")
    assert (list(page.messages), page.position) == ([], id)
    assert not (await broker.publish(publication("a", 2, key="k"))).replayed


async def test_removing_one_log_keeps_the_initial_positions_of_other_channels(
    clock: FakeClock, broker: MemoryBroker
) -> None:
    beginnings = {name: (await broker.read(name)).position for name in map(str, range(200))}
    await publish(broker, "a", 1)
    clock.advance(300.0 + META_TTL)
    broker.sweep()
    confirmed = [(await broker.read(name, since=since)).recovered for name, since in beginnings.items()]
    assert sum(confirmed) >= 199


async def test_reads_and_subscribes_take_no_memory(broker: MemoryBroker) -> None:
    before = broker.statistics()
    for n in range(100):
        await broker.subscribe(f"c{n}", Retention(5, 300.0))
        await broker.read(f"c{n}", since=MessageId(3, "x"))
        await broker.clear(f"c{n}")
        await broker.leave(f"c{n}", "c1")
        await broker.presence(f"c{n}")
    assert broker.statistics() == before
