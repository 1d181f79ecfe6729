"""A bad network on the loopback: between clients and a gateway, or a gateway and whatever it needs.

Everything is switched at run time, for one connection or for all, those to come included.
"""

import asyncio
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from enum import Enum, auto
from random import Random
from typing import Self

from tests.chaos.flow import CLEAR, Flow, Line
from tests.chaos.ports import HOST, listening, reserved


class Cut(Enum):
    """How a connection ends before its time; what is under way is lost in either case."""

    RST = auto()
    """Both ends see it reset."""
    FIN = auto()
    """Both ends see the other one close."""


class _Over(Exception):
    """There is nothing more to carry."""


class Connection:
    """One TCP connection through the proxy."""

    def __init__(
        self, client: socket.socket, server: socket.socket, *, up: Line, down: Line, random: Random
    ) -> None:
        self.client: int = client.getpeername()[1]
        """The port that the client speaks from."""
        self.up = Flow(client, server, up, random)
        """From the client to the server."""
        self.down = Flow(server, client, down, random)
        self.gone = asyncio.Event()
        """Set when both of its sockets are closed."""
        self._sockets = (client, server)
        self._ending = asyncio.Event()
        self._cut: Cut | None = None

    def shape(self, *, up: Line | None = None, down: Line | None = None) -> None:
        """Let bytes travel like this from now on; a direction that is not named stays as it is."""
        if up is not None:
            self.up.line = up
        if down is not None:
            self.down.line = down

    def cut(self, how: Cut = Cut.RST) -> None:
        """End it."""
        self._cut = self._cut or how
        self._ending.set()

    async def run(self) -> None:
        """Carry bytes both ways until both ends have closed, one breaks, or it is cut; then close both."""
        cut: Cut | None = Cut.RST
        try:
            cut = await self._run()
        finally:
            for sock in self._sockets:
                if cut is Cut.RST:
                    reset(sock)
                sock.close()
            self.gone.set()

    async def _run(self) -> Cut | None:
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._carry())
                tasks.create_task(self._until_cut())
        except* OSError:
            self._cut = Cut.RST
        except* _Over:
            pass
        if self._cut is Cut.FIN:
            await self._part()
        return self._cut

    async def _carry(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self.up.run())
            tasks.create_task(self.down.run())
        self._ending.set()

    async def _until_cut(self) -> None:
        await self._ending.wait()
        raise _Over

    async def _part(self) -> None:
        """Say that nothing more comes, and read until both ends say so: a close over input is a reset."""
        with suppress(ExceptionGroup):
            async with asyncio.TaskGroup() as tasks:
                for sock in self._sockets:
                    tasks.create_task(_see_out(sock))

    def __repr__(self) -> str:
        return f"<Connection of :{self.client} up {self.up} down {self.down}>"


class Proxy:
    """Listens on a port of its own and carries every connection to *target*."""

    def __init__(
        self, tasks: asyncio.TaskGroup, port: int, target: int, *, random: Random, buffer: int = 0
    ) -> None:
        self.port = port
        """Where it listens; it stays the same."""
        self.target = target
        """The port on the loopback that connections to come are carried to."""
        self.connections: list[Connection] = []
        """Those that are open, oldest first."""
        self._tasks = tasks
        self._random = random
        self._buffer = buffer
        self._lines = {"up": CLEAR, "down": CLEAR}
        self._listener: socket.socket | None = None
        self._serving: set[asyncio.Task[None]] = set()

    @classmethod
    @asynccontextmanager
    async def open(cls, target: int, *, random: Random | None = None, buffer: int = 0) -> AsyncIterator[Self]:
        """Run a proxy to the port *target*; at the end every connection is reset.

        *buffer* bounds what the kernel takes in for it from either side, in bytes: a small one makes it seen
        at once on one side that the other is slow.
        """
        with reserved() as port:
            async with asyncio.TaskGroup() as tasks:
                proxy = cls(tasks, port, target, random=random or Random(), buffer=buffer)
                proxy.accept()
                try:
                    yield proxy
                finally:
                    proxy.refuse()
                    for serving in proxy._serving:
                        serving.cancel()

    def shape(self, *, up: Line | None = None, down: Line | None = None) -> None:
        """Let the bytes of every connection travel like this, in those to come as well."""
        given = {name: line for name, line in (("up", up), ("down", down)) if line is not None}
        self._lines.update(given)
        for connection in self.connections:
            connection.shape(**given)

    def cut(self, how: Cut = Cut.RST) -> None:
        """End every connection that is open."""
        for connection in self.connections:
            connection.cut(how)

    def accept(self) -> None:
        """Take new connections."""
        if self._listener is None:
            self._listener = listening(self.port, receive_buffer=self._buffer)
            asyncio.get_running_loop().add_reader(self._listener, self._arrive, self._listener)

    def refuse(self) -> None:
        """Refuse new connections, as a port does where nobody listens; those that are open stay."""
        if self._listener is not None:
            asyncio.get_running_loop().remove_reader(self._listener)
            self._listener.close()
            self._listener = None

    def _arrive(self, listener: socket.socket) -> None:
        with suppress(BlockingIOError):
            client, _ = listener.accept()
            serving = self._tasks.create_task(self._serve(client))
            self._serving.add(serving)
            # Also where it was cancelled before it began.
            serving.add_done_callback(lambda _: client.close())
            serving.add_done_callback(self._serving.discard)

    async def _serve(self, client: socket.socket) -> None:
        _prepare(client)
        server = await self._connect()
        if server is None:
            reset(client)
            return
        connection = Connection(client, server, **self._lines, random=self._random)
        self.connections.append(connection)
        try:
            await connection.run()
        finally:
            self.connections.remove(connection)

    async def _connect(self) -> socket.socket | None:
        server = socket.socket()
        _prepare(server)
        if self._buffer:
            server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, self._buffer)
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


def reset(sock: socket.socket) -> None:
    """Let the end of *sock* be a reset, whatever it still holds (socket(7), SO_LINGER)."""
    with suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def _prepare(sock: socket.socket) -> None:
    sock.setblocking(False)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


async def _see_out(sock: socket.socket) -> None:
    sock.shutdown(socket.SHUT_WR)
    while await asyncio.get_running_loop().sock_recv(sock, 65536):
        pass
