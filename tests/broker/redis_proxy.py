"""A wire between a broker and its Redis that a test can pinch."""

import asyncio
from contextlib import suppress
from typing import Self

CHUNK = 64 * 1024


class Proxy:
    """Forwards TCP to *port* on this machine; holds back either direction, or cuts, as it is told."""

    def __init__(self, port: int) -> None:
        self._target = port
        self._server: asyncio.Server | None = None
        self._pumps: set[asyncio.Task[None]] = set()
        self._writers: set[asyncio.StreamWriter] = set()
        self._requests = asyncio.Event()
        self._answers = asyncio.Event()
        self.release()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        self.cut()
        while self._pumps:
            await asyncio.wait(self._pumps)
        await self._server.wait_closed()

    @property
    def url(self) -> str:
        assert self._server is not None
        return f"redis://127.0.0.1:{self._server.sockets[0].getsockname()[1]}/0"

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

    def cut(self) -> None:
        """End every connection; new ones are taken."""
        for pump in self._pumps:
            pump.cancel()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._pumps.add(task)
        writers = [writer]
        try:
            with suppress(OSError, asyncio.CancelledError):
                there, away = await asyncio.open_connection("127.0.0.1", self._target)
                writers.append(away)
                done, rest = (
                    set[asyncio.Task[None]](),
                    {
                        asyncio.ensure_future(_pump(reader, away, self._requests)),
                        asyncio.ensure_future(_pump(there, writer, self._answers)),
                    },
                )
                try:
                    done, rest = await asyncio.wait(rest, return_when=asyncio.FIRST_COMPLETED)
                finally:
                    for each in rest:
                        each.cancel()
                    await asyncio.wait({*done, *rest})
        finally:
            for each_writer in writers:
                each_writer.transport.abort()
            self._pumps.discard(task)


async def _pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter, gate: asyncio.Event) -> None:
    with suppress(OSError, RuntimeError):
        while data := await source.read(CHUNK):
            await gate.wait()
            sink.write(data)
            await sink.drain()
