"""Memory that many callers or a slow node can take, in Redis and in a node: each kind has a total."""

import asyncio
from typing import Any

import pytest

from gateway.broker.base import Delivery
from gateway.broker.redis.keys import Keys
from gateway.broker.redis.operations.recent_count import BUCKETS, RecentCount
from gateway.broker.redis.scripts.registry import BYTES_PER_ENTRY, LARGE_BODY
from gateway.clock import FakeClock
from gateway.errors import BrokerUnavailable
from protocol.messages import Gap
from tests.broker.recording_node import publication, publish
from tests.broker.redis_fleet import Fleet, RunningNode, eventually
from tests.broker.redis_proxy import Proxy
from tests.broker.redis_server import RedisServer
from tests.broker.test_redis_nodes import LONG

KEYS = Keys("fanway", 0)

INBOX_LIMIT = 1_000
INBOX_BYTES = INBOX_LIMIT * BYTES_PER_ENTRY
BODY = "x" * 64 * 1024


def incarnation_of(server: RedisServer, channel: str) -> str:
    """Return the only node that is routed for *channel*."""
    (node,) = server.execute("SMEMBERS", KEYS.route(channel))
    return str(node.decode())


def counted_bytes(server: RedisServer, node: str) -> int:
    return int(server.execute("HGET", KEYS.state, f"in:{node}") or 0)


def stored_bytes(server: RedisServer, node: str) -> int:
    """Return the bytes of the large bodies that are really in the inbox of *node*."""
    bodies = [fields[b"b"] for _, fields in server.execute("XRANGE", KEYS.inbox(node), "-", "+")]
    return sum(len(body) for body in bodies if len(body) > LARGE_BODY)


# ---------------------------------------------------------------- the inbox of a slow node


async def test_the_inbox_of_a_node_that_does_not_read_is_bounded_in_bytes(
    server: RedisServer, fleet: Fleet, proxy: Proxy
) -> None:
    """Beyond the bound the node heals what has a history, and reports a gap for what has none."""
    slow = await fleet.launch(proxy.url, inbox_limit=INBOX_LIMIT)
    other = await fleet.launch(inbox_limit=INBOX_LIMIT)
    await slow.broker.subscribe("kept", LONG)
    await slow.broker.subscribe("not", None)
    node = incarnation_of(server, "kept")
    proxy.hold()
    used: list[int] = []
    ids = []
    for number in range(3 * INBOX_BYTES // len(BODY)):
        ids += await publish(other.broker, "kept", BODY + str(number), retention=LONG)
        used.append(server.execute("MEMORY", "USAGE", KEYS.inbox(node), "SAMPLES", 0))
    assert INBOX_BYTES / 2 < max(used) < 1.3 * INBOX_BYTES, "a body, and what Redis adds to each"
    assert counted_bytes(server, node) == stored_bytes(server, node)
    proxy.release()
    await eventually(lambda: Gap("not", "reset", None) in slow.node.envelopes)
    await eventually(lambda: delivered(slow, "kept") == ids)
    assert slow.broker.statistics()["inbox_overflows"] == 1
    await publish(other.broker, "not", "after", retention=None)
    await eventually(lambda: delivered(slow, "not") == [None])
    assert counted_bytes(server, node) == stored_bytes(server, node)


async def test_a_node_that_reads_never_reaches_the_bound(server: RedisServer, fleet: Fleet) -> None:
    one = await fleet.launch(inbox_limit=INBOX_LIMIT)
    await one.broker.subscribe("room", None)
    node = incarnation_of(server, "room")
    values = ["small", "x" * 20_000, "y" * LARGE_BODY, "z" * 50_000] * (2 * INBOX_BYTES // 70_000)
    for value in values:
        await publish(one.broker, "room", value, retention=None)
        await one.node.messages(1)
    assert one.broker.statistics()["inbox_overflows"] == 0
    # The entry that was read last stays.
    await eventually(lambda: counted_bytes(server, node) == stored_bytes(server, node) < 60_000)


def delivered(one: RunningNode, channel: str) -> list[Any]:
    found = [each.message for each in one.node.envelopes if isinstance(each, Delivery)]
    return [message.message for message in found if message.channel == channel]


async def test_a_reaped_node_leaves_no_count(server: RedisServer, fleet: Fleet) -> None:
    one = await fleet.launch()
    await one.broker.subscribe("room", None)
    await publish(one.broker, "room", BODY, retention=None)
    node = incarnation_of(server, "room")
    await one.broker.close()
    fields = [name.decode() for name in server.execute("HKEYS", KEYS.state)]
    assert not [name for name in fields if name.startswith(("in:", "emptied:"))], (node, fields)


# ---------------------------------------------------------------- calls that wait for Redis


async def test_calls_that_wait_for_redis_have_a_total_over_all_shards(fleet: Fleet, proxy: Proxy) -> None:
    limit = 4 * 1024 * 1024
    one = await fleet.launch(proxy.url, shards_per_server=8, pending_max_bytes=limit)
    proxy.hold()
    publishes = [
        asyncio.ensure_future(one.broker.publish(publication(f"c{number}", BODY))) for number in range(200)
    ]
    await asyncio.wait(publishes, return_when=asyncio.FIRST_COMPLETED)
    rejected = [each for each in publishes if each.done()]
    errors = [each.exception() for each in rejected]
    assert all(isinstance(error, BrokerUnavailable) and error.retry_after > 0 for error in errors)
    figures = one.broker.statistics()
    assert limit * 0.8 < figures["pending_bytes"] <= limit
    assert figures["pending_rejected"] == len(rejected)
    proxy.release()
    results = await asyncio.gather(*publishes, return_exceptions=True)
    assert sum(isinstance(result, Exception) for result in results) == len(rejected)
    await eventually(lambda: one.broker.statistics()["pending_bytes"] == 0)


async def test_one_shard_takes_half_of_that_total_at_most(fleet: Fleet, proxy: Proxy) -> None:
    limit = 4 * 1024 * 1024
    one = await fleet.launch(proxy.url, shards_per_server=2, pending_max_bytes=limit)
    proxy.hold()
    publishes = [asyncio.ensure_future(one.broker.publish(publication("c", BODY))) for _ in range(100)]
    await asyncio.wait(publishes, return_when=asyncio.FIRST_COMPLETED)
    assert one.broker.statistics()["pending_bytes"] <= limit / 2
    proxy.release()
    await asyncio.gather(*publishes, return_exceptions=True)


# ---------------------------------------------------------------- entries that channels hold


async def test_entries_held_during_backfills_have_a_total_over_all_channels(
    server: RedisServer, fleet: Fleet, proxy: Proxy
) -> None:
    """What is not held is read from history: every message comes once, in order."""
    limit = 16 * 1024
    away, other = await fleet.launch(proxy.url, held_max_bytes=limit), await fleet.launch()
    names = [f"c{number}" for number in range(40)]
    for name in names:
        await away.broker.subscribe(name, LONG)
    ids = {name: await publish(other.broker, name, 0, retention=LONG) for name in names}
    await eventually(lambda: len(away.node.envelopes) == len(names))
    # The first of these is lost for the node, so that each channel reads its history.
    proxy.hold()
    node = incarnation_of(server, names[0])
    for name in names:
        ids[name] += await publish(other.broker, name, 1, retention=LONG)
    server.execute("XTRIM", KEYS.inbox(node), "MAXLEN", 0)
    for turn in range(5):
        for name in names:
            ids[name] += await publish(other.broker, name, "x" * 400 + str(turn), retention=LONG)
    held: list[int] = []
    proxy.release()

    async def complete() -> bool:
        held.append(away.broker.statistics()["held_bytes"])
        await asyncio.sleep(0)
        return all(delivered(away, name) == ids[name] for name in names)

    await eventually(complete)
    figures = away.broker.statistics()
    assert 0 < max(held) <= limit
    assert figures["held_dropped"] > 0
    await eventually(lambda: away.broker.statistics()["held_bytes"] == 0)


# ---------------------------------------------------------------- idempotency keys


async def test_the_keys_that_redis_remembers_are_counted(server: RedisServer, fleet: Fleet) -> None:
    one = await fleet.launch()
    for number in range(5):
        for _ in range(2):
            await one.broker.publish(publication("room", number, key=f"k{number}"))
    await publish(one.broker, "room", "without")
    stored = len(server.execute("KEYS", "fanway:{0}:key:*"))
    assert one.broker.statistics()["keys"] == stored == 5


@pytest.mark.parametrize("gap", [0.0, 1.0, 7.0])
def test_a_count_forgets_what_is_older_than_its_time(gap: float) -> None:
    clock = FakeClock()
    count = RecentCount(60.0, clock)
    for _ in range(100):
        count.add()
        clock.advance(gap)
    expected = 100 if gap == 0 else 60.0 / gap
    assert abs(count.value - expected) <= 100 / BUCKETS + 1
    clock.advance(61.0)
    assert count.value == 0
