"""How much a node reads from Redis, by the number of nodes and by the number of channels it is subscribed to.

Simulated nodes, each with its own proxy to Redis that counts bytes; one more node publishes and has no
subscriptions. The same messages are published in each cluster, to every channel.
"""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

import uvloop
from broker_nodes import RETENTION, CountingNode, broker_node
from child_processes import RedisServer, redis_server
from counting_proxy import counting_proxy
from wsload_run import Row

from gateway.broker.base import Broker, Publication
from protocol.payload import payload_of

CHANNELS = [f"bench:{number}" for number in range(1000)]
DATA = payload_of({"text": "x" * 140})
CONCURRENT_PUBLISHES = 200


def measure_traffic(nodes: int, subscribed: int, rounds: int) -> Row:
    """Return what each of *nodes* reads of *rounds* publishes per channel, *subscribed* to that many."""
    with redis_server() as redis:
        return uvloop.run(_measure_traffic(redis, nodes, subscribed, rounds))


async def _measure_traffic(redis: RedisServer, nodes: int, subscribed: int, rounds: int) -> Row:
    """Subscribe node i to channels from i/nodes of them all on, so that few or many share each channel."""
    async with AsyncExitStack() as stack:
        counters = [CountingNode(f"n{number}") for number in range(nodes)]
        proxies = [await stack.enter_async_context(counting_proxy(redis.port)) for _ in counters]
        brokers: list[Broker] = []
        for number, (counter, proxy) in enumerate(zip(counters, proxies, strict=True)):
            first = number * len(CHANNELS) // nodes
            channels = (CHANNELS[first:] + CHANNELS[:first])[:subscribed]
            brokers.append(await stack.enter_async_context(broker_node(proxy.url, counter, channels)))
        publisher = await stack.enter_async_context(broker_node(redis.url, CountingNode("publisher")))
        bytes_before = [proxy.bytes_from_redis for proxy in proxies]
        entries_before = [_entries_read(broker) for broker in brokers]
        await _publish(publisher, rounds)
        for counter in counters:
            await counter.wait_until_delivered(subscribed * rounds)
        bytes_read = [
            proxy.bytes_from_redis - before for proxy, before in zip(proxies, bytes_before, strict=True)
        ]
        entries_read = [
            _entries_read(broker) - before for broker, before in zip(brokers, entries_before, strict=True)
        ]
    return {
        "nodes": nodes,
        "subscribed": subscribed,
        "published": rounds * len(CHANNELS),
        "delivered": sum(counter.delivered for counter in counters),
        "entries": max(entries_read),
        "KiB": sum(bytes_read) / len(bytes_read) / 1024,
        "max KiB": max(bytes_read) / 1024,
    }


async def _publish(broker: Broker, rounds: int) -> None:
    for _ in range(rounds):
        for begin in range(0, len(CHANNELS), CONCURRENT_PUBLISHES):
            channels = CHANNELS[begin : begin + CONCURRENT_PUBLISHES]
            await asyncio.gather(*(broker.publish(Publication(name, DATA, RETENTION)) for name in channels))


def _entries_read(broker: Broker) -> int:
    return broker.statistics()["entries"]
