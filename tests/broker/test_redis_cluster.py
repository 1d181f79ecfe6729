"""The broker on a real Redis Cluster: the contract, moving slots, failovers of primaries."""

from collections.abc import AsyncIterator, Iterator
from itertools import count, islice
from pathlib import Path

import pytest
import pytest_asyncio

from gateway.broker.base import AckLevel
from gateway.broker.redis import RedisBroker, RedisOptions
from gateway.broker.redis.keys import Keys, shard_of
from gateway.errors import BrokerUnavailable
from protocol.messages import Gap
from tests.broker.contract import BrokerContract
from tests.broker.contract_machine import until_available
from tests.broker.recording_node import KEPT, Later, RecordingNode, publication, publish, values
from tests.broker.redis_cluster import RedisCluster, running_cluster
from tests.broker.redis_fleet import OPTIONS, Fleet, eventually, wait_until_rejected
from tests.broker.redis_server import RedisServer, running_redis

SHARDS = OPTIONS.cluster_shards
CHANNELS = [f"c{number}" for number in range(40)]
"""So many that every shard has some."""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisCluster]:
    with running_cluster(tmp_path_factory.mktemp("cluster")) as cluster:
        yield cluster


class TestClusterBroker(BrokerContract):
    KEY_TTL, META_TTL = 300.0, 3_600.0

    def create_broker(self, cluster: RedisCluster, prefix: str = "fanway") -> RedisBroker:
        options = RedisOptions(
            prefix=prefix, key_ttl=self.KEY_TTL, meta_ttl=self.META_TTL, start_timeout=10.0
        )
        return RedisBroker(cluster.urls, options, cluster=True)

    @pytest_asyncio.fixture
    async def broker(self, cluster: RedisCluster, node: RecordingNode) -> AsyncIterator[RedisBroker]:
        cluster.execute("FLUSHALL")
        broker = self.create_broker(cluster)
        await broker.start(node)
        yield broker
        await broker.close()

    @pytest_asyncio.fixture
    async def other(self, cluster: RedisCluster) -> AsyncIterator[RedisBroker]:
        other = self.create_broker(cluster, "another")
        await other.start(RecordingNode("n2"))
        yield other
        await other.close()

    @pytest.fixture
    def idle(self, cluster: RedisCluster) -> RedisBroker:
        cluster.execute("FLUSHALL")
        return self.create_broker(cluster)

    @pytest.fixture
    def node(self) -> RecordingNode:
        return RecordingNode()

    @pytest.fixture
    def later(self, cluster: RedisCluster) -> Later:
        async def later(seconds: float) -> None:
            cluster.age(seconds)

        return later

    @pytest.fixture
    def key_ttl(self) -> float:
        return self.KEY_TTL

    @pytest.fixture
    def meta_ttl(self) -> float:
        return self.META_TTL


async def test_the_shards_are_spread_over_all_primaries(cluster: RedisCluster) -> None:
    async with Fleet(*cluster.urls, cluster=True) as fleet:
        await fleet.launch()
        bases = [Keys("fanway", number).base for number in range(SHARDS)]
        ports = [cluster.primary_of(base).port for base in bases]
        assert set(ports) == {primary.port for primary in cluster.primaries}
        for base, port in zip(bases, ports, strict=True):
            server = next(primary for primary in cluster.primaries if primary.port == port)
            assert server.execute("EXISTS", f"{base}nodes") == 1


async def test_a_moved_slot_is_found_again_and_nothing_is_lost(cluster: RedisCluster) -> None:
    async with Fleet(*cluster.urls, cluster=True) as fleet:
        one, two = await fleet.launch(), await fleet.launch()
        await two.broker.subscribe("room", KEPT)
        await publish(one.broker, "room", 1, 2)
        base = Keys("fanway", shard_of("room", SHARDS)).base
        source = cluster.primary_of(base)
        target = next(primary for primary in cluster.primaries if primary is not source)
        cluster.move_slot(base, target)
        await publish(one.broker, "room", 3, 4)
        assert values(await two.node.messages(4)) == [1, 2, 3, 4]
        assert (await one.broker.read("room")).position.offset == 4
        assert target.execute("EXISTS", f"{base}nodes") == 1
        assert two.broker.statistics()["resets"] == one.broker.statistics()["resets"] == 0


async def test_while_a_slot_moves_existing_channels_work_and_new_ones_are_unavailable(
    cluster: RedisCluster,
) -> None:
    async with Fleet(*cluster.urls, cluster=True) as fleet:
        one = await fleet.launch()
        shard = shard_of("room", SHARDS)
        keys = Keys("fanway", shard)
        new, plain = islice((f"c{n}" for n in count() if shard_of(f"c{n}", SHARDS) == shard), 2)
        await one.broker.subscribe("room", KEPT)
        await one.broker.subscribe(plain, None)
        await publish(one.broker, "room", 1)
        target = next(
            primary for primary in cluster.primaries if primary is not cluster.primary_of(keys.base)
        )
        source, _ = cluster.begin_slot_move(keys.base, target)
        await wait_for_renewals(source, keys)
        await publish(one.broker, "room", 2)
        await one.broker.publish(publication(plain, 2, retention=None))
        with pytest.raises(BrokerUnavailable, match="slot of the Redis Cluster is moving"):
            await one.broker.publish(publication(new, 1))
        cluster.move_slot(keys.base, target)
        await publish(one.broker, new, 1)
        await publish(one.broker, "room", 3)
        assert values(await one.node.messages(4)) == [1, 2, 2, 3]
        assert one.notices == []


async def test_a_partly_moved_slot_does_not_lose_the_lease(cluster: RedisCluster) -> None:
    async with Fleet(*cluster.urls, cluster=True) as fleet:
        one = await fleet.launch()
        keys = Keys("fanway", shard_of("room", SHARDS))
        await one.broker.subscribe("room", KEPT)
        await publish(one.broker, "room", 1)
        target = next(
            primary for primary in cluster.primaries if primary is not cluster.primary_of(keys.base)
        )
        source, _ = cluster.begin_slot_move(keys.base, target)
        source.execute("MIGRATE", "127.0.0.1", target.port, keys.node_records, 0, 5_000)
        failures = one.broker.statistics()["failures"]
        await eventually(lambda: one.broker.statistics()["failures"] > failures + 3)
        await publish(one.broker, "room", 2)
        cluster.move_slot(keys.base, target)
        await wait_for_renewals(target, keys)
        await publish(one.broker, "room", 3)
        assert values(await one.node.messages(3)) == [1, 2, 3]
        assert one.notices == []
        assert one.broker.statistics()["incarnations"] == SHARDS


async def wait_for_renewals(server: RedisServer, keys: Keys) -> None:
    """Wait until the only node has renewed its lease at *server* three times."""
    (before,) = server.execute("HVALS", keys.beats)
    await eventually(lambda: int(server.execute("HVALS", keys.beats)[0]) >= int(before) + 3)


async def test_a_replica_replaces_a_killed_primary(tmp_path: Path) -> None:
    with running_cluster(tmp_path, replicas=1) as cluster:
        async with Fleet(*cluster.urls, cluster=True) as fleet:
            one, two = await fleet.launch(), await fleet.launch()
            for channel in CHANNELS:
                await two.broker.subscribe(channel, KEPT)
                await publish(one.broker, channel, "before", level=AckLevel.REPLICATED)
            await two.node.messages(len(CHANNELS))
            killed = primary_of_channel(cluster, CHANNELS[0])
            other_channel = next(each for each in CHANNELS if primary_of_channel(cluster, each) is not killed)
            killed.kill()
            # The other primaries work meanwhile.
            await publish(one.broker, other_channel, "meanwhile")
            (message,) = await two.node.messages(1)
            assert (message.channel, message.data.value) == (other_channel, "meanwhile")
            with pytest.raises(BrokerUnavailable):
                await one.broker.publish(publication(CHANNELS[0], "rejected"))

            async def accepted() -> bool:
                try:
                    await one.broker.publish(publication(CHANNELS[0], "after", key="after"))
                except BrokerUnavailable:
                    return False
                return True

            await eventually(accepted)
            received = await two.node.received(1)
            while isinstance(received[-1], Gap) or received[-1].message.data.value != "after":  # type: ignore[union-attr]
                received += await two.node.received(1)
            # The "rejected" publish may have been stored; the replicated one has been in any case.
            stored = values((await until_available(lambda: two.broker.read(CHANNELS[0]))).messages)
            assert [value for value in stored if value != "rejected"] == ["before", "after"]


async def test_a_killed_primary_without_a_replica_loses_only_its_own_channels(tmp_path: Path) -> None:
    with running_cluster(tmp_path) as cluster:
        for primary in cluster.primaries:
            primary.execute("CONFIG", "SET", "cluster-require-full-coverage", "no")
        async with Fleet(*cluster.urls, cluster=True) as fleet:
            one = await fleet.launch()
            killed = primary_of_channel(cluster, CHANNELS[0])
            unavailable = [channel for channel in CHANNELS if primary_of_channel(cluster, channel) is killed]
            killed.kill()
            for channel in CHANNELS:
                if channel in unavailable:
                    with pytest.raises(BrokerUnavailable):
                        await one.broker.publish(publication(channel, 1))
                else:
                    await publish(one.broker, channel, 1)
            assert one.broker.ready()


async def test_a_cluster_configured_as_a_single_server_reports_what_to_set(cluster: RedisCluster) -> None:
    async with Fleet(cluster.urls[0]) as fleet:
        one = await fleet.launch(start_timeout=0.0, prefix="lonely", shards_per_server=SHARDS)
        messages: set[str] = set()

        async def all_connected() -> bool:
            messages.clear()
            for channel in CHANNELS:
                try:
                    await one.broker.publish(publication(channel, 1))
                except BrokerUnavailable as error:
                    messages.add(str(error).partition(" (")[0])
            return "not connected to Redis yet" not in messages

        await eventually(all_connected)
        assert messages == {"this Redis belongs to a Cluster: set broker.cluster"}


async def test_a_single_server_configured_as_a_cluster_is_not_ready(tmp_path: Path) -> None:
    with running_redis(tmp_path) as server:
        async with Fleet(server.url, cluster=True) as fleet:
            await wait_until_rejected(await fleet.launch(start_timeout=0.0), "cluster support disabled")


def primary_of_channel(cluster: RedisCluster, channel: str) -> RedisServer:
    """Return the primary of *channel*."""
    return cluster.primary_of(Keys("fanway", shard_of(channel, SHARDS)).base)
