"""A proxy between clients and a gateway that drops one message, duplicates another, and swaps two."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from urllib.parse import urlsplit

Frames = list[bytes]
Fault = Callable[[Frames], Frames]
"""From two consecutive messages to the frames that are forwarded instead."""

FAULTS: dict[str, Fault] = {
    "dropped": lambda pair: pair[:1],
    "duplicated": lambda pair: [*pair, pair[1]],
    "swapped": lambda pair: pair[::-1],
}
MESSAGES_BETWEEN_FAULTS = 5

MESSAGE_PREFIX = b'{"type":"message"'


class FaultyProxy:
    """Forwards bytes, and applies each of *faults* once, to messages of the first connection."""

    def __init__(self, host: str, port: int, faults: list[Fault]) -> None:
        self._upstream = host, port
        self._faults = faults
        self._message_count = 0
        self._held_message: bytes | None = None
        """A message that waits for the next one."""
        self._faulty_connection: asyncio.StreamReader | None = None
        """The connection that the faults are applied to."""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Forward one connection until it ends."""
        from_gateway, to_gateway = await asyncio.open_connection(*self._upstream)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._forward_to_gateway(reader, to_gateway))
                group.create_task(self._forward_to_client(from_gateway, writer))
        except* (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            for each in (writer, to_gateway):
                each.close()
                with suppress(OSError):
                    await each.wait_closed()

    async def _forward_to_gateway(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            writer.write(data)
        writer.write_eof()

    async def _forward_to_client(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(await reader.readuntil(b"\r\n\r\n"))
        self._faulty_connection = self._faulty_connection or reader
        while not reader.at_eof():
            frame = await _read_frame(reader)
            for out in self._with_faults(frame) if reader is self._faulty_connection else [frame]:
                writer.write(out)

    def _with_faults(self, frame: bytes) -> Frames:
        """Return the frames to forward now that *frame* has arrived."""
        if MESSAGE_PREFIX not in frame[:40] or not self._faults:
            return [frame]
        if self._held_message is not None:
            pair, self._held_message = [self._held_message, frame], None
            return self._faults.pop()(pair)
        self._message_count += 1
        if self._message_count % MESSAGES_BETWEEN_FAULTS:
            return [frame]
        self._held_message = frame
        return []


async def _read_frame(reader: asyncio.StreamReader) -> bytes:
    """Return one frame of a server, header and payload (RFC 6455 section 5.2)."""
    header = await reader.readexactly(2)
    size = header[1]
    if size in {126, 127}:
        length = await reader.readexactly(2 if size == 126 else 8)
        header, size = header + length, int.from_bytes(length)
    return header + await reader.readexactly(size)


@asynccontextmanager
async def faulty_proxy(url: str, *faults: str) -> AsyncIterator[str]:
    """Run a proxy to the gateway at *url* that applies *faults*; yield the URL of the proxy."""
    address = urlsplit(url)
    proxy = FaultyProxy(address.hostname or "", address.port or 0, [FAULTS[fault] for fault in faults])
    server = await asyncio.start_server(proxy.serve, "127.0.0.1", 0)
    async with server:
        host, port = server.sockets[0].getsockname()
        yield address._replace(netloc=f"{host}:{port}").geturl()
