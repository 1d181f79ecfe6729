"""A bad network between clients and a gateway: it drops one message, repeats another, swaps two."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from urllib.parse import urlsplit

Frames = list[bytes]
Fault = Callable[[Frames], Frames]
"""From two messages that follow one another to what becomes of them."""

FAULTS: dict[str, Fault] = {
    "dropped": lambda pair: pair[:1],
    "doubled": lambda pair: [*pair, pair[1]],
    "swapped": lambda pair: pair[::-1],
}
EVERY = 5
"""Messages of a connection until the next fault."""

MESSAGE = b'{"type":"message"'


class Proxy:
    """Forwards bytes, and to messages on the first connection does what *faults* say, each once."""

    def __init__(self, host: str, port: int, faults: list[Fault]) -> None:
        self._upstream = host, port
        self._faults = faults
        self._count = 0
        self._held: bytes | None = None
        """A message that waits for the next one."""
        self._culprit: asyncio.StreamReader | None = None
        """The connection that the faults befall."""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Carry one connection."""
        from_gateway, to_gateway = await asyncio.open_connection(*self._upstream)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._forward(reader, to_gateway))
                group.create_task(self._meddle(from_gateway, writer))
        except* (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            for each in (writer, to_gateway):
                each.close()
                with suppress(OSError):
                    await each.wait_closed()

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while piece := await reader.read(65536):
            writer.write(piece)
        writer.write_eof()

    async def _meddle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(await reader.readuntil(b"\r\n\r\n"))
        self._culprit = self._culprit or reader
        while not reader.at_eof():
            frame = await _frame(reader)
            for out in self._altered(frame) if reader is self._culprit else [frame]:
                writer.write(out)

    def _altered(self, frame: bytes) -> Frames:
        if MESSAGE not in frame[:40] or not self._faults:
            return [frame]
        if self._held is not None:
            pair, self._held = [self._held, frame], None
            return self._faults.pop()(pair)
        self._count += 1
        if self._count % EVERY:
            return [frame]
        self._held = frame
        return []


async def _frame(reader: asyncio.StreamReader) -> bytes:
    """Return one frame of a server, header and payload (RFC 6455, section 5.2)."""
    head = await reader.readexactly(2)
    size = head[1]
    if size in {126, 127}:
        length = await reader.readexactly(2 if size == 126 else 8)
        head, size = head + length, int.from_bytes(length)
    return head + await reader.readexactly(size)


@asynccontextmanager
async def bad_network(url: str, *faults: str) -> AsyncIterator[str]:
    """Serve a proxy to the gateway at *url*; yield its own URL."""
    address = urlsplit(url)
    proxy = Proxy(address.hostname or "", address.port or 0, [FAULTS[fault] for fault in faults])
    server = await asyncio.start_server(proxy.serve, "127.0.0.1", 0)
    async with server:
        host, port = server.sockets[0].getsockname()
        yield address._replace(netloc=f"{host}:{port}").geturl()
