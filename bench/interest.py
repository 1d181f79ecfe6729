"""What a node reads from Redis: by how many nodes there are, and by how much it follows itself.

Simulated nodes, each with a way to Redis of its own that counts bytes; one more publishes and follows
nothing. The same is published in each cluster, to every channel.
"""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

import uvloop
from load import Row
from nodes import KEPT, CountingNode, node_at
from running import Redis, redis
from tap import tapped

from gateway.broker.base import Broker, Publication
from protocol.payload import payload_of

CHANNELS = [f"bench:{number}" for number in range(1000)]
DATA = payload_of({"text": "x" * 140})
TURN = 200
"""Publishes that are under way at once."""


def traffic(nodes: int, follows: int, rounds: int) -> Row:
    """Return what each of *nodes* reads and *follows* channels, at *rounds* publishes in each."""
    with redis() as store:
        return uvloop.run(_traffic(store, nodes, follows, rounds))


async def _traffic(store: Redis, nodes: int, follows: int, rounds: int) -> Row:
    """Let node i follow channels from i/nodes of them all on, so that few or many share each."""
    async with AsyncExitStack() as stack:
        every = [CountingNode(f"n{number}") for number in range(nodes)]
        taps = [await stack.enter_async_context(tapped(store.port)) for _ in every]
        brokers: list[Broker] = []
        for number, (node, tap) in enumerate(zip(every, taps, strict=True)):
            first = number * len(CHANNELS) // nodes
            followed = (CHANNELS[first:] + CHANNELS[:first])[:follows]
            brokers.append(await stack.enter_async_context(node_at(tap.url, node, followed)))
        publisher = await stack.enter_async_context(node_at(store.url, CountingNode("publisher")))
        told, entries = [tap.told for tap in taps], [_entries(broker) for broker in brokers]
        await _publish(publisher, rounds)
        for node in every:
            await node.until(follows * rounds)
        read = [tap.told - before for tap, before in zip(taps, told, strict=True)]
        entered = [_entries(broker) - before for broker, before in zip(brokers, entries, strict=True)]
    return {
        "nodes": nodes,
        "follows": follows,
        "published": rounds * len(CHANNELS),
        "delivered": sum(node.delivered for node in every),
        "entries": max(entered),
        "KiB": sum(read) / len(read) / 1024,
        "most KiB": max(read) / 1024,
    }


async def _publish(broker: Broker, rounds: int) -> None:
    for _ in range(rounds):
        for begin in range(0, len(CHANNELS), TURN):
            some = CHANNELS[begin : begin + TURN]
            await asyncio.gather(*(broker.publish(Publication(name, DATA, KEPT)) for name in some))


def _entries(broker: Broker) -> int:
    return broker.statistics()["entries"]
