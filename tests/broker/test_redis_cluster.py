"""The broker on a real Redis Cluster: the contract, and what only a Cluster does."""

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
from tests.broker.contract_machine import surely
from tests.broker.node import KEPT, Later, RecordingNode, publication, publish, values
from tests.broker.redis_cluster import RedisCluster, running_cluster
from tests.broker.redis_fleet import OPTIONS, Fleet, eventually, wait_until_rejected
from tests.broker.redis_server import RedisServer, running_redis

SHARDS = OPTIONS.cluster_shards
CHANNELS = [f"c{number}" for number in range(40)]
"""Enough to have some in every shard."""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisCluster]:
    with running_cluster(tmp_path_factory.mktemp("cluster")) as cluster:
        yield cluster


class TestClusterBroker(BrokerContract):
    KEY_TTL, META_TTL = 300.0, 3_600.0

    def made(self, cluster: RedisCluster, prefix: str = "fanway") -> RedisBroker:
        options = RedisOptions(
            prefix=prefix, key_ttl=self.KEY_TTL, meta_ttl=self.META_TTL, start_timeout=10.0
        )
        return RedisBroker(cluster.urls, options, cluster=True)

    @pytest_asyncio.fixture
    async def broker(self, cluster: RedisCluster, node: RecordingNode) -> AsyncIterator[RedisBroker]:
        cluster.execute("FLUSHALL")
        broker = self.made(cluster)
        await broker.start(node)
        yield broker
        await broker.close()

    @pytest_asyncio.fixture
    async def other(self, cluster: RedisCluster) -> AsyncIterator[RedisBroker]:
        other = self.made(cluster, "another")
        await other.start(RecordingNode("n2"))
        yield other
        await other.close()

    @pytest.fixture
    def idle(self, cluster: RedisCluster) -> RedisBroker:
        cluster.execute("FLUSHALL")
        return self.made(cluster)

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


async def test_every_primary_has_its_share_of_the_shards(cluster: RedisCluster) -> None:
    async with Fleet(*cluster.urls, cluster=True) as fleet:
        await fleet.launch()
        bases = [Keys("fanway", number).base for number in range(SHARDS)]
        owners = [cluster.primary_of(base).port for base in bases]
        assert set(owners) == {primary.port for primary in cluster.primaries}
        for base, port in zip(bases, owners, strict=True):
            server = next(primary for primary in cluster.primaries if primary.port == port)
            assert server.execute("EXISTS", f"{base}nodes") == 1


async def test_a_slot_that_moves_is_followed_and_nothing_is_lost(cluster: RedisCluster) -> None:
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


async def test_while_a_slot_moves_what_is_there_goes_on_and_what_is_new_waits(cluster: RedisCluster) -> None:
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
        await renewed(source, keys)
        await publish(one.broker, "room", 2)
        await one.broker.publish(publication(plain, 2, retention=None))
        with pytest.raises(BrokerUnavailable, match="slot of the Redis Cluster is moving"):
            await one.broker.publish(publication(new, 1))
        cluster.move_slot(keys.base, target)
        await publish(one.broker, new, 1)
        await publish(one.broker, "room", 3)
        assert values(await one.node.messages(4)) == [1, 2, 2, 3]
        assert one.notices == []


async def test_a_slot_that_has_moved_in_part_costs_no_lease(cluster: RedisCluster) -> None:
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
        await renewed(target, keys)
        await publish(one.broker, "room", 3)
        assert values(await one.node.messages(3)) == [1, 2, 3]
        assert one.notices == []
        assert one.broker.statistics()["incarnations"] == SHARDS


async def renewed(server: RedisServer, keys: Keys) -> None:
    """Wait until the only node has renewed its lease at *server*, three times."""
    (before,) = server.execute("HVALS", keys.beats)
    await eventually(lambda: int(server.execute("HVALS", keys.beats)[0]) >= int(before) + 3)


async def test_a_replica_takes_over_from_a_primary_that_dies(tmp_path: Path) -> None:
    with running_cluster(tmp_path, replicas=1) as cluster:
        async with Fleet(*cluster.urls, cluster=True) as fleet:
            one, two = await fleet.launch(), await fleet.launch()
            for channel in CHANNELS:
                await two.broker.subscribe(channel, KEPT)
                await publish(one.broker, channel, "before", level=AckLevel.REPLICATED)
            await two.node.messages(len(CHANNELS))
            victim = owner_of(cluster, CHANNELS[0])
            elsewhere = next(each for each in CHANNELS if owner_of(cluster, each) is not victim)
            victim.kill()
            # The others go on meanwhile.
            await publish(one.broker, elsewhere, "meanwhile")
            (message,) = await two.node.messages(1)
            assert (message.channel, message.data.value) == (elsewhere, "meanwhile")
            with pytest.raises(BrokerUnavailable):
                await one.broker.publish(publication(CHANNELS[0], "in vain"))

            async def taken_over() -> bool:
                try:
                    await one.broker.publish(publication(CHANNELS[0], "after", key="after"))
                except BrokerUnavailable:
                    return False
                return True

            await eventually(taken_over)
            heard = await two.node.received(1)
            while isinstance(heard[-1], Gap) or heard[-1].message.data.value != "after":  # type: ignore[union-attr]
                heard += await two.node.received(1)
            # What was "in vain" may have been stored; what was replicated is there in any case.
            kept = values((await surely(lambda: two.broker.read(CHANNELS[0]))).messages)
            assert [value for value in kept if value != "in vain"] == ["before", "after"]


async def test_a_primary_without_a_replica_takes_only_its_own_channels_with_it(tmp_path: Path) -> None:
    with running_cluster(tmp_path) as cluster:
        for primary in cluster.primaries:
            primary.execute("CONFIG", "SET", "cluster-require-full-coverage", "no")
        async with Fleet(*cluster.urls, cluster=True) as fleet:
            one = await fleet.launch()
            victim = owner_of(cluster, CHANNELS[0])
            lost = [channel for channel in CHANNELS if owner_of(cluster, channel) is victim]
            victim.kill()
            for channel in CHANNELS:
                if channel in lost:
                    with pytest.raises(BrokerUnavailable):
                        await one.broker.publish(publication(channel, 1))
                else:
                    await publish(one.broker, channel, 1)
            assert one.broker.ready()


async def test_a_cluster_that_is_taken_for_a_single_server_says_what_to_set(cluster: RedisCluster) -> None:
    async with Fleet(cluster.urls[0]) as fleet:
        one = await fleet.launch(start_timeout=0.0, prefix="lonely", shards_per_server=SHARDS)
        told: set[str] = set()

        async def all_told() -> bool:
            told.clear()
            for channel in CHANNELS:
                try:
                    await one.broker.publish(publication(channel, 1))
                except BrokerUnavailable as refused:
                    told.add(str(refused).partition(" (")[0])
            return "not connected to Redis yet" not in told

        await eventually(all_told)
        assert told == {"this Redis belongs to a Cluster: set broker.cluster"}


async def test_a_single_server_that_is_taken_for_a_cluster_is_not_ready(tmp_path: Path) -> None:
    with running_redis(tmp_path) as server:
        async with Fleet(server.url, cluster=True) as fleet:
            await wait_until_rejected(await fleet.launch(start_timeout=0.0), "cluster support disabled")


def owner_of(cluster: RedisCluster, channel: str) -> RedisServer:
    """Return the node that has *channel* now."""
    return cluster.primary_of(Keys("fanway", shard_of(channel, SHARDS)).base)
