"""From the URL of a Redis to a connection: its credentials, TLS, and the sentinels that know the primary."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any, cast

from redis.asyncio import connection as redis_connection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from gateway.broker.redis.connection.urls import Url, read

Address = tuple[str, int]


@dataclass(frozen=True, slots=True)
class Credentials:
    """What every connection shows, where its URL says nothing else; files in PEM."""

    username: str = ""
    password: str = field(default="", repr=False)
    ca_file: str = ""
    """Who signed the server's certificate; the system's authorities where empty."""
    cert_file: str = ""
    key_file: str = ""

    def options(self, *, tls: bool) -> dict[str, Any]:
        """Return them under redis-py's names."""
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
    """Who knows where the primary called *master* is."""

    master: str
    addresses: tuple[Address, ...]
    username: str = ""
    password: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True)
class Server:
    """One Redis as an operator names it.

    `redis://` and `rediss://` (TLS) `[[user]:password@]host[:port][/db]`, `unix:///path[?db=…]`, and
    `redis+sentinel://[[user]:password@]host[:26379][,host[:port]…]/master[/db]`, with `rediss` for TLS, and
    `?sentinel_username=…&sentinel_password=…` where the sentinels have credentials of their own. Arguments
    for TLS are those of redis-py's `SSLConnection`.
    """

    url: Url
    credentials: Credentials = NO_CREDENTIALS
    sentinels: Sentinels | None = None

    @classmethod
    def named(cls, url: str, credentials: Credentials = NO_CREDENTIALS) -> Server:
        """Return the server of *url*; `BadUrl` says what is wrong with one that names none."""
        told = read(url)
        sentinels = None
        if told.primary:
            own = told.sentinel_username, told.sentinel_password
            sentinels = Sentinels(told.primary, told.addresses, *own)
        return cls(told, credentials, sentinels)

    @property
    def tls(self) -> bool:
        """Whether connections to it are encrypted."""
        return self.url.scheme == "rediss"

    @property
    def address(self) -> str:
        """Where it is, for people; empty where only its sentinels know."""
        if self.sentinels is not None:
            return ""
        return self.url.path or shown(self.url.addresses[0])

    def options(self) -> dict[str, Any]:
        """Return who a connection is and how it is encrypted, under redis-py's names."""
        told = {"username": self.url.username, "password": self.url.password}
        given = {name: value for name, value in told.items() if value}
        return {**self.credentials.options(tls=self.tls), **given, **self.url.tls}

    def connection(self, connect_timeout: float) -> Any:
        """Return an unconnected connection of redis-py's: it does handshake and parsing, and no retries."""
        told = {**self.options(), "db": self.url.database}
        if self.url.scheme == "unix":
            # It knows no timeout of its own for connecting.
            return cast("Any", redis_connection).UnixDomainSocketConnection(
                path=self.url.path, **told, **_plain()
            )
        # The first one is a sentinel's, where there are any: each connection is told the primary's.
        return self._connection(self.url.addresses[0], connect_timeout, told)

    def to_sentinel(self, address: Address, connect_timeout: float) -> Any:
        """Return an unconnected connection to the sentinel at *address*."""
        # TLS is the same for both; who one is is not: sentinels have an ACL of their own.
        told = {name: value for name, value in self.options().items() if name.startswith("ssl_")}
        if self.sentinels is not None:
            own = {"username": self.sentinels.username, "password": self.sentinels.password}
            told |= {name: value for name, value in own.items() if value}
        return self._connection(address, connect_timeout, told)

    def _connection(self, address: Address, connect_timeout: float, told: dict[str, Any]) -> Any:
        host, port = address
        kind = redis_connection.SSLConnection if self.tls else redis_connection.Connection
        return cast("Any", kind)(
            host=host,
            port=port,
            socket_connect_timeout=connect_timeout,
            socket_keepalive=True,
            **told,
            **_plain(),
        )


def _plain() -> dict[str, Any]:
    """Return what is the same for every connection: who reads is us, and who retries."""
    return {
        "decode_responses": False,
        "protocol": 2,
        "retry": Retry(NoBackoff(), 0),
        # Who asks bounds the whole; a timer for every answer of a pipeline costs more than to parse it.
        "socket_timeout": None,
        "health_check_interval": 0,
    }


def shown(address: Address) -> str:
    """Return *address* as it is written."""
    host, port = address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


@contextlib.asynccontextmanager
async def connected(connection: Any) -> AsyncIterator[Any]:
    """Have *connection*, until the end of the block at most."""
    try:
        await connection.connect()
        yield connection
    finally:
        await connection.disconnect(nowait=True)


async def asked(connection: Any, *command: str) -> Any:
    """Return the answer to *command*."""
    await connection.send_command(*command)
    return await connection.read_response()
