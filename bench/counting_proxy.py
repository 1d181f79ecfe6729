"""A proxy to Redis that counts the bytes it forwards, and records commands on request."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

READ_BYTES = 256 * 1024


@dataclass(slots=True)
class CountingProxy:
    """The connections of one node to Redis."""

    redis_port: int
    recording: bool = False
    port: int = 0
    bytes_from_redis: int = 0
    recorded_commands: bytearray = field(default_factory=bytearray)
    """What was sent to Redis while `recording`."""
    _reply_tasks: set[asyncio.Task[None]] = field(default_factory=set)

    @property
    def url(self) -> str:
        """The URL of Redis through this proxy."""
        return f"redis://127.0.0.1:{self.port}/0"

    async def forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Forward one connection until either end closes it."""
        from_redis, to_redis = await asyncio.open_connection("127.0.0.1", self.redis_port)
        replies = asyncio.create_task(self._forward_replies(from_redis, writer))
        self._reply_tasks.add(replies)
        replies.add_done_callback(self._reply_tasks.discard)
        with suppress(ConnectionError):
            while data := await reader.read(READ_BYTES):
                if self.recording:
                    self.recorded_commands += data
                to_redis.write(data)
                await to_redis.drain()
        to_redis.close()
        await asyncio.wait([replies])

    async def _forward_replies(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            while data := await reader.read(READ_BYTES):
                self.bytes_from_redis += len(data)
                writer.write(data)
                await writer.drain()
        writer.close()


@asynccontextmanager
async def counting_proxy(redis_port: int) -> AsyncIterator[CountingProxy]:
    """Run a proxy to the Redis at *redis_port*."""
    proxy = CountingProxy(redis_port)
    server = await asyncio.start_server(proxy.forward, "127.0.0.1", 0)
    try:
        proxy.port = server.sockets[0].getsockname()[1]
        yield proxy
    finally:
        server.close()
