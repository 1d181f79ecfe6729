"""TCP proxies between a broker and its Redis that a test can pause, or cut at any byte."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import dataclass
from typing import Self

CHUNK = 64 * 1024

End = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class ProxyServer:
    """Forwards each connection to the Redis on *port* of this machine, as `_forward` does it."""

    def __init__(self, port: int) -> None:
        self._target = port
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        self.cut()
        while self._connections:
            await asyncio.wait(self._connections)
        await self._server.wait_closed()

    @property
    def url(self) -> str:
        assert self._server is not None
        return f"redis://127.0.0.1:{self._server.sockets[0].getsockname()[1]}/0"

    def cut(self) -> None:
        """Abort every connection; new ones are accepted."""
        for each in self._connections:
            each.cancel()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        writers = [writer]
        try:
            with suppress(OSError, asyncio.CancelledError):
                redis = await asyncio.open_connection("127.0.0.1", self._target)
                writers.append(redis[1])
                await self._forward((reader, writer), redis)
        finally:
            for each in writers:
                each.transport.abort()
            self._connections.discard(task)

    async def _forward(self, node: End, redis: End) -> None:
        """Forward both directions of one connection until it ends."""
        raise NotImplementedError


class Proxy(ProxyServer):
    """A proxy that can be paused in one direction or both."""

    def __init__(self, port: int) -> None:
        super().__init__(port)
        self._requests = asyncio.Event()
        self._answers = asyncio.Event()
        self.release()

    def hold(self) -> None:
        """Pause both directions; connections stay."""
        self._requests.clear()
        self._answers.clear()

    def hold_answers(self) -> None:
        """Pause the answers only: Redis still receives everything."""
        self._answers.clear()

    def release(self) -> None:
        """Resume, beginning with what waited."""
        self._requests.set()
        self._answers.set()

    async def _forward(self, node: End, redis: End) -> None:
        ways = {
            asyncio.ensure_future(_pump(node[0], redis[1], self._requests)),
            asyncio.ensure_future(_pump(redis[0], node[1], self._answers)),
        }
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for each in ways:
                each.cancel()
            await asyncio.wait(ways)


@dataclass(frozen=True, slots=True)
class CutPoint:
    """Where a connection is cut: the share of a request, and of its answer, that is forwarded before."""

    request: float = 1.0
    answer: float = 1.0


class CuttingProxy(ProxyServer):
    """Cuts the connection of each request that contains *mark*, at the next of `places`."""

    def __init__(self, port: int, mark: bytes) -> None:
        super().__init__(port)
        self._mark = mark
        self.places: list[CutPoint] = []
        self.cuts = 0
        self.answered: list[bytes] = []
        """The answers that were cut off, in full."""

    async def _forward(self, node: End, redis: End) -> None:
        answers = asyncio.ensure_future(_pump(redis[0], node[1]))
        try:
            while data := await node[0].read(CHUNK):
                if self._mark in data and self.places:
                    answers.cancel()
                    await asyncio.wait([answers])
                    await self._cut(self.places.pop(0), data, node[1], redis)
                    break
                redis[1].write(data)
        finally:
            answers.cancel()

    async def _cut(self, place: CutPoint, data: bytes, node: asyncio.StreamWriter, redis: End) -> None:
        self.cuts += 1
        redis[1].write(data[: int(len(data) * place.request)])
        if place.request == 1.0:
            # It has been carried out: Redis says so.
            answer = await redis[0].read(CHUNK)
            self.answered.append(answer)
            node.write(answer[: int(len(answer) * place.answer)])
        for each in (redis[1], node):
            each.close()
            with suppress(OSError):
                await each.wait_closed()


async def _pump(
    source: asyncio.StreamReader, sink: asyncio.StreamWriter, gate: asyncio.Event | None = None
) -> None:
    with suppress(OSError, RuntimeError):
        while data := await source.read(CHUNK):
            if gate is not None:
                await gate.wait()
            sink.write(data)
            await sink.drain()
