"""Three gateways at one Redis, each by a way of its own, and what may befall the Redis."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, Self

import redis.asyncio

from tests.broker.redis_server import RedisServer, running_redis
from tests.chaos.flow import CLEAR, Line
from tests.chaos.history import History, Reset
from tests.chaos.node import Node
from tests.chaos.ports import HOST
from tests.chaos.proxy import Proxy

NODES = 3
CLIENTS, EACH = 300, 3
CHANNELS = [f"c{number}" for number in range(100)]

LEASE = 3.0
"""Seconds: the ten of the default take too long, and less too little: nodes wait a third of it for Redis."""

CONFIG = """
[channels.default]
subscribe = "anyone"
history = 2000

[channels.short]
history = 5

[channels.room]
presence = true
join_leave = true
"""

_AOF = ("--appendonly", "yes", "--auto-aof-rewrite-percentage", "0")
DURABLE = (*_AOF, "--appendfsync", "always")
"""Options of a Redis that forgets nothing."""

HASTY = (*_AOF, "--appendfsync", "everysec")
"""Options of a Redis that forgets a second with the power."""

SCRIPT = b"*1\r\n$5\r\nMULTI\r\n"
"""How what a script has written begins in a file of Redis."""

SECOND = 32 * 1024
"""Bytes of its file that a second of ours fills, about."""

BLOCKED = Line(blocked=True)


class Nodes:
    """Several gateways, `n1` and so on, that are one to their clients."""

    def __init__(self, nodes: Sequence[Node]) -> None:
        self.nodes = tuple(nodes)
        self._asked = 0

    @classmethod
    @asynccontextmanager
    async def at(
        cls,
        home: Path,
        urls: Sequence[str],
        *,
        config: str = CONFIG,
        lease: float = LEASE,
        **settings: str,
    ) -> AsyncIterator[Self]:
        """Run one for each of *urls*, by which it reaches Redis; those that run at the end must end well."""
        async with AsyncExitStack() as stack:
            nodes = [
                await stack.enter_async_context(
                    Node.placed(
                        _folder(home, f"n{number}"),
                        config,
                        NODE__NAME=f"n{number}",
                        BROKER__KIND="redis",
                        BROKER__URL=url,
                        BROKER__LEASE=f"{lease}s",
                        **{"DRAIN__WINDOW": "0s", **settings},
                    )
                )
                for number, url in enumerate(urls, start=1)
            ]
            async with asyncio.TaskGroup() as starting:
                for node in nodes:
                    starting.create_task(node.start())
            yield cls(nodes)

    @property
    def public(self) -> list[int]:
        """Where clients connect."""
        return [node.public for node in self.nodes]

    @property
    def internal(self) -> list[int]:
        """Where backends publish."""
        return [node.internal for node in self.nodes]

    async def newest(self, channels: Sequence[str]) -> dict[str, str]:
        """Return where each of *channels* stands, as one node says it, and another one the next time."""
        self._asked += 1
        running = [node for node in self.nodes if node.running]
        shares = [
            channels[(self._asked + number) % len(running) :: len(running)] for number in range(len(running))
        ]
        told = await asyncio.gather(*map(Node.newest, running, shares))
        return {channel: position for each in told for channel, position in each.items()}


class Cluster(Nodes):
    """Three nodes, their Redis, and the ways by which each of them reaches it."""

    def __init__(self, home: Path, server: RedisServer, ways: Sequence[Proxy], nodes: Sequence[Node]) -> None:
        super().__init__(nodes)
        self.server = server
        self.ways = tuple(ways)
        """One for each node, in their order."""
        self._home = home

    @classmethod
    @asynccontextmanager
    async def open(
        cls,
        home: Path,
        *,
        config: str = CONFIG,
        redis: Sequence[str] = (),
        lease: float = LEASE,
        **settings: str,
    ) -> AsyncIterator[Self]:
        """Run one, its Redis with the options *redis*."""
        async with AsyncExitStack() as stack:
            server = stack.enter_context(running_redis(_folder(home, "redis"), *redis))
            ways = [await stack.enter_async_context(Proxy.open(server.port)) for _ in range(NODES)]
            urls = [f"redis://{HOST}:{way.port}/0" for way in ways]
            running = Nodes.at(home, urls, config=config, lease=lease, **settings)
            yield cls(home, server, ways, (await stack.enter_async_context(running)).nodes)

    # ------------------------------------------------------------ its Redis

    async def ask(self, *command: str | bytes | float) -> Any:
        """Return what Redis answers to *command*; no node's way is used."""
        client: Any = redis.asyncio.Redis(host=HOST, port=self.server.port)
        try:
            return await client.execute_command(*command)
        finally:
            await client.aclose()

    async def kill_redis(self) -> None:
        """End it as a power cut does."""
        await asyncio.to_thread(self.server.kill)

    async def start_redis(self) -> None:
        """Start it again, with whatever is on its disk."""
        await asyncio.to_thread(self.server.start)

    async def cut_power(self, size: int, history: History) -> None:
        """End it, so that about the last *size* bytes never reached its disk.

        Numbers begin anew twice: where Redis goes on, and a moment later where nodes find out, and give every
        channel a position that nobody had before.

        The cut is between two scripts: a Redis that finds half of one forgets it, but leaves its head in the
        file, and carries it out after the next crash (valkey-io/valkey pull request 4342).
        """
        await self.kill_redis()
        history.record(Reset())
        history.record(Reset())
        written = max((self._home / "redis").rglob("*.aof"), key=lambda file: file.stat().st_mtime_ns)
        kept = written.read_bytes()[: max(0, written.stat().st_size - size)]
        os.truncate(written, max(0, kept.rfind(SCRIPT)))

    @contextmanager
    def redis_stopped(self) -> Iterator[None]:
        """Let it stand still, with all its sockets open."""
        os.kill(self.server.pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(self.server.pid, signal.SIGCONT)

    @asynccontextmanager
    async def redis_without_memory(self) -> AsyncIterator[None]:
        """Let it refuse every write that takes memory."""
        await self.ask("CONFIG", "SET", "maxmemory", "1")
        try:
            yield
        finally:
            await self.ask("CONFIG", "SET", "maxmemory", "0")

    async def flush_redis(self, history: History) -> None:
        """Let it forget everything at once.

        What is published in this moment may be numbered before or after: hence a reset before and one behind.
        Nodes find out later, as after a power cut.
        """
        history.record(Reset())
        await self.ask("FLUSHALL")
        history.record(Reset())
        history.record(Reset())


@contextmanager
def shaped(ways: Sequence[Proxy], line: Line) -> Iterator[None]:
    """Let what travels by *ways* to Redis travel like this, and what comes back."""
    for way in ways:
        way.shape(up=line)
    try:
        yield
    finally:
        for way in ways:
            way.shape(up=CLEAR)


@contextmanager
def cut_off(way: Proxy) -> Iterator[None]:
    """Take a node's way to Redis: connections end, new ones are refused."""
    way.refuse()
    way.cut()
    try:
        yield
    finally:
        way.accept()


def _folder(home: Path, name: str) -> Path:
    folder = home / name
    folder.mkdir()
    return folder
