"""A list of independent servers: each has its own channels, and an outage of one affects only these."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from gateway.broker.base import ChannelRecord
from gateway.broker.redis.keys import shard_of
from gateway.errors import BrokerUnavailable
from tests.broker.recording_node import KEPT, publication, publish, values
from tests.broker.redis_fleet import Fleet, eventually
from tests.broker.redis_server import RedisServer, running_redis


@contextmanager
def servers(folder: Path) -> Iterator[tuple[RedisServer, RedisServer]]:
    """Run two independent Redis servers."""
    folders = folder / "1", folder / "2"
    for each in folders:
        each.mkdir()
    with running_redis(folders[0]) as first, running_redis(folders[1]) as second:
        yield first, second


async def test_channels_are_spread_over_the_servers_and_one_outage_affects_only_its_own(
    tmp_path: Path,
) -> None:
    with servers(tmp_path) as (first, second):
        async with Fleet(first.url, second.url) as fleet:
            one, two = await fleet.launch(), await fleet.launch()
            channels = [f"c{n}" for n in range(20)]
            for channel in channels:
                await one.broker.subscribe(channel, KEPT)
                await publish(two.broker, channel, channel)
            assert sorted(values(await one.node.messages(20))) == sorted(channels)
            shares = [len(server.execute("KEYS", "*:log:*")) for server in (first, second)]
            assert sum(shares) == 20
            assert min(shares) > 0
            followed = await one.broker.subscribed_channels("c", after="", limit=100)
            assert list(followed.items) == []
            first.kill()
            outcomes = await asyncio.gather(
                *(two.broker.publish(publication(channel, 1)) for channel in channels), return_exceptions=True
            )
            assert [isinstance(each, BrokerUnavailable) for each in outcomes].count(True) == shares[0]
            await eventually(lambda: len(one.node.envelopes) == shares[1])
            assert two.broker.ready(), "half of the channels are available"


async def test_a_list_of_channels_is_partial_without_the_server_that_is_down(tmp_path: Path) -> None:
    with servers(tmp_path) as (first, second):
        async with Fleet(first.url, second.url) as fleet:
            one, two = await fleet.launch(), await fleet.launch()
            names = [f"c{n:02}" for n in range(20)]
            for member in (one, two):
                member.node.followed.update(dict.fromkeys(names, 1))
                for name in names:
                    await member.broker.subscribe(name, None)
            whole = await one.broker.subscribed_channels("c", after="", limit=100)
            assert list(whole.items) == [ChannelRecord(name, 2) for name in names]
            assert not whole.partial
            first.kill()
            left = [name for name in names if shard_of(name, 2) == 1]
            found = await one.broker.subscribed_channels("c", after="", limit=100)
            assert found.partial
            assert found.items == [ChannelRecord(name, 2) for name in left]
            assert [name for name in names if not found.is_missing(name)] == left
            paged: list[str] = []
            while True:
                page = await one.broker.subscribed_channels("c", after=paged[-1] if paged else "", limit=3)
                if not page.items:
                    break
                assert page.partial
                paged += [record.channel for record in page.items]
            assert paged == left
            second.kill()
            with pytest.raises(BrokerUnavailable):
                await one.broker.subscribed_channels("c", after="", limit=100)


async def test_channels_are_listed_by_name_across_shards(tmp_path: Path) -> None:
    with running_redis(tmp_path) as server:
        async with Fleet(server.url) as fleet:
            one = await fleet.launch(shards_per_server=3)
            two = await fleet.launch(shards_per_server=3)
            names = [f"c{n:02}" for n in range(30)]
            two.node.followed.update(dict.fromkeys(names, 2))
            for name in [*names, "c99"]:
                await two.broker.subscribe(name, None)
            found: list[str] = []
            while True:
                page = await one.broker.subscribed_channels("c", after=found[-1] if found else "", limit=7)
                if not page.items:
                    break
                found += [record.channel for record in page.items]
            assert found == names
