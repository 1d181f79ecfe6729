"""Which pages may connect, by the Origin and Host headers of their requests."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from functools import lru_cache

ANY = "*"
"""An entry that admits every page."""

Origin = tuple[str, str, str]

_DEFAULT_PORTS = {"http": "80", "https": "443", "ws": "80", "wss": "443"}
_LOOPBACK = frozenset({"127.0.0.1", "localhost", "[::1]"})
_HOST = r"(?P<host>\[[0-9A-Fa-f:.]+\]|[^\s/\\@:?#\[\]]+)(?::(?P<port>[0-9]{1,5}))?"
_ORIGIN = re.compile(rf"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*)://{_HOST}")
_WITHOUT_HOST = re.compile(r"(?!(?i:https?|wss?):)(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*)://")
"""Origins of pages that an application ships, such as `file://` (Electron, Cordova)."""
_HOST_HEADER = re.compile(_HOST)


def origin_allowed(
    origin: str | None, host: str | None, allow_list: frozenset[str], *, loopback: bool = False
) -> bool:
    """Return whether a page of *origin* may connect to us, addressed as *host* (both as in their headers).

    A client without an Origin header is not a browser: browsers always send one (RFC 6455 section 4.1), and
    other clients could send any. Otherwise the origin must be in *allow_list* with its scheme, host and port,
    or, if the list is empty, have the host and port of the Host header. `null` must be listed; `*` lists all.

    With *loopback*, pages of this machine may connect from any port, and others only if listed: after DNS
    rebinding, an attacker's page has the same host in both headers.
    """
    if origin is None or ANY in allow_list or origin in allow_list:
        return True
    page = _parsed_origin(origin)
    if page is None:
        return False
    if loopback and page[0] in {"http", "https"} and page[1] in _LOOPBACK:
        return True
    if allow_list or loopback:
        return page in _parsed_origins(allow_list)
    return host is not None and page[1:] == _parsed_host(host, page[0])


def host_is_loopback(host: str) -> bool:
    """Return whether *host*, the value of a Host header, is a name or an address of this machine alone.

    A page of any other name that resolves to loopback (DNS rebinding) sends that name. Browsers resolve
    `localhost` and names below it themselves (RFC 6761 section 6.3).
    """
    found = _HOST_HEADER.fullmatch(host)
    if found is None:
        return False
    name = found["host"].lower()
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(name.strip("[]")).is_loopback
    except ValueError:
        return False


def hosts_are_loopback(values: Iterable[bytes]) -> bool:
    """Return whether all *values* of Host headers are loopback; a request without any is not a browser's."""
    return all(host_is_loopback(value.decode("latin-1")) for value in values)


def invalid_origin(entry: str) -> str | None:
    """Return what is wrong with an *entry* of the allow list; None for a valid one."""
    if entry in {ANY, "null"} or _parsed_origin(entry) is not None:
        return None
    return (
        f"{entry!r} is not an origin, expected scheme://host or scheme://host:port, nothing after it; "
        "or, of an application's own pages, file://, app://. and the like, or null, as they send it"
    )


def _parsed_origin(origin: str) -> Origin | None:
    """Return scheme, host and port of an *origin* as RFC 6454 compares them; None if it is not valid."""
    found = _ORIGIN.fullmatch(origin)
    if found is None:
        bare = _WITHOUT_HOST.fullmatch(origin)
        return None if bare is None else (bare["scheme"].lower(), "", "")
    scheme = found["scheme"].lower()
    return scheme, found["host"].lower(), found["port"] or _DEFAULT_PORTS.get(scheme, "")


@lru_cache(maxsize=8)
def _parsed_origins(allow_list: frozenset[str]) -> frozenset[Origin]:
    return frozenset(page for entry in allow_list if (page := _parsed_origin(entry)) is not None)


def _parsed_host(host: str, scheme: str) -> tuple[str, str] | None:
    """Return host and port of a Host header.

    The default port is that of the page's *scheme*, because a proxy may terminate TLS and forward plain HTTP.
    """
    found = _HOST_HEADER.fullmatch(host)
    return None if found is None else (found["host"].lower(), found["port"] or _DEFAULT_PORTS.get(scheme, ""))
