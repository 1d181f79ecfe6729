"""Connections through a proxy with both of their ends, to test the proxy itself."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from random import Random

from tests.chaos.ports import listening, reserved
from tests.chaos.proxy import Connection, Proxy
from tests.e2e.clients import TIMEOUT_SECONDS, RawConnection

BUFFER_BYTES = 8 * 1024
"""The receive buffer of each end, and of the proxy."""


@dataclass
class ProxiedConnection:
    """One connection: its client, its server, and the proxy's view of it."""

    client: RawConnection
    server: RawConnection
    proxied: Connection


class ProxiedNetwork:
    """A proxy, and a server behind it that accepts one connection per call of `accept`."""

    def __init__(self, proxy: Proxy, listener: socket.socket) -> None:
        self.proxy = proxy
        self._listener = listener
        self._open: list[RawConnection] = []

    async def connect(self) -> ProxiedConnection:
        client = await RawConnection.open(self.proxy.port, receive_buffer=BUFFER_BYTES)
        self._open.append(client)
        server = await self.accept()
        await client.send(b"hello")
        assert await server.read_exactly(5) == b"hello"
        port = client.socket.getsockname()[1]
        (proxied,) = (each for each in self.proxy.connections if each.client_port == port)
        return ProxiedConnection(client, server, proxied)

    async def accept(self) -> RawConnection:
        async with asyncio.timeout(TIMEOUT_SECONDS):
            accepted, _ = await asyncio.get_running_loop().sock_accept(self._listener)
        accepted.setblocking(False)
        self._open.append(RawConnection(accepted))
        return self._open[-1]

    def close(self) -> None:
        for raw in self._open:
            raw.close()


@asynccontextmanager
async def proxied_network() -> AsyncIterator[ProxiedNetwork]:
    """Run a proxy with a server behind it; both, and all connections, are closed at the end."""
    with reserved() as port, listening(port, receive_buffer=BUFFER_BYTES) as listener:
        async with Proxy.open(port, random=Random(1), buffer_bytes=BUFFER_BYTES) as proxy:
            network = ProxiedNetwork(proxy, listener)
            try:
                yield network
            finally:
                network.close()
