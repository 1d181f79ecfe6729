"""Three gateways with one Redis, each connected to it through a proxy of its own, and the faults of Redis."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, Self

import redis.asyncio

from tests.broker.redis_server import RedisServer, running_redis
from tests.chaos.history import History, HistoryReset
from tests.chaos.node_process import NodeProcess
from tests.chaos.ports import HOST
from tests.chaos.proxy import Proxy
from tests.chaos.relay import UNIMPAIRED, LinkConditions

NODES = 3
CLIENTS, CHANNELS_PER_CLIENT = 300, 3
CHANNELS = [f"c{number}" for number in range(100)]

LEASE_SECONDS = 3.0
"""The default of 10 is too long for a test; much less is too short: nodes wait a third of it for Redis."""

CONFIG = """
[channels.default]
subscribe = "anyone"
publish = "authenticated"
history = 2000

[channels.short]
history = 5

[channels.room]
presence = true
join_leave = true

[channels.lounge]
presence = true
presence_grace = "1s"
join_leave = true
"""

_AOF = ("--appendonly", "yes", "--auto-aof-rewrite-percentage", "0")
FSYNC_ALWAYS = (*_AOF, "--appendfsync", "always")
"""Options of a Redis that loses nothing when it is killed."""

FSYNC_EVERY_SECOND = (*_AOF, "--appendfsync", "everysec")
"""Options of a Redis that loses a second of writes in a power cut."""

SCRIPT_HEADER = b"*1\r\n$5\r\nMULTI\r\n"
"""What the writes of a script begin with in Redis' append-only file."""

AOF_BYTES_PER_SECOND = 32 * 1024
"""About how fast the scenarios fill the append-only file."""

BLOCKED = LinkConditions(blocked=True)


class NodeGroup:
    """Several gateways, named `n1` and so on, that are one cluster to their clients."""

    def __init__(self, nodes: Sequence[NodeProcess]) -> None:
        self.nodes = tuple(nodes)
        self._position_reads = 0

    @classmethod
    @asynccontextmanager
    async def start(
        cls,
        home: Path,
        urls: Sequence[str],
        *,
        config: str = CONFIG,
        lease_seconds: float = LEASE_SECONDS,
        **settings: str,
    ) -> AsyncIterator[Self]:
        """Run one node for each of *urls*, its URL of Redis; nodes that run at the end must exit cleanly."""
        async with AsyncExitStack() as stack:
            nodes = [
                await stack.enter_async_context(
                    NodeProcess.prepare(
                        _folder(home, f"n{number}"),
                        config,
                        NODE__NAME=f"n{number}",
                        BROKER__KIND="redis",
                        BROKER__URL=url,
                        BROKER__LEASE=f"{lease_seconds}s",
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
    def public_ports(self) -> list[int]:
        return [node.public for node in self.nodes]

    @property
    def internal_ports(self) -> list[int]:
        return [node.internal for node in self.nodes]

    async def newest_positions(self, channels: Sequence[str]) -> dict[str, str]:
        """Return the newest position of each of *channels*; each call asks another node for each channel."""
        self._position_reads += 1
        running = [node for node in self.nodes if node.running]
        shares = [
            channels[(self._position_reads + number) % len(running) :: len(running)]
            for number in range(len(running))
        ]
        found = await asyncio.gather(*map(NodeProcess.newest_positions, running, shares))
        return {channel: position for each in found for channel, position in each.items()}


class Cluster(NodeGroup):
    """Three nodes, their Redis, and the proxy through which each of them is connected to it."""

    def __init__(
        self, home: Path, server: RedisServer, redis_proxies: Sequence[Proxy], nodes: Sequence[NodeProcess]
    ) -> None:
        super().__init__(nodes)
        self.server = server
        self.redis_proxies = tuple(redis_proxies)
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
        lease_seconds: float = LEASE_SECONDS,
        **settings: str,
    ) -> AsyncIterator[Self]:
        """Run a cluster; *redis* are command-line options of its Redis."""
        async with AsyncExitStack() as stack:
            server = stack.enter_context(running_redis(_folder(home, "redis"), *redis))
            proxies = [await stack.enter_async_context(Proxy.open(server.port)) for _ in range(NODES)]
            urls = [f"redis://{HOST}:{proxy.port}/0" for proxy in proxies]
            group = NodeGroup.start(home, urls, config=config, lease_seconds=lease_seconds, **settings)
            yield cls(home, server, proxies, (await stack.enter_async_context(group)).nodes)

    # ------------------------------------------------------------ its Redis

    async def execute_redis(self, *command: str | bytes | float) -> Any:
        """Return Redis' answer to *command*, sent without a proxy."""
        client: Any = redis.asyncio.Redis(host=HOST, port=self.server.port)
        try:
            return await client.execute_command(*command)
        finally:
            await client.aclose()

    async def kill_redis(self) -> None:
        """End Redis with SIGKILL."""
        await asyncio.to_thread(self.server.kill)

    async def start_redis(self) -> None:
        """Start Redis again, with the data on its disk."""
        await asyncio.to_thread(self.server.start)

    async def kill_redis_losing(self, size: int, history: History) -> None:
        """End Redis as a power cut does, so that about the last *size* bytes never reached its disk.

        Two resets are recorded, because numbers begin anew twice: where Redis continues, and a moment later
        where nodes notice, and give every channel a position that no client had before.

        The file is cut between two scripts: a Redis that finds half of a script discards it, but leaves its
        head in the file, and executes it after the next crash (valkey-io/valkey pull request 4342).
        """
        await self.kill_redis()
        history.record(HistoryReset())
        history.record(HistoryReset())
        newest = max((self._home / "redis").rglob("*.aof"), key=lambda file: file.stat().st_mtime_ns)
        kept = newest.read_bytes()[: max(0, newest.stat().st_size - size)]
        os.truncate(newest, max(0, kept.rfind(SCRIPT_HEADER)))

    @contextmanager
    def redis_paused(self) -> Iterator[None]:
        """Stop Redis with SIGSTOP, with all its sockets open; it continues at the end."""
        os.kill(self.server.pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(self.server.pid, signal.SIGCONT)

    @asynccontextmanager
    async def redis_out_of_memory(self) -> AsyncIterator[None]:
        """Let Redis reject every write that needs memory."""
        await self.execute_redis("CONFIG", "SET", "maxmemory", "1")
        try:
            yield
        finally:
            await self.execute_redis("CONFIG", "SET", "maxmemory", "0")

    async def flush_redis(self, history: History) -> None:
        """Delete all data of Redis at once.

        What is published at this moment may be numbered before or after it: hence a reset on either side.
        The third is where nodes notice, later, as after a power cut.
        """
        history.record(HistoryReset())
        await self.execute_redis("FLUSHALL")
        history.record(HistoryReset())
        history.record(HistoryReset())


@contextmanager
def impaired(proxies: Sequence[Proxy], conditions: LinkConditions) -> Iterator[None]:
    """Apply *conditions* to what travels through *proxies* to Redis; the answers travel unimpaired."""
    for proxy in proxies:
        proxy.impair(up=conditions)
    try:
        yield
    finally:
        for proxy in proxies:
            proxy.impair(up=UNIMPAIRED)


@contextmanager
def disconnected(proxy: Proxy) -> Iterator[None]:
    """Disconnect a node from Redis: its connections are reset, new ones are refused."""
    proxy.refuse()
    proxy.cut()
    try:
        yield
    finally:
        proxy.accept()


def _folder(home: Path, name: str) -> Path:
    folder = home / name
    folder.mkdir()
    return folder
