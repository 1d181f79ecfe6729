"""Listeners: sockets bound as the kernel should treat them, and one uvicorn server for each listener."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from typing import Any

import uvicorn

from gateway import defaults
from gateway.errors import GatewayError

GRACE = 5.0
"""Seconds that connections have to go once a listener ends, where nobody says otherwise."""
POLL = 0.05
"""Seconds between two looks whether they are gone."""


@dataclass(frozen=True, slots=True)
class Binding:
    """Where a listener listens, and how."""

    host: str
    port: int
    """0 for any free one."""
    listeners: int = 1
    """Sockets on the same port: an event loop accepts one connection a turn from each."""
    backlog: int = defaults.LISTEN_BACKLOG
    send_buffer: int = 0
    """Bytes, SO_SNDBUF of accepted connections: a slow client shows early; 0 for the kernel's choice."""
    shared: bool = False
    """Whether other workers listen there, too: their parent has found the port free."""
    user_timeout: float = 0.0
    """Seconds sent data may stay unacknowledged (TCP_USER_TIMEOUT, RFC 5482); 0 for the kernel's choice."""


def bind(binding: Binding) -> list[socket.socket]:
    """Return listening sockets on one port; `GatewayError` where it is taken or not ours.

    A port that was asked for is tried without SO_REUSEPORT first: with it, a second gateway would silently
    get half of the clients.
    """
    with _told(binding):
        family, address = _address(binding)
        if binding.port and not binding.shared:
            _probe(family, address)
        first = _listen(family, address, binding)
    return [first, *(_listen(family, first.getsockname(), binding) for _ in range(binding.listeners - 1))]


@contextlib.contextmanager
def reserved(*bindings: Binding) -> Iterator[list[int]]:
    """Keep the ports of *bindings* for workers that share them; yield their numbers. Errors as `bind`.

    A socket that is bound and does not listen gets no connection.
    """
    with contextlib.ExitStack() as kept:
        ports: list[int] = []
        for binding in bindings:
            with _told(binding):
                family, address = _address(binding)
                if binding.port:
                    _probe(family, address)
                keeper = kept.enter_context(socket.socket(family, socket.SOCK_STREAM))
                keeper.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                keeper.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
                keeper.bind(address)
            ports.append(keeper.getsockname()[1])
        yield ports


@contextlib.contextmanager
def _told(binding: Binding) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise GatewayError(
            f"cannot listen on {binding.host}:{binding.port}: {error.strerror or error}; "
            "choose another port or host"
        ) from None


def _address(binding: Binding) -> tuple[int, Any]:
    found = socket.getaddrinfo(binding.host, binding.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    family, _, _, _, address = found[0]
    return family, address


def _probe(family: int, address: Any) -> None:
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(address)


def _listen(family: int, address: Any, binding: Binding) -> socket.socket:
    # The protocol by number: without it asyncio does not set TCP_NODELAY on what is accepted.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if binding.send_buffer:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, binding.send_buffer)
        if binding.user_timeout:
            listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(binding.user_timeout * 1000))
        listener.bind(address)
        listener.listen(binding.backlog)
        listener.settimeout(0)
    except OSError:
        listener.close()
        raise
    return listener


class Listener(uvicorn.Server):
    """A uvicorn server whose signals and whose end are somebody else's business."""

    def __init__(self, app: Any, binding: Binding, *, http: Callable[..., Any] | str, **options: Any) -> None:
        """Serve *app* on *binding* with the protocol class *http*."""
        super().__init__(
            uvicorn.Config(
                app,
                http=http,  # type: ignore[arg-type]
                lifespan="off",
                log_config=None,
                access_log=False,
                proxy_headers=False,
                server_header=False,
                backlog=binding.backlog,
                **options,
            )
        )
        self.sockets = bind(binding)
        self._grace = GRACE

    @property
    def port(self) -> int:
        """The port it listens on."""
        port: int = self.sockets[0].getsockname()[1]
        return port

    async def run_until_stopped(self) -> None:
        """Serve until `stop`, then close every connection that is left."""
        await self.serve(sockets=self.sockets)

    def stop_accepting(self) -> None:
        """Take no further connection; those that are open stay."""
        for server in getattr(self, "servers", ()):
            server.close()

    def stop(self, *, within: float = GRACE) -> None:
        """End: who is connected is told to go, and aborted if still here after *within* seconds."""
        self._grace = within
        self.should_exit = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Close every connection, the unwilling ones by force: uvicorn would only stop waiting for those."""
        self.stop_accepting()
        connections = self.server_state.connections
        for connection in list(connections):
            connection.shutdown()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._grace):
                while connections:  # noqa: ASYNC110 (uvicorn's own protocols leave this set without telling)
                    await asyncio.sleep(POLL)
        for connection in list(connections):
            abort = getattr(connection, "abort", None) or connection.transport.abort
            abort()
        await super().shutdown(sockets)

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """Leave signals to the process."""
        yield
