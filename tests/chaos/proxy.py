"""A TCP proxy on the loopback that impairs connections: of clients to a gateway, or of a gateway to Redis.

Conditions change at run time, for one connection or for all of them, including those to come.
"""

import asyncio
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from enum import Enum, auto
from random import Random
from typing import Self

from tests.chaos.ports import HOST, listening, reserved
from tests.chaos.relay import QUEUED_PIECES, UNIMPAIRED, LinkConditions, Relay


class Cut(Enum):
    """How the proxy ends a connection; bytes that it still holds are lost in either case."""

    RST = auto()
    """Both ends see a reset."""
    FIN = auto()
    """Both ends see the other one close."""


class _CutRequested(Exception):
    """Ends the task group of a connection that is cut."""


class Connection:
    """One TCP connection through the proxy."""

    def __init__(
        self,
        client: socket.socket,
        server: socket.socket,
        *,
        up: LinkConditions,
        down: LinkConditions,
        random: Random,
        queued_pieces: int,
    ) -> None:
        self.client_port: int = client.getpeername()[1]
        self.up = Relay(client, server, up, random, queued_pieces)
        """From the client to the server."""
        self.down = Relay(server, client, down, random, queued_pieces)
        self.closed = asyncio.Event()
        """Set when both of its sockets are closed."""
        self._sockets = (client, server)
        self._ending = asyncio.Event()
        self._cut: Cut | None = None

    def impair(self, *, up: LinkConditions | None = None, down: LinkConditions | None = None) -> None:
        """Apply these conditions from now on; None leaves a direction as it is."""
        if up is not None:
            self.up.conditions = up
        if down is not None:
            self.down.conditions = down

    def cut(self, how: Cut = Cut.RST) -> None:
        """End the connection; the first call decides how."""
        self._cut = self._cut or how
        self._ending.set()

    async def run(self) -> None:
        """Relay both directions until both ends have closed, one breaks, or it is cut; then close both."""
        cut: Cut | None = Cut.RST
        try:
            cut = await self._run()
        finally:
            for sock in self._sockets:
                if cut is Cut.RST:
                    reset_on_close(sock)
                sock.close()
            self.closed.set()

    async def _run(self) -> Cut | None:
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._relay())
                tasks.create_task(self._until_cut())
        except* OSError:
            self._cut = Cut.RST
        except* _CutRequested:
            pass
        if self._cut is Cut.FIN:
            await self._close_gracefully()
        return self._cut

    async def _relay(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self.up.run())
            tasks.create_task(self.down.run())
        self._ending.set()

    async def _until_cut(self) -> None:
        await self._ending.wait()
        raise _CutRequested

    async def _close_gracefully(self) -> None:
        """Send FIN to both ends, and read until both sent theirs: a close with unread input is a reset."""
        with suppress(ExceptionGroup):
            async with asyncio.TaskGroup() as tasks:
                for sock in self._sockets:
                    tasks.create_task(_shut_down(sock))

    def __repr__(self) -> str:
        return f"<Connection of :{self.client_port} up {self.up} down {self.down}>"


class Proxy:
    """Listens on a port of its own and relays every connection to *target*."""

    def __init__(
        self,
        tasks: asyncio.TaskGroup,
        port: int,
        target: int,
        *,
        random: Random,
        buffer_bytes: int = 0,
        queued_pieces: int = QUEUED_PIECES,
    ) -> None:
        self.port = port
        """Where it listens; does not change."""
        self.target = target
        """The port on the loopback that new connections are relayed to."""
        self.connections: list[Connection] = []
        """Those that are open, oldest first."""
        self._tasks = tasks
        self._random = random
        self._buffer_bytes = buffer_bytes
        self._queued_pieces = queued_pieces
        self._conditions = {"up": UNIMPAIRED, "down": UNIMPAIRED}
        self._listener: socket.socket | None = None
        self._serving: set[asyncio.Task[None]] = set()

    @classmethod
    @asynccontextmanager
    async def open(
        cls,
        target: int,
        *,
        random: Random | None = None,
        buffer_bytes: int = 0,
        queued_pieces: int = QUEUED_PIECES,
    ) -> AsyncIterator[Self]:
        """Run a proxy to the port *target*; at the end every connection is reset.

        Args:
            target: The port on the loopback.
            random: For the sizes of fragments.
            buffer_bytes: The receive buffer of its sockets: a small one makes one side notice at once that
                the other side is slow. 0 for the kernel's default.
            queued_pieces: How many pieces of `PIECE_BYTES` it holds in each direction of a connection.
        """
        with reserved() as port:
            async with asyncio.TaskGroup() as tasks:
                proxy = cls(
                    tasks,
                    port,
                    target,
                    random=random or Random(),
                    buffer_bytes=buffer_bytes,
                    queued_pieces=queued_pieces,
                )
                proxy.accept()
                try:
                    yield proxy
                finally:
                    proxy.refuse()
                    for serving in proxy._serving:
                        serving.cancel()

    def impair(self, *, up: LinkConditions | None = None, down: LinkConditions | None = None) -> None:
        """Apply these conditions to all connections, also new ones; None leaves a direction as it is."""
        given = {name: line for name, line in (("up", up), ("down", down)) if line is not None}
        self._conditions.update(given)
        for connection in self.connections:
            connection.impair(**given)

    def cut(self, how: Cut = Cut.RST) -> None:
        """End every open connection."""
        for connection in self.connections:
            connection.cut(how)

    def accept(self) -> None:
        """Accept new connections."""
        if self._listener is None:
            self._listener = listening(self.port, receive_buffer=self._buffer_bytes)
            asyncio.get_running_loop().add_reader(self._listener, self._on_connection, self._listener)

    def refuse(self) -> None:
        """Refuse new connections, as a port without a listener does; open ones stay."""
        if self._listener is not None:
            asyncio.get_running_loop().remove_reader(self._listener)
            self._listener.close()
            self._listener = None

    def _on_connection(self, listener: socket.socket) -> None:
        with suppress(BlockingIOError):
            client, _ = listener.accept()
            serving = self._tasks.create_task(self._serve(client))
            self._serving.add(serving)
            # Closes the socket also where the task was cancelled before it started.
            serving.add_done_callback(lambda _: client.close())
            serving.add_done_callback(self._serving.discard)

    async def _serve(self, client: socket.socket) -> None:
        _configure(client)
        server = await self._connect()
        if server is None:
            reset_on_close(client)
            return
        connection = Connection(
            client, server, **self._conditions, random=self._random, queued_pieces=self._queued_pieces
        )
        self.connections.append(connection)
        try:
            await connection.run()
        finally:
            self.connections.remove(connection)

    async def _connect(self) -> socket.socket | None:
        server = socket.socket()
        _configure(server)
        if self._buffer_bytes:
            server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, self._buffer_bytes)
        try:
            await asyncio.get_running_loop().sock_connect(server, (HOST, self.target))
        except OSError:
            server.close()
            return None
        except BaseException:
            server.close()
            raise
        return server

    def __repr__(self) -> str:
        return f"<Proxy :{self.port} to :{self.target} {len(self.connections)} connections>"


def reset_on_close(sock: socket.socket) -> None:
    """Make the close of *sock* a reset, whatever it still holds (socket(7), SO_LINGER)."""
    with suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def _configure(sock: socket.socket) -> None:
    sock.setblocking(False)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


async def _shut_down(sock: socket.socket) -> None:
    """Send FIN, and read until the other end has sent its own."""
    sock.shutdown(socket.SHUT_WR)
    while await asyncio.get_running_loop().sock_recv(sock, 65536):
        pass
