"""Nodes without clients: what the broker of a gateway does, and nothing beside it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from multiprocessing import get_context
from multiprocessing.connection import Connection

import uvloop
from running import BenchError

from gateway.broker.base import Broker, ConnectionRecord, Envelope, NodeRecord, Retention
from gateway.broker.redis import RedisBroker

KEPT = Retention(100, 60.0)
"""As in fanway.toml."""
SECONDS = 30.0
"""For which a node may keep the bench waiting."""


class CountingNode:
    """Counts what it is handed."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.delivered = 0
        self._wanted = 0
        self._arrived = asyncio.Event()

    def deliver(self, envelope: Envelope) -> None:
        """Count *envelope*."""
        self.delivered += 1
        if self.delivered >= self._wanted:
            self._arrived.set()

    def connections(self, user: str) -> Sequence[ConnectionRecord]:
        """Know nobody."""
        return ()

    def subscribed_channels(self, prefix: str = "") -> Mapping[str, int]:
        """Say nothing of what is followed: nobody asks."""
        return {}

    def record(self) -> NodeRecord:
        """Return a name."""
        return NodeRecord(self.name, connections=0, channels=0, subscriptions=0, uptime=0.0)

    async def until(self, delivered: int) -> None:
        """Return once so many were *delivered* in all."""
        self._wanted = delivered
        self._arrived.clear()
        if self.delivered < delivered:
            async with asyncio.timeout(SECONDS):
                await self._arrived.wait()


@asynccontextmanager
async def node_at(url: str, node: CountingNode, channels: Sequence[str] = ()) -> AsyncIterator[Broker]:
    """Yield the broker of *node*, which follows *channels*."""
    broker = RedisBroker([url])
    await broker.start(node)
    try:
        if not broker.ready():
            raise BenchError(f"no Redis at {url}")
        await asyncio.gather(*(broker.subscribe(channel, KEPT) for channel in channels))
        yield broker
    finally:
        await broker.close()


@contextmanager
def listening(url: str, channels: Sequence[str]) -> Iterator[tuple[int, Connection]]:
    """Yield the id of another process that follows *channels*, and where to ask it.

    A number sent to it is answered once it has delivered as many messages in all.
    """
    context = get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=_listen, args=(url, list(channels), there))
    process.start()
    there.close()
    try:
        here.recv()
        yield process.pid or 0, here
    except EOFError:
        raise BenchError("a listening node ended early; what it said is above") from None
    finally:
        here.close()
        process.join()


def _listen(url: str, channels: Sequence[str], pipe: Connection) -> None:
    uvloop.run(_answering(url, channels, pipe))


async def _answering(url: str, channels: Sequence[str], pipe: Connection) -> None:
    loop, node = asyncio.get_running_loop(), CountingNode("listener")
    readable = asyncio.Event()
    async with node_at(url, node, channels):
        pipe.send(len(channels))
        loop.add_reader(pipe.fileno(), readable.set)
        while True:
            await readable.wait()
            readable.clear()
            try:
                wanted = pipe.recv()
            except EOFError:
                break
            await node.until(wanted)
            pipe.send(node.delivered)
        loop.remove_reader(pipe.fileno())
