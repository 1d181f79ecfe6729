"""HTTP requests on their way to a gateway, some of whose answers get lost."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Self


class AnswerLoser:
    """Passes requests on, and cuts the connection instead of passing on the next *losses* answers."""

    def __init__(self, target: int) -> None:
        self._target = target
        self._tasks: set[asyncio.Task[None]] = set()
        self.losses = 0
        self.url = ""

    @classmethod
    @asynccontextmanager
    async def to(cls, target: int) -> AsyncIterator[Self]:
        """Run one to port *target*."""
        loser = cls(target)
        server = await asyncio.start_server(loser._serve, "127.0.0.1", 0)
        loser.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        try:
            yield loser
        finally:
            server.close()
            for task in loser._tasks:
                task.cancel()
            await asyncio.gather(*loser._tasks, return_exceptions=True)
            await server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        upstream: asyncio.StreamWriter | None = None
        try:
            answers, upstream = await asyncio.open_connection("127.0.0.1", self._target)
            requests = asyncio.create_task(_copy(reader, upstream))
            try:
                while (data := await answers.read(65_536)) and not self._loses():
                    writer.write(data)
            finally:
                requests.cancel()
                await asyncio.gather(requests, return_exceptions=True)
        finally:
            for side in filter(None, (writer, upstream)):
                side.transport.abort()
            self._tasks.discard(task)

    def _loses(self) -> bool:
        self.losses -= 1
        return self.losses >= 0


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65_536):
        writer.write(data)
    writer.transport.abort()
