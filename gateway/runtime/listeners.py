"""Listeners: sockets with their options, and one uvicorn server for each listener."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import uvicorn

from gateway import defaults
from gateway.errors import GatewayError
from gateway.runtime.acceptor import Acceptor
from gateway.transport.http.open_connections import OpenConnections

DEFAULT_GRACE_SECONDS = 5.0
"""Time that connections have to close when a listener stops."""
POLL_INTERVAL_SECONDS = 0.05
"""Between two checks whether all connections are closed."""


@dataclass(frozen=True, slots=True)
class Binding:
    """The address of a listener, and the options of its sockets."""

    host: str
    port: int
    """0 for any free port."""
    sockets: int = 1
    """Sockets on the same port: an event loop accepts one connection per turn from each."""
    backlog: int = defaults.LISTEN_BACKLOG
    send_buffer: int = 0
    """Bytes, SO_SNDBUF of accepted connections: a small one detects slow clients; 0: the kernel's choice."""
    shared: bool = False
    """Whether other workers listen on the port, too: their supervisor has checked that it was free."""
    port_option: str = ""
    """The flag and the key that set the port, for errors: "--port, listen.public.port"; empty: unknown."""
    user_timeout: float = 0.0
    """Seconds that data may stay unacknowledged (TCP_USER_TIMEOUT, RFC 5482); 0: the kernel's choice."""


def bind(binding: Binding) -> list[socket.socket]:
    """Return listening sockets on one port.

    A configured port is first bound without SO_REUSEPORT: with it, a second gateway would silently get half
    of the clients.

    Raises:
        GatewayError: The port is in use, or the host is not one of this machine.

    """
    with _bind_errors(binding):
        family, address = _address(binding)
        if binding.port and not binding.shared:
            _check_port_is_free(family, address)
        first = _listen(family, address, binding)
    return [first, *(_listen(family, first.getsockname(), binding) for _ in range(binding.sockets - 1))]


@contextlib.contextmanager
def reserve_ports(*bindings: Binding) -> Iterator[list[int]]:
    """Reserve the ports of *bindings* for workers that share them; yield their numbers, raise as `bind`.

    A socket that is bound and does not listen gets no connections.
    """
    with contextlib.ExitStack() as stack:
        ports: list[int] = []
        for binding in bindings:
            with _bind_errors(binding):
                family, address = _address(binding)
                if binding.port:
                    _check_port_is_free(family, address)
                reserving = stack.enter_context(socket.socket(family, socket.SOCK_STREAM))
                reserving.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                reserving.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
                reserving.bind(address)
            ports.append(reserving.getsockname()[1])
        yield ports


@contextlib.contextmanager
def _bind_errors(binding: Binding) -> Iterator[None]:
    """Raise an `OSError` of the block as a `GatewayError` that names the address."""
    try:
        yield
    except OSError as error:
        how = f" ({binding.port_option})" if binding.port_option else ""
        raise GatewayError(
            f"cannot listen on {binding.host}:{binding.port}: {error.strerror or error}; "
            f"choose another port{how} or host"
        ) from None


def _address(binding: Binding) -> tuple[int, Any]:
    found = socket.getaddrinfo(binding.host, binding.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    family, _, _, _, address = found[0]
    return family, address


def _check_port_is_free(family: int, address: Any) -> None:
    with socket.socket(family, socket.SOCK_STREAM) as probe_socket:
        probe_socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe_socket.bind(address)


def _listen(family: int, address: Any, binding: Binding) -> socket.socket:
    # The protocol is given as a number: without it asyncio does not set TCP_NODELAY on accepted sockets.
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


def _ignore(_: OSError) -> None:
    """Do nothing about an error."""


class Listener(uvicorn.Server):
    """A uvicorn server on sockets of its own that handles no signals: `stop` ends it.

    What it relies on in uvicorn is listed in tests/gateway/runtime/test_uvicorn_contract.py.
    """

    def __init__(
        self,
        app: Any,
        binding: Binding,
        *,
        http: Callable[..., Any] | str,
        open_connections: OpenConnections | None = None,
        on_exhausted: Callable[[OSError], None] = _ignore,
        **options: Any,
    ) -> None:
        """Serve *app* on *binding* with the protocol class *http*.

        Args:
            app: the ASGI application.
            binding: where to listen.
            http: makes the protocol of a connection, from uvicorn's arguments.
            open_connections: counts and bounds the connections; None: without bounds.
            on_exhausted: called with the error when no connection can be accepted for lack of descriptors.
            options: of `uvicorn.Config`.

        """
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
        self.server_state = open_connections or OpenConnections()
        self._on_exhausted = on_exhausted
        self.sockets = bind(binding)
        self._grace = DEFAULT_GRACE_SECONDS

    @property
    def port(self) -> int:
        """The port it listens on."""
        port: int = self.sockets[0].getsockname()[1]
        return port

    async def run_until_stopped(self) -> None:
        """Serve until `stop`, then close all connections."""
        await self.serve(sockets=self.sockets)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Accept connections from *sockets*."""
        await self.lifespan.startup()
        create_protocol = partial(
            cast("Any", self.config.http_protocol_class),
            config=self.config,
            server_state=self.server_state,
            app_state=self.lifespan.state,
            _loop=asyncio.get_running_loop(),
        )
        self.servers = [
            cast("Any", Acceptor(each, create_protocol, on_exhausted=self._on_exhausted))
            for each in sockets or ()
        ]
        self.started = True

    def stop_accepting(self) -> None:
        """Accept no further connections; open ones stay open."""
        for server in getattr(self, "servers", ()):
            server.close()

    def stop(self, *, grace: float = DEFAULT_GRACE_SECONDS) -> None:
        """Close every connection, abort those that are open after *grace* seconds, and end the server."""
        self._grace = grace
        self.should_exit = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Close every connection, and abort the remaining ones: uvicorn would only stop waiting for them."""
        self.stop_accepting()
        connections = self.server_state.connections
        for connection in list(connections):
            connection.shutdown()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._grace):
                while connections:  # noqa: ASYNC110 (uvicorn's own protocols leave this set without a notification)
                    await asyncio.sleep(POLL_INTERVAL_SECONDS)
        for connection in list(connections):
            abort = getattr(connection, "abort", None) or connection.transport.abort
            abort()
        await super().shutdown(sockets)

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """Handle no signals: the process does (`gateway.runtime.process`)."""
        yield
