"""Nodes without clients: the Redis broker of a gateway, and nothing else."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from multiprocessing import get_context
from multiprocessing.connection import Connection

import uvloop
from child_processes import BenchError

from gateway.broker.base import Broker, ConnectionRecord, Envelope, NodeRecord, Retention
from gateway.broker.redis import RedisBroker

RETENTION = Retention(100, 60.0)
"""As in fanway.toml."""

DELIVERY_TIMEOUT_SECONDS = 30.0
"""How long to wait for the deliveries of a node."""


class CountingNode:
    """Counts the envelopes that its broker delivers."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.delivered = 0
        self._awaited_count = 0
        self._all_delivered = asyncio.Event()

    def deliver(self, envelope: Envelope) -> None:
        """Count *envelope*."""
        self.delivered += 1
        if self.delivered >= self._awaited_count:
            self._all_delivered.set()

    def connections(self, user: str) -> Sequence[ConnectionRecord]:
        """Return no connections: there are no clients."""
        return ()

    def subscribed_channels(
        self, prefix: str = "", *, after: str = "", limit: int | None = None
    ) -> Mapping[str, int]:
        """Return no channels: there are no clients."""
        del prefix, after, limit
        return {}

    def subscribers(self, channel: str) -> int:
        """Return 0: there are no clients."""
        del channel
        return 0

    def as_record(self) -> NodeRecord:
        """Return a record with the node's name."""
        return NodeRecord(self.name, connections=0, channels=0, subscriptions=0, uptime=0.0)

    async def wait_until_delivered(self, count: int) -> None:
        """Return once *count* envelopes were delivered in all."""
        self._awaited_count = count
        self._all_delivered.clear()
        if self.delivered < count:
            async with asyncio.timeout(DELIVERY_TIMEOUT_SECONDS):
                await self._all_delivered.wait()


@asynccontextmanager
async def broker_node(url: str, node: CountingNode, channels: Sequence[str] = ()) -> AsyncIterator[Broker]:
    """Run a broker on the Redis at *url* that delivers *channels* to *node*; yield the broker."""
    broker = RedisBroker([url])
    await broker.start(node)
    try:
        if not broker.ready():
            raise BenchError(f"no Redis at {url}")
        await asyncio.gather(*(broker.subscribe(channel, RETENTION) for channel in channels))
        yield broker
    finally:
        await broker.close()


@contextmanager
def subscriber_process(url: str, channels: Sequence[str]) -> Iterator[tuple[int, Connection]]:
    """Run a node that is subscribed to *channels* in another process; yield its pid and a pipe to it.

    A count sent through the pipe is answered once that many messages were delivered there in all, with their
    number.
    """
    context = get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=_run_subscriber, args=(url, list(channels), there))
    process.start()
    there.close()
    try:
        here.recv()
        yield process.pid or 0, here
    except EOFError:
        raise BenchError("the subscriber process exited early; its output is above") from None
    finally:
        here.close()
        process.join()


def _run_subscriber(url: str, channels: Sequence[str], pipe: Connection) -> None:
    uvloop.run(_answer_counts(url, channels, pipe))


async def _answer_counts(url: str, channels: Sequence[str], pipe: Connection) -> None:
    loop, node = asyncio.get_running_loop(), CountingNode("listener")
    readable = asyncio.Event()
    async with broker_node(url, node, channels):
        pipe.send(len(channels))
        loop.add_reader(pipe.fileno(), readable.set)
        while True:
            await readable.wait()
            readable.clear()
            try:
                count = pipe.recv()
            except EOFError:
                break
            await node.wait_until_delivered(count)
            pipe.send(node.delivered)
        loop.remove_reader(pipe.fileno())
