"""TCP connections on their way to a gateway, which a test breaks."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Self


class Proxy:
    """Counts connections, cuts them, and refuses new ones."""

    def __init__(self, target: int) -> None:
        self._target = target
        self._tasks: set[asyncio.Task[None]] = set()
        self._writers: set[asyncio.StreamWriter] = set()
        self.accepted = 0
        self.refusing = False
        self.url = ""

    @classmethod
    @asynccontextmanager
    async def to(cls, target: int) -> AsyncIterator[Self]:
        """Run a proxy to port *target*."""
        proxy = cls(target)
        server = await asyncio.start_server(proxy._serve, "127.0.0.1", 0)
        proxy.url = f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1/ws"
        try:
            yield proxy
        finally:
            server.close()
            proxy.cut()
            await asyncio.gather(*proxy._tasks, return_exceptions=True)
            await server.wait_closed()

    def cut(self) -> None:
        """Break every connection."""
        for writer in tuple(self._writers):
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        upstream: asyncio.StreamWriter | None = None
        try:
            if not self.refusing:
                upstream_reader, upstream = await asyncio.open_connection("127.0.0.1", self._target)
                self._writers |= {writer, upstream}
                async with asyncio.TaskGroup() as tasks:
                    tasks.create_task(self._copy(reader, upstream))
                    tasks.create_task(self._copy(upstream_reader, writer))
        finally:
            for side in filter(None, (writer, upstream)):
                side.transport.abort()
                self._writers.discard(side)
            self._tasks.discard(task)

    async def _copy(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(65_536):
                writer.write(data)
                await writer.drain()
        except ConnectionError:
            pass
        self._cut_pair(writer)

    def _cut_pair(self, writer: asyncio.StreamWriter) -> None:
        writer.transport.abort()
