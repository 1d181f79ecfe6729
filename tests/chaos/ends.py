"""Both ends of connections through a proxy, to see what it does to them."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from random import Random

from tests.chaos.ports import listening, reserved
from tests.chaos.proxy import Connection, Proxy
from tests.e2e.wire import PATIENCE, Raw

BUFFER = 8 * 1024
"""Bytes that each end and the proxy take in."""


@dataclass
class Ends:
    """One connection: its client, its server, and what is between them."""

    client: Raw
    server: Raw
    between: Connection


class Network:
    """A proxy, and a server behind it that accepts by hand."""

    def __init__(self, proxy: Proxy, listener: socket.socket) -> None:
        self.proxy = proxy
        self._listener = listener
        self._open: list[Raw] = []

    async def connect(self) -> Ends:
        client = await Raw.open(self.proxy.port, receive_buffer=BUFFER)
        self._open.append(client)
        server = await self.accept()
        await client.send(b"hello")
        assert await server.take(5) == b"hello"
        port = client.socket.getsockname()[1]
        (between,) = (each for each in self.proxy.connections if each.client == port)
        return Ends(client, server, between)

    async def accept(self) -> Raw:
        async with asyncio.timeout(PATIENCE):
            accepted, _ = await asyncio.get_running_loop().sock_accept(self._listener)
        accepted.setblocking(False)
        self._open.append(Raw(accepted))
        return self._open[-1]

    def close(self) -> None:
        for raw in self._open:
            raw.close()


@asynccontextmanager
async def network() -> AsyncIterator[Network]:
    with reserved() as port, listening(port, receive_buffer=BUFFER) as listener:
        async with Proxy.open(port, random=Random(1), buffer=BUFFER) as proxy:
            network = Network(proxy, listener)
            try:
                yield network
            finally:
                network.close()
