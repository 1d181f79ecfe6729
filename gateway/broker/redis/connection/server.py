"""A Redis server as configured, and how to connect to it: URL, credentials, TLS, and sentinels if any."""

from __future__ import annotations

import asyncio
import contextlib
import select
import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any, cast

from redis.asyncio import connection as redis_connection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from gateway.broker.redis.connection.urls import Url, parse_url

Address = tuple[str, int]

KEEPALIVE = {
    getattr(socket, name): value
    for name, value in {"TCP_KEEPIDLE": 30, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 3}.items()
    if hasattr(socket, name)
}
"""Options of TCP where the system has them: after 30 s without traffic the kernel asks whether the server is
still there, and closes the connection after three questions without an answer, 5 s apart."""

PEER_CLOSED: int = getattr(select, "POLLRDHUP", select.POLLHUP)
"""The event of a socket whose peer has closed its side; on systems without it, only a reset is seen."""


@dataclass(frozen=True, slots=True)
class Credentials:
    """Credentials for every connection whose URL has no credentials; files in PEM."""

    username: str = ""
    password: str = field(default="", repr=False)
    ca_file: str = ""
    """The certificate authority of the server; empty: the certificate authorities of the system."""
    cert_file: str = ""
    key_file: str = ""

    def options(self, *, tls: bool) -> dict[str, Any]:
        """Return the credentials as arguments of redis-py's connections; with *tls*, including the files."""
        given = {"username": self.username, "password": self.password}
        if tls:
            given |= {
                "ssl_ca_certs": self.ca_file,
                "ssl_certfile": self.cert_file,
                "ssl_keyfile": self.key_file,
            }
        return {name: value for name, value in given.items() if value}


NO_CREDENTIALS = Credentials()


@dataclass(frozen=True, slots=True)
class Sentinels:
    """The sentinels that watch the primary named *master*."""

    master: str
    addresses: tuple[Address, ...]
    username: str = ""
    password: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True)
class Server:
    """One Redis as an operator configures it.

    `redis://` and `rediss://` (TLS) `[[user]:password@]host[:port][/db]`, `unix:///path[?db=…]`, and
    `redis+sentinel://[[user]:password@]host[:26379][,host[:port]…]/master[/db]`, with `rediss` for TLS, and
    `?sentinel_username=…&sentinel_password=…` if the sentinels have their own credentials. Arguments for TLS
    have the names of the arguments of redis-py's `SSLConnection`.
    """

    url: Url
    credentials: Credentials = NO_CREDENTIALS
    sentinels: Sentinels | None = None

    @classmethod
    def from_url(cls, url: str, credentials: Credentials = NO_CREDENTIALS) -> Server:
        """Return the server of *url*; raises `BadUrl`, which says what is wrong with *url*."""
        parsed = parse_url(url)
        sentinels = None
        if parsed.primary:
            sentinels = Sentinels(
                parsed.primary, parsed.addresses, parsed.sentinel_username, parsed.sentinel_password
            )
        return cls(parsed, credentials, sentinels)

    @property
    def tls(self) -> bool:
        """Whether connections are encrypted."""
        return self.url.scheme == "rediss"

    @property
    def address(self) -> str:
        """The address, for error texts; empty if only the sentinels know the address."""
        if self.sentinels is not None:
            return ""
        return self.url.path or format_address(self.url.addresses[0])

    def options(self) -> dict[str, Any]:
        """Return credentials and TLS as arguments of redis-py's connections; the URL takes precedence."""
        in_url = {"username": self.url.username, "password": self.url.password}
        given = {name: value for name, value in in_url.items() if value}
        return {**self.credentials.options(tls=self.tls), **given, **self.url.tls}

    def connection(self, connect_timeout: float) -> Any:
        """Return an unconnected connection of redis-py, which does the handshake and parsing, no retries."""
        arguments = {**self.options(), "db": self.url.database}
        if self.url.scheme == "unix":
            # This class has no argument for the connect timeout.
            return cast("Any", redis_connection).UnixDomainSocketConnection(
                path=self.url.path, **arguments, **_common_arguments()
            )
        # With sentinels the first address belongs to a sentinel: the caller sets the address of the primary.
        return self._connection(self.url.addresses[0], connect_timeout, arguments)

    def sentinel_connection(self, address: Address, connect_timeout: float) -> Any:
        """Return an unconnected connection to the sentinel at *address*."""
        # The same TLS as for the server, but other credentials: sentinels have their own ACL.
        arguments = {name: value for name, value in self.options().items() if name.startswith("ssl_")}
        if self.sentinels is not None:
            own = {"username": self.sentinels.username, "password": self.sentinels.password}
            arguments |= {name: value for name, value in own.items() if value}
        return self._connection(address, connect_timeout, arguments)

    def _connection(self, address: Address, connect_timeout: float, arguments: dict[str, Any]) -> Any:
        host, port = address
        kind = redis_connection.SSLConnection if self.tls else redis_connection.Connection
        return cast("Any", kind)(
            host=host,
            port=port,
            socket_connect_timeout=connect_timeout,
            socket_keepalive=True,
            socket_keepalive_options=KEEPALIVE,
            **arguments,
            **_common_arguments(),
        )


def _common_arguments() -> dict[str, Any]:
    """Return the arguments that all connections share: answers as bytes, and no retries by redis-py."""
    return {
        "decode_responses": False,
        "protocol": 2,
        "retry": Retry(NoBackoff(), 0),
        # The caller sets one timeout for all answers: a timer for each answer costs more than parsing it.
        "socket_timeout": None,
        "health_check_interval": 0,
    }


def format_address(address: Address) -> str:
    """Return *address* as `host:port`, an IPv6 host in brackets."""
    host, port = address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


class EndDetector:
    """Tells whether the server has closed a connection, which waits for no answer.

    The kernel is asked as well: the event loop may not have read yet that the connection was closed, and
    what is written after that is lost without a trace.
    """

    __slots__ = ("_poll", "_reader", "_transport")

    def __init__(self, connection: Any) -> None:
        """Observe *connection*, which is open."""
        self._reader: asyncio.StreamReader = connection._reader  # noqa: SLF001 (redis-py has no public way)
        self._transport: asyncio.WriteTransport = connection._writer.transport  # noqa: SLF001
        self._poll = select.poll()
        self._poll.register(self._transport.get_extra_info("socket"), PEER_CLOSED)

    def has_ended(self) -> bool:
        """Return whether the connection must not be used any more; costs a system call, 1 µs."""
        if self._transport.is_closing() or self._reader.at_eof():
            return True
        # Only now: the kernel may have given the descriptor of a closed transport to another socket.
        return bool(self._poll.poll(0))


@contextlib.asynccontextmanager
async def opened(connection: Any) -> AsyncIterator[Any]:
    """Connect *connection* and yield it; disconnect at the end of the block."""
    try:
        await connection.connect()
        yield connection
    finally:
        await connection.disconnect(nowait=True)


async def execute_command(connection: Any, *command: str) -> Any:
    """Return the answer to *command*."""
    await connection.send_command(*command)
    return await connection.read_response()
