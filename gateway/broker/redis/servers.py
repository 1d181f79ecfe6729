"""From the URL of a Redis to a connection: its credentials, TLS, and the sentinels that know the primary."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, cast
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit, urlunsplit

from redis.asyncio import connection as redis_connection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

SENTINEL = "+sentinel"
"""What the scheme of a URL ends with that names sentinels, not the primary."""

SENTINEL_PORT = 26_379


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
    addresses: tuple[tuple[str, int], ...]
    username: str = ""
    password: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True)
class Server:
    """One Redis as an operator names it.

    `redis://`, `rediss://` (TLS) and `unix://` as redis-py reads them, its query arguments included. And
    `redis+sentinel://[[user]:password@]host[:26379][,host[:port]…]/master[/db]`, with `rediss` for TLS, and
    `?sentinel_username=…&sentinel_password=…` where the sentinels have credentials of their own.
    """

    url: str = field(repr=False)
    credentials: Credentials = NO_CREDENTIALS
    sentinels: Sentinels | None = None

    @classmethod
    def named(cls, url: str, credentials: Credentials = NO_CREDENTIALS) -> Server:
        """Return the server of *url*; `ValueError` says what is wrong with one that names none."""
        scheme = urlsplit(url).scheme
        if scheme.endswith(SENTINEL):
            url, sentinels = _behind_sentinels(url)
        else:
            sentinels = None
        redis_connection.parse_url(url)
        return cls(url, credentials, sentinels)

    @property
    def tls(self) -> bool:
        """Whether connections to it are encrypted."""
        return self.url.startswith("rediss:")

    def options(self) -> dict[str, Any]:
        """Return everything that redis-py's clients want to know to reach it, its address included."""
        told: dict[str, Any] = dict(cast("Mapping[str, Any]", redis_connection.parse_url(self.url)))
        told.pop("connection_class", None)
        return {**self.credentials.options(tls=self.tls), **told}

    def connection(self, connect_timeout: float) -> Any:
        """Return an unconnected connection of redis-py's: it does handshake and parsing, and no retries."""
        # A Unix socket knows neither of these two.
        tcp: dict[str, Any] = {"socket_connect_timeout": connect_timeout, "socket_keepalive": True}
        pool = redis_connection.ConnectionPool.from_url(
            self.url,
            decode_responses=False,
            protocol=2,
            retry=Retry(NoBackoff(), 0),
            # Who asks bounds the whole; a timer for every answer of a pipeline costs more than to parse it.
            socket_timeout=None,
            health_check_interval=0,
            **self.credentials.options(tls=self.tls),
            **({} if self.url.startswith("unix:") else tcp),
        )
        return cast("Any", pool).make_connection()


def _behind_sentinels(url: str) -> tuple[str, Sentinels]:
    """Return the URL of whatever primary there is, and who knows its address."""
    parts = urlsplit(url)
    userinfo, at, hosts = parts.netloc.rpartition("@")
    master, _, db = parts.path.strip("/").partition("/")
    if not master or not hosts:
        raise ValueError("name the sentinels and the primary: redis+sentinel://host:26379,host2/mymaster")
    query = dict(parse_qsl(parts.query))
    username, password = query.pop("sentinel_username", ""), query.pop("sentinel_password", "")
    scheme = parts.scheme.removesuffix(SENTINEL)
    addresses = tuple(_address(host) for host in hosts.split(","))
    # The address is a sentinel's here, to have one: each connection is told the primary's.
    host = hosts.split(",")[0]
    primary = urlunsplit((scheme, f"{userinfo}{at}{host}", f"/{db}" if db else "", urlencode(query), ""))
    return primary, Sentinels(unquote(master), addresses, username, password)


def _address(text: str) -> tuple[str, int]:
    parts = urlsplit(f"//{text}")
    if not parts.hostname:
        raise ValueError(f"{text!r} is no sentinel's address: write host or host:port")
    return parts.hostname, parts.port or SENTINEL_PORT
