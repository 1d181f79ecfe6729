"""A way to Redis that counts what it carries, and remembers what was said if it is told to."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

PIECE = 256 * 1024


@dataclass(slots=True)
class Tap:
    """One node's way to Redis."""

    redis_port: int
    recording: bool = False
    port: int = 0
    told: int = 0
    """Bytes that Redis sent."""
    said: bytearray = field(default_factory=bytearray)
    """What was sent to Redis while `recording`."""
    _carriers: set[asyncio.Task[None]] = field(default_factory=set)

    @property
    def url(self) -> str:
        """Where Redis is found by this way."""
        return f"redis://127.0.0.1:{self.port}/0"

    async def carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Carry one connection until either end closes it."""
        there, back = await asyncio.open_connection("127.0.0.1", self.redis_port)
        answers = asyncio.create_task(self._answers(there, writer))
        self._carriers.add(answers)
        answers.add_done_callback(self._carriers.discard)
        with suppress(ConnectionError):
            while piece := await reader.read(PIECE):
                if self.recording:
                    self.said += piece
                back.write(piece)
                await back.drain()
        back.close()
        await asyncio.wait([answers])

    async def _answers(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            while piece := await reader.read(PIECE):
                self.told += len(piece)
                writer.write(piece)
                await writer.drain()
        writer.close()


@asynccontextmanager
async def tapped(redis_port: int) -> AsyncIterator[Tap]:
    """Yield a way to the Redis at *redis_port*."""
    tap = Tap(redis_port)
    server = await asyncio.start_server(tap.carry, "127.0.0.1", 0)
    try:
        tap.port = server.sockets[0].getsockname()[1]
        yield tap
    finally:
        server.close()
