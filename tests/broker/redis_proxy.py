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

    @property
    def connections(self) -> int:
        """How many connections are open."""
        return len(self._connections)

    def cut(self) -> None:
        """Abort every connection; new ones are accepted."""
        for each in self._connections:
            each.cancel()

    async def close_connections(self) -> None:
        """Close every connection, and return when all are closed; new ones are accepted."""
        connections = set(self._connections)
        self.cut()
        await asyncio.wait(connections)

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
    """A proxy that can be paused in one direction or both, and that can forget connections."""

    def __init__(self, port: int) -> None:
        super().__init__(port)
        self._requests = asyncio.Event()
        self._answers = asyncio.Event()
        self._ways: set[tuple[_Way, _Way]] = set()
        """Requests and answers of each connection."""
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

    def idle(self, *kept: bytes) -> int:
        """Return how many connections `forget` would forget."""
        return sum(not any(each in ways[0].last for each in kept) for ways in self._ways)

    def forget(self, *kept: bytes) -> int:
        """Swallow what the present connections send from now on, without a word to either side.

        Connections whose last request contains one of *kept* are not forgotten. Returns how many are.
        """
        forgotten = [ways for ways in self._ways if not any(each in ways[0].last for each in kept)]
        for requests, answers in forgotten:
            requests.swallows = answers.swallows = True
        return len(forgotten)

    async def _forward(self, node: End, redis: End) -> None:
        ways = _Way(node[0], redis[1], self._requests), _Way(redis[0], node[1], self._answers)
        self._ways.add(ways)
        running = {asyncio.ensure_future(each.forward()) for each in ways}
        try:
            await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._ways.discard(ways)
            for each in running:
                each.cancel()
            await asyncio.wait(running)


class _Way:
    """One direction of a connection."""

    def __init__(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, gate: asyncio.Event) -> None:
        self._source, self._sink, self._gate = source, sink, gate
        self.last = b""
        """What was forwarded last."""
        self.swallows = False

    async def forward(self) -> None:
        with suppress(OSError, RuntimeError):
            while data := await self._source.read(CHUNK):
                await self._gate.wait()
                if self.swallows:
                    continue
                self.last = data
                self._sink.write(data)
                await self._sink.drain()


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


async def _pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    with suppress(OSError, RuntimeError):
        while data := await source.read(CHUNK):
            sink.write(data)
            await sink.drain()
