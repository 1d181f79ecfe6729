"""Clients to test with: a socket that sends any bytes, and one that knows the protocol."""

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
# How long anything may take that a test waits for; far more than it takes on a busy machine.
PATIENCE = 20.0
_READ = 64 * 1024
_MASK = b"\x37\xfa\x21\x3d"


class Frame(NamedTuple):
    fin: bool
    opcode: int
    payload: bytes


class Closed(NamedTuple):
    """What a Close frame said; code 1005 for one that said nothing."""

    code: int
    reason: str


class Response(NamedTuple):
    status: int
    headers: Mapping[str, str]
    body: bytes


def frame(
    opcode: int,
    payload: bytes = b"",
    *,
    fin: bool = True,
    rsv: int = 0,
    length: int | None = None,
    masked: bool = True,
) -> bytes:
    """Return a client's frame; *length* is what its header says where that is not the truth."""
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
    return frame(CLOSE, code.to_bytes(2, "big") + reason.encode())


def upgrade(
    path: str = PATH,
    *,
    subprotocol: str | None = JSON,
    without: str = "",
    method: str = "GET",
    version: str = "1.1",
    **headers: str,
) -> bytes:
    """Return the head of an upgrade request, *without* one header, with others (`_` for `-`) set."""
    every = {
        "host": "gateway.test",
        "upgrade": "websocket",
        "connection": "Upgrade",
        "sec-websocket-key": "dGhlIHNhbXBsZSBub25jZQ==",
        "sec-websocket-version": "13",
        **({} if subprotocol is None else {"sec-websocket-protocol": subprotocol}),
        **{name.replace("_", "-"): value for name, value in headers.items()},
    }
    every.pop(without, None)
    lines = [f"{method} {path} HTTP/{version}", *(f"{name}: {value}" for name, value in every.items())]
    return "\r\n".join([*lines, "", ""]).encode("latin-1")


class Raw:
    """A TCP connection without opinions."""

    def __init__(self, sock: socket.socket) -> None:
        self.socket = sock
        self._loop = asyncio.get_running_loop()
        self._buffer = bytearray()

    @classmethod
    async def open(cls, port: int, *, receive_buffer: int = 0) -> Self:
        """Connect to *port*; a small *receive_buffer* makes a reader that stops show early."""
        sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        try:
            if receive_buffer:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.setblocking(False)
            async with asyncio.timeout(PATIENCE):
                await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", port))
        except BaseException:
            sock.close()
            raise
        return cls(sock)

    @classmethod
    async def websocket(
        cls, port: int, *, receive_buffer: int = 0, subprotocol: str | None = JSON, path: str = PATH
    ) -> Self:
        """Connect to *port* and shake hands; where the machine is too busy for the gateway, when it says."""
        while True:
            raw = await cls.open(port, receive_buffer=receive_buffer)
            try:
                await raw.send(upgrade(path, subprotocol=subprotocol))
                response = await raw.response()
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
        async with asyncio.timeout(PATIENCE):
            await self._loop.sock_sendall(self.socket, data)

    async def send_as_taken(self, data: bytes) -> bool:
        """Send *data* to a gateway that may end the connection over it; return whether it took all."""
        try:
            await self.send(data)
        except (ConnectionError, TimeoutError):
            return False
        return True

    async def send_in_bytes(self, data: bytes) -> None:
        """Send *data* one byte a segment; the other side may have ended the connection before the last."""
        for byte in data:
            if not await self.send_as_taken(bytes([byte])):
                return
            await asyncio.sleep(0)

    async def more(self) -> bool:
        """Read once; return whether anything came before the end."""
        async with asyncio.timeout(PATIENCE):
            data = await self._loop.sock_recv(self.socket, _READ)
        self._buffer += data
        return bool(data)

    async def take(self, size: int) -> bytes:
        """Return the next *size* bytes; EOFError where there are fewer."""
        while len(self._buffer) < size:
            if not await self.more():
                raise EOFError(bytes(self._buffer))
        data = bytes(self._buffer[:size])
        del self._buffer[:size]
        return data

    async def response(self) -> Response:
        """Return the next HTTP response, its body as long as it says."""
        while (end := self._buffer.find(b"\r\n\r\n")) < 0:
            if not await self.more():
                raise EOFError(bytes(self._buffer))
        first, *lines = (await self.take(end + 4)).decode("latin-1").split("\r\n")[:-2]
        headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
        status = int(first.split()[1])
        body = b"" if status == 101 else await self.take(int(headers["content-length"]))
        return Response(status, headers, body)

    async def frame(self) -> Frame:
        """Return the gateway's next frame."""
        first, second = await self.take(2)
        assert not second & 0x80, "a server does not mask"
        size = second & 0x7F
        if size >= 126:
            size = int.from_bytes(await self.take(2 if size == 126 else 8), "big")
        return Frame(bool(first & 0x80), first & 0x0F, await self.take(size))

    async def frame_if_any(self) -> Frame | None:
        """Return the gateway's next frame; None where the stream ended behind the one before."""
        return await self.frame() if self._buffer or await self.more() else None

    async def until_close(self) -> tuple[list[Frame], Closed]:
        """Return the frames up to a Close, and what that said."""
        frames = []
        while (one := await self.frame()).opcode != CLOSE:
            frames.append(one)
        code = int.from_bytes(one.payload[:2], "big") if one.payload else 1005
        return frames, Closed(code, one.payload[2:].decode())

    async def ended(self) -> bytes:
        """Wait for the end of the stream, and return what came before it; a reset is an end, too."""
        try:
            while await self.more():
                pass
        except ConnectionError:
            pass
        return bytes(self._buffer)

    async def closed(self) -> Closed:
        """Return what the Close frame said, having answered it and seen the end with nothing more."""
        _, said = await self.until_close()
        await self.send_as_taken(close_frame(said.code if said.code != 1005 else 1000))
        rest = await self.ended()
        assert rest == b"", rest
        return said

    # ------------------------------------------------------------ our own protocol, in JSON

    async def say(self, **command: Any) -> None:
        await self.send(frame(TEXT, orjson.dumps(command)))

    async def hear(self) -> dict[str, Any]:
        """Return the next message."""
        message: dict[str, Any] = orjson.loads((await self.frame()).payload)
        return message

    async def call(self, **command: Any) -> dict[str, Any]:
        """Say something, and return the next message."""
        await self.say(**command)
        return await self.hear()


class Client:
    """A client that keeps to the protocol, in either subprotocol."""

    def __init__(self, connection: ClientConnection) -> None:
        self.connection = connection
        self.binary = connection.subprotocol == MSGPACK
        self._pushes: deque[dict[str, Any]] = deque()
        self._ids = 0

    @classmethod
    @asynccontextmanager
    async def open(cls, port: int, *, subprotocol: str = JSON, **command: Any) -> AsyncIterator[Self]:
        """Connect to *port*, say `connect` with the fields of *command*, and leave at the end."""
        connection = await _connection(port, subprotocol)
        async with connection:
            client = cls(connection)
            client.connected = await client.call("connect", **command)
            assert client.connected["type"] == "connected", client.connected
            yield client

    connected: dict[str, Any]

    async def call(self, type: str, **fields: Any) -> dict[str, Any]:
        """Send a command and return its reply; pushes that come before it are kept for `push`."""
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

    async def push(self, type: str) -> dict[str, Any]:
        """Return the next push of *type*, without those before it."""
        while True:
            message = self._pushes.popleft() if self._pushes else await self._receive()
            if message["type"] == type:
                return message

    async def closed(self) -> Closed:
        """Return how the gateway ended the connection."""
        with pytest.raises(ConnectionClosed) as end:
            await self.push("the end")
        said = end.value.rcvd
        assert said is not None, "ended without a Close frame"
        return Closed(said.code, said.reason)

    async def _receive(self) -> dict[str, Any]:
        async with asyncio.timeout(PATIENCE):
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
                open_timeout=PATIENCE,
            )
        except InvalidStatus as refused:
            if b"overloaded" not in (refused.response.body or b""):
                raise
            await asyncio.sleep(int(refused.response.headers["retry-after"]))
