"""Wires between a broker and its Redis that a test can pinch, or cut at any place."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import dataclass
from typing import Self

CHUNK = 64 * 1024

End = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Wire:
    """Takes connections, each of which leads to the Redis on *port* of this machine; how is for `_carry`."""

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
        """End every connection; new ones are taken."""
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
                await self._carry((reader, writer), redis)
        finally:
            for each in writers:
                each.transport.abort()
            self._connections.discard(task)

    async def _carry(self, node: End, redis: End) -> None:
        """Carry what goes to and fro on one connection until it ends."""
        raise NotImplementedError


class Proxy(Wire):
    """Holds back either direction, or cuts, as it is told."""

    def __init__(self, port: int) -> None:
        super().__init__(port)
        self._requests = asyncio.Event()
        self._answers = asyncio.Event()
        self.release()

    def hold(self) -> None:
        """Let nothing through in either direction; connections stay."""
        self._requests.clear()
        self._answers.clear()

    def hold_answers(self) -> None:
        """Let Redis hear everything, and say nothing."""
        self._answers.clear()

    def release(self) -> None:
        """Let everything through that waited."""
        self._requests.set()
        self._answers.set()

    async def _carry(self, node: End, redis: End) -> None:
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
class Place:
    """How much of a publish, and of its answer, goes through before the connection ends."""

    request: float = 1.0
    answer: float = 1.0


class Scissors(Wire):
    """Cuts the connection of what has *mark*, at each of `places` in turn."""

    def __init__(self, port: int, mark: bytes) -> None:
        super().__init__(port)
        self._mark = mark
        self.places: list[Place] = []
        self.cuts = 0
        self.answered: list[bytes] = []
        """What was cut off, whole."""

    async def _carry(self, node: End, redis: End) -> None:
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

    async def _cut(self, place: Place, data: bytes, node: asyncio.StreamWriter, redis: End) -> None:
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
