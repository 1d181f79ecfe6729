"""Parses the URL of a Redis strictly: no part is guessed or ignored, and no error repeats a secret."""

from __future__ import annotations

import ipaddress
import re
import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, unquote

from gateway.errors import GatewayError

PORT, SENTINEL_PORT = 6379, 26_379

_SENTINEL = "+sentinel"
_SCHEMES = ("redis", "rediss", "unix", f"redis{_SENTINEL}", f"rediss{_SENTINEL}")

_URL = re.compile(r"([a-z+]+)://([^/?]*)([^?]*)(?:\?(.*))?", re.IGNORECASE)
_HOST = re.compile(r"(\[[^\[\]]+\]|[\w.-]+)(?::([0-9]{1,5}))?")
_DATABASE = re.compile(r"[0-9]{1,9}")
_NAME = re.compile(r"[a-z_]{1,40}")

REMEDY_SCHEME = 'write "redis://host:6379", rediss://, unix:// or redis+sentinel://host:26379/primary'
REMEDY_ESCAPE = (
    "escape it if it belongs to a password: / is %2F, ? is %3F, # is %23, @ is %40, a blank is %20"
)


class BadUrl(GatewayError):
    """The URL is not a valid Redis URL; *problem* and *remedy* never repeat text that may be a secret."""

    def __init__(self, problem: str, remedy: str) -> None:
        super().__init__(f"a Redis URL: {problem}; {remedy}")
        self.problem = problem
        self.remedy = remedy


@dataclass(frozen=True, slots=True)
class Url:
    """The parts of a URL, unescaped."""

    scheme: str
    """`redis`, `rediss` or `unix`."""
    addresses: tuple[tuple[str, int], ...] = ()
    """The addresses of the server or of its sentinels; empty for a Unix socket."""
    path: str = ""
    """The path of a Unix socket."""
    primary: str = ""
    """The name of the primary at the sentinels; empty if the URL contains the address of the server."""
    database: int = 0
    username: str = ""
    password: str = field(default="", repr=False)
    sentinel_username: str = ""
    sentinel_password: str = field(default="", repr=False)
    tls: Mapping[str, Any] = field(default_factory=dict, repr=False, hash=False)
    """Arguments of redis-py's `SSLConnection`."""


def parse_url(url: str) -> Url:
    """Return the parts of *url*; raises `BadUrl` for the first error in *url*."""
    found = _URL.match(url)
    scheme = found[1].lower() if found else ""
    if found is None or scheme not in _SCHEMES:
        raise BadUrl("not a Redis URL", REMEDY_SCHEME)
    if "#" in url or " " in url or not url.isprintable():
        raise BadUrl("has a #, a blank or a control character", REMEDY_ESCAPE)
    if "@" in url[found.end(2) :]:
        raise BadUrl("has an @ after a / or ?", REMEDY_ESCAPE)
    _, authority, path, query = found.groups()
    userinfo, _, hosts = authority.rpartition("@")
    username, _, password = userinfo.partition(":")
    credentials: dict[str, Any] = {"username": unquote(username), "password": unquote(password)}
    kind = scheme.removesuffix(_SENTINEL)
    arguments = _arguments(query or "", scheme)
    if scheme == "unix":
        return Url(kind, path=_socket_path(hosts, path), **credentials, **arguments)
    sentinels = scheme.endswith(_SENTINEL)
    addresses = _addresses(hosts, several=sentinels)
    primary, database = _primary(path) if sentinels else ("", path)
    if (number := _database(database)) is not None:
        if "database" in arguments:
            raise BadUrl("has a database both in its path and as ?db", "keep one of them")
        arguments["database"] = number
    return Url(kind, addresses, primary=primary, **credentials, **arguments)


def _addresses(hosts: str, *, several: bool) -> tuple[tuple[str, int], ...]:
    """Return the addresses in *hosts*, which commas separate if *several* are allowed."""
    if not several and "," in hosts:
        raise BadUrl("names several hosts", "list a URL for each in broker.urls")
    return tuple(_address(host, SENTINEL_PORT if several else PORT) for host in hosts.split(","))


def _address(text: str, port: int) -> tuple[str, int]:
    if not text or text.startswith(":"):
        raise BadUrl("a host is missing", "write host or host:port")
    found = _HOST.fullmatch(text)
    number = port if found is None or found[2] is None else int(found[2])
    if found is None or not 0 < number < 65_536:
        raise BadUrl(
            "not a host with a port from 1 to 65535", "write host or host:port, and an IPv6 address as [::1]"
        )
    host = found[1].lower()
    if host.startswith("["):
        host = host[1:-1]
        try:
            ipaddress.IPv6Address(host)
        except ValueError:
            raise BadUrl("what is in brackets is not an IPv6 address", "write [::1]:6379") from None
    return host, number


def _socket_path(host: str, path: str) -> str:
    if host or len(path) < 2:
        raise BadUrl("does not name a socket's absolute path", 'write "unix:///run/redis.sock"')
    return unquote(path)


def _primary(path: str) -> tuple[str, str]:
    """Return the name of the primary, and the rest of *path*."""
    name, slash, rest = path.removeprefix("/").partition("/")
    if not name:
        raise BadUrl(
            "does not name the primary that its sentinels watch",
            'write "redis+sentinel://host:26379,host2:26379/mymaster"',
        )
    return unquote(name), slash + rest


def _database(path: str) -> int | None:
    """Return the database's number in *path*; None if *path* has no number."""
    text = path.removeprefix("/")
    if text and not _DATABASE.fullmatch(text):
        raise BadUrl("what follows the last / is not a database's number", "write a number, or leave it out")
    return int(text) if text else None


def _arguments(query: str, scheme: str) -> dict[str, Any]:
    """Return the fields of `Url` that *query* sets."""
    fields: dict[str, Any] = {}
    tls: dict[str, Any] = {}
    for name, value in parse_qsl(query, keep_blank_values=True):
        # Text that does not look like a name may be a secret, and is not repeated.
        label = f"?{name}" if _NAME.fullmatch(name) else "an argument"
        known = _ARGUMENTS.get(name)
        if known is None:
            raise BadUrl(f"{label} is not to be set here", "leave it out; docs/configuration.md has what is")
        attribute, parse = known
        if name.startswith("ssl_") and not scheme.startswith("rediss"):
            raise BadUrl(f"{label} is for encrypted connections", "write rediss://, or leave it out")
        if name.startswith("sentinel_") and not scheme.endswith(_SENTINEL):
            raise BadUrl(f"{label} is for sentinels", "write redis+sentinel://, or leave it out")
        into, key = (fields, attribute) if attribute else (tls, name)
        if key in into:
            raise BadUrl(f"{label} is there twice", "keep one of them")
        try:
            into[key] = parse(value)
        except (KeyError, ValueError):
            raise BadUrl(
                f"{label} has a value that it may not have",
                _VALUE_REMEDIES.get(name, "write one, or leave it out"),
            ) from None
    return {**fields, "tls": tls}


def _text(value: str) -> str:
    if not value:
        raise ValueError("empty")
    return value


def _number(value: str) -> int:
    if not _DATABASE.fullmatch(value):
        raise ValueError("not a number")
    return int(value)


def _verify_flags(value: str) -> list[ssl.VerifyFlags]:
    return [ssl.VerifyFlags[name.strip()] for name in value.strip("[]").split(",")]


_BOOLEANS = {"yes": True, "true": True, "1": True, "no": False, "false": False, "0": False}
_CERT_REQS = {"none": "none", "optional": "optional", "required": "required"}
_TLS_VERSIONS = {str(int(each)): each for each in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3)}

_ARGUMENTS: Mapping[str, tuple[str, Callable[[str], Any]]] = {
    "db": ("database", _number),
    "sentinel_username": ("sentinel_username", _text),
    "sentinel_password": ("sentinel_password", _text),
    "ssl_keyfile": ("", _text),
    "ssl_certfile": ("", _text),
    "ssl_ca_certs": ("", _text),
    "ssl_ca_path": ("", _text),
    "ssl_ca_data": ("", _text),
    "ssl_password": ("", _text),
    "ssl_ciphers": ("", _text),
    "ssl_cert_reqs": ("", lambda value: _CERT_REQS[value.lower()]),
    "ssl_check_hostname": ("", lambda value: _BOOLEANS[value.lower()]),
    "ssl_min_version": ("", _TLS_VERSIONS.__getitem__),
    "ssl_include_verify_flags": ("", _verify_flags),
    "ssl_exclude_verify_flags": ("", _verify_flags),
}
"""The arguments that a URL may have: the attribute of `Url`, empty for TLS arguments, and the parser."""

_VALUE_REMEDIES = {
    "db": "write a database's number",
    "ssl_cert_reqs": "write none, optional or required",
    "ssl_check_hostname": "write yes or no",
    "ssl_min_version": "write 771 for TLS 1.2, or 772 for 1.3",
    "ssl_include_verify_flags": "write names of Python's ssl.VerifyFlags, with commas",
    "ssl_exclude_verify_flags": "write names of Python's ssl.VerifyFlags, with commas",
}
