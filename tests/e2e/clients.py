"""Clients for tests: a TCP connection that sends any bytes, and a client that speaks the protocol."""

import asyncio
import socket
from collections import deque
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Any, NamedTuple, Self

import msgpack
import orjson
import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.speedups import apply_mask
from websockets.typing import Subprotocol

PATH = "/v1/ws"
JSON, MSGPACK = "fanway.v1.json", "fanway.v1.msgpack"
CONT, TEXT, BINARY, CLOSE, PING, PONG = 0x0, 0x1, 0x2, 0x8, 0x9, 0xA
TIMEOUT_SECONDS = 20.0
"""How long a test waits for anything; far more than it takes on a busy machine."""
_READ_BYTES = 64 * 1024
_MASK = b"\x37\xfa\x21\x3d"


class Frame(NamedTuple):
    fin: bool
    opcode: int
    payload: bytes


class Closed(NamedTuple):
    """Code and reason of a Close frame; 1005 for one without a code (RFC 6455 section 7.1.5)."""

    code: int
    reason: str


class Response(NamedTuple):
    status: int
    headers: Mapping[str, str]
    body: bytes


def client_frame(
    opcode: int,
    payload: bytes = b"",
    *,
    fin: bool = True,
    rsv: int = 0,
    length: int | None = None,
    masked: bool = True,
) -> bytes:
    """Return a client's frame; *length* overrides the length in its header, to make it wrong."""
    size = len(payload) if length is None else length
    first = bytes([0x80 * fin | rsv << 4 | opcode])
    flag = 0x80 * masked
    if size < 126:
        head = first + bytes([flag | size])
    elif size < 65536:
        head = first + bytes([flag | 126]) + size.to_bytes(2, "big")
    else:
        head = first + bytes([flag | 127]) + size.to_bytes(8, "big")
    return head + _MASK + apply_mask(payload, _MASK) if masked else head + payload


def close_frame(code: int = 1000, reason: str = "") -> bytes:
    return client_frame(CLOSE, code.to_bytes(2, "big") + reason.encode())


def upgrade_request(
    path: str = PATH,
    *,
    subprotocol: str | None = JSON,
    without: str = "",
    method: str = "GET",
    version: str = "1.1",
    **headers: str,
) -> bytes:
    """Return the head of an upgrade request, *without* one header, and with *headers* set (`_` for `-`)."""
    fields = {
        "host": "gateway.test",
        "upgrade": "websocket",
        "connection": "Upgrade",
        "sec-websocket-key": "dGhlIHNhbXBsZSBub25jZQ==",
        "sec-websocket-version": "13",
        **({} if subprotocol is None else {"sec-websocket-protocol": subprotocol}),
        **{name.replace("_", "-"): value for name, value in headers.items()},
    }
    fields.pop(without, None)
    lines = [f"{method} {path} HTTP/{version}", *(f"{name}: {value}" for name, value in fields.items())]
    return "\r\n".join([*lines, "", ""]).encode("latin-1")


class RawConnection:
    """A TCP connection that sends any bytes and reads what arrives, without checks of its own."""

    def __init__(self, sock: socket.socket) -> None:
        self.socket = sock
        self._loop = asyncio.get_running_loop()
        self._buffer = bytearray()

    @classmethod
    async def open(cls, port: int, *, receive_buffer: int = 0) -> Self:
        """Connect to *port*; *receive_buffer* bounds what the kernel takes while the test does not read."""
        sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        try:
            if receive_buffer:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.setblocking(False)
            async with asyncio.timeout(TIMEOUT_SECONDS):
                await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", port))
        except BaseException:
            sock.close()
            raise
        return cls(sock)

    @classmethod
    async def websocket(
        cls, port: int, *, receive_buffer: int = 0, subprotocol: str | None = JSON, path: str = PATH
    ) -> Self:
        """Connect to *port* and upgrade; after `overloaded` it waits for Retry-After and tries again."""
        while True:
            raw = await cls.open(port, receive_buffer=receive_buffer)
            try:
                await raw.send(upgrade_request(path, subprotocol=subprotocol))
                response = await raw.read_response()
                if response.status == 101:
                    return raw
                assert b"overloaded" in response.body, response
            except BaseException:
                raw.close()
                raise
            raw.close()
            await asyncio.sleep(int(response.headers["retry-after"]))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self.socket.close()

    async def send(self, data: bytes) -> None:
        async with asyncio.timeout(TIMEOUT_SECONDS):
            await self._loop.sock_sendall(self.socket, data)

    async def try_send(self, data: bytes) -> bool:
        """Send *data*; return False where the gateway ended the connection before it had read all of it."""
        try:
            await self.send(data)
        except (ConnectionError, TimeoutError):
            return False
        return True

    async def send_byte_by_byte(self, data: bytes) -> None:
        """Send *data* in segments of one byte, until the end or until the gateway ends the connection."""
        for byte in data:
            if not await self.try_send(bytes([byte])):
                return
            await asyncio.sleep(0)

    async def read_more(self) -> bool:
        """Read once into the buffer; return False at the end of the stream."""
        async with asyncio.timeout(TIMEOUT_SECONDS):
            data = await self._loop.sock_recv(self.socket, _READ_BYTES)
        self._buffer += data
        return bool(data)

    def peek(self) -> bytes:
        """Return what was read and not used yet."""
        return bytes(self._buffer)

    async def read_exactly(self, size: int) -> bytes:
        """Return the next *size* bytes; `EOFError` with what there is where the stream ends before."""
        while len(self._buffer) < size:
            if not await self.read_more():
                raise EOFError(bytes(self._buffer))
        data = bytes(self._buffer[:size])
        del self._buffer[:size]
        return data

    async def read_response(self) -> Response:
        """Return the next HTTP response, with a body of its Content-Length."""
        while (end := self._buffer.find(b"\r\n\r\n")) < 0:
            if not await self.read_more():
                raise EOFError(bytes(self._buffer))
        first, *lines = (await self.read_exactly(end + 4)).decode("latin-1").split("\r\n")[:-2]
        headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
        status = int(first.split()[1])
        body = b"" if status == 101 else await self.read_exactly(int(headers["content-length"]))
        return Response(status, headers, body)

    async def read_frame(self) -> Frame:
        """Return the gateway's next frame."""
        first, second = await self.read_exactly(2)
        assert not second & 0x80, "a server does not mask"
        size = second & 0x7F
        if size >= 126:
            size = int.from_bytes(await self.read_exactly(2 if size == 126 else 8), "big")
        return Frame(bool(first & 0x80), first & 0x0F, await self.read_exactly(size))

    async def read_frame_if_any(self) -> Frame | None:
        """Return the gateway's next frame; None where the stream ended after the last one."""
        return await self.read_frame() if self._buffer or await self.read_more() else None

    async def read_until_close(self) -> tuple[list[Frame], Closed]:
        """Return the frames before a Close frame, and its code and reason."""
        frames = []
        while (frame := await self.read_frame()).opcode != CLOSE:
            frames.append(frame)
        code = int.from_bytes(frame.payload[:2], "big") if frame.payload else 1005
        return frames, Closed(code, frame.payload[2:].decode())

    async def read_to_end(self) -> bytes:
        """Return everything up to the end of the stream; a reset counts as the end."""
        try:
            while await self.read_more():
                pass
        except ConnectionError:
            pass
        return bytes(self._buffer)

    async def expect_close(self) -> Closed:
        """Return the gateway's Close frame; answer it, and check that nothing follows before the end."""
        _, closed = await self.read_until_close()
        await self.try_send(close_frame(closed.code if closed.code != 1005 else 1000))
        rest = await self.read_to_end()
        assert rest == b"", rest
        return closed

    # ------------------------------------------------------------ the protocol, in JSON

    async def send_command(self, **command: Any) -> None:
        await self.send(client_frame(TEXT, orjson.dumps(command)))

    async def receive(self) -> dict[str, Any]:
        """Return the next message of the gateway."""
        message: dict[str, Any] = orjson.loads((await self.read_frame()).payload)
        return message

    async def call(self, **command: Any) -> dict[str, Any]:
        """Send *command*, and return the next message of the gateway."""
        await self.send_command(**command)
        return await self.receive()


class Client:
    """A client that follows the protocol, in either subprotocol."""

    def __init__(self, connection: ClientConnection) -> None:
        self.connection = connection
        self.binary = connection.subprotocol == MSGPACK
        self._pushes: deque[dict[str, Any]] = deque()
        self._ids = 0

    @classmethod
    @asynccontextmanager
    async def open(cls, port: int, *, subprotocol: str = JSON, **command: Any) -> AsyncIterator[Self]:
        """Connect to *port*, send `connect` with the fields of *command*, and close at the end."""
        connection = await _connection(port, subprotocol)
        async with connection:
            client = cls(connection)
            client.connected = await client.call("connect", **command)
            assert client.connected["type"] == "connected", client.connected
            yield client

    connected: dict[str, Any]

    async def call(self, type: str, **fields: Any) -> dict[str, Any]:
        """Send a command and return its reply; pushes that arrive before it are kept for `next_push`."""
        self._ids += 1
        await self.send({"type": type, "id": self._ids, **fields})
        while (message := await self._receive()).get("id") != self._ids:
            self._pushes.append(message)
        return message

    async def send(self, message: Mapping[str, Any]) -> None:
        if self.binary:
            await self.connection.send(msgpack.packb(message))
        else:
            await self.connection.send(orjson.dumps(message), text=True)

    async def next_push(self, type: str) -> dict[str, Any]:
        """Return the next push of *type*; other pushes before it are discarded."""
        while True:
            message = await self.receive()
            if message["type"] == type:
                return message

    async def receive(self) -> dict[str, Any]:
        """Return the next message of any type, first those that `call` kept."""
        return self._pushes.popleft() if self._pushes else await self._receive()

    async def expect_close(self) -> Closed:
        """Return the gateway's Close frame, once it arrives."""
        with pytest.raises(ConnectionClosed) as closed:
            await self.next_push("the end")
        close = closed.value.rcvd
        assert close is not None, "ended without a Close frame"
        return Closed(close.code, close.reason)

    async def _receive(self) -> dict[str, Any]:
        async with asyncio.timeout(TIMEOUT_SECONDS):
            data = await self.connection.recv(decode=False)
        message: dict[str, Any] = msgpack.unpackb(data) if self.binary else orjson.loads(data)
        return message


async def _connection(port: int, subprotocol: str) -> ClientConnection:
    while True:
        try:
            return await connect(
                f"ws://127.0.0.1:{port}{PATH}",
                subprotocols=[Subprotocol(subprotocol)],
                compression=None,
                proxy=None,
                ping_interval=None,
                open_timeout=TIMEOUT_SECONDS,
            )
        except InvalidStatus as refused:
            if b"overloaded" not in (refused.response.body or b""):
                raise
            await asyncio.sleep(int(refused.response.headers["retry-after"]))
