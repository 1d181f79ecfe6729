"""Whose pages may connect, and from which address a client really comes. Pure: headers in, an answer out."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address

ANY = "*"
"""An entry that admits every page."""

Network = IPv4Network | IPv6Network
Address = IPv4Address | IPv6Address
Site = tuple[str, str, str]

_DEFAULT_PORTS = {"http": "80", "https": "443", "ws": "80", "wss": "443"}
_LOOPBACK = frozenset({"127.0.0.1", "localhost", "[::1]"})
_HOST = r"(?P<host>\[[0-9A-Fa-f:.]+\]|[^\s/\\@:?#\[\]]+)(?::(?P<port>[0-9]{1,5}))?"
_ORIGIN = re.compile(rf"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*)://{_HOST}")
_HOST_HEADER = re.compile(_HOST)


def allowed(
    origin: str | None, host: str | None, allow_list: frozenset[str], *, loopback: bool = False
) -> bool:
    """Return whether a page of *origin* may connect to us, addressed as *host* (both as in their headers).

    Without an Origin there is no page: browsers always send one (RFC 6455 section 4.1), and who is no browser
    could write any. Otherwise it must be in *allow_list* with its scheme, host and port, or, where that is
    empty, have the host and port of the Host header. `null` must be listed; `*` lists everything.

    With *loopback*, the pages of this machine may, from any port, and nobody else who is not listed: whoever
    makes a name of his own lead to this machine has the same host in both headers (DNS rebinding).
    """
    if origin is None or ANY in allow_list or origin in allow_list:
        return True
    site = _site(origin)
    if site is None:
        return False
    if loopback and site[0] in {"http", "https"} and site[1] in _LOOPBACK:
        return True
    if allow_list or loopback:
        return site in _sites(allow_list)
    return host is not None and site[1:] == _addressed(host, site[0])


def fault(entry: str) -> str | None:
    """Return what is wrong with an *entry* of the allow list; None where nothing is."""
    if entry in {ANY, "null"} or _site(entry) is not None:
        return None
    return f"{entry!r} is no origin, expected scheme://host or scheme://host:port, nothing after it"


def client_address(peer: str, forwarded_for: Sequence[str], trusted: Iterable[Network]) -> str:
    """Return the address of the client behind *peer*, as the proxies among *trusted* report it.

    *forwarded_for* are the values of X-Forwarded-For, in their order. Anyone can write that header, and every
    proxy appends to it whom it was called by: it is read from its end, only as long as a trusted proxy wrote
    it. An entry that is no address ends the reading at the last one that was.
    """
    networks = tuple(trusted)
    address = _address(peer)
    if address is None:
        return peer
    for entry in reversed([entry for value in forwarded_for for entry in value.split(",")]):
        if not any(address in network for network in networks):
            break
        reported = _address(entry)
        if reported is None:
            break
        address = reported
    return str(address)


def _site(origin: str) -> Site | None:
    """Return scheme, host and port of an *origin* as RFC 6454 compares them; None where it is none."""
    found = _ORIGIN.fullmatch(origin)
    if found is None:
        return None
    scheme = found["scheme"].lower()
    return scheme, found["host"].lower(), found["port"] or _DEFAULT_PORTS.get(scheme, "")


@lru_cache(maxsize=8)
def _sites(allow_list: frozenset[str]) -> frozenset[Site]:
    return frozenset(site for entry in allow_list if (site := _site(entry)) is not None)


def _addressed(host: str, scheme: str) -> tuple[str, str] | None:
    """Return host and port of a Host header for a page of *scheme*, which alone tells if TLS is before us."""
    found = _HOST_HEADER.fullmatch(host)
    return None if found is None else (found["host"].lower(), found["port"] or _DEFAULT_PORTS.get(scheme, ""))


_WITH_PORT = re.compile(r"\[(?P<v6>[^\]]*)\](?::[0-9]{1,5})?|(?P<v4>[0-9.]+):[0-9]{1,5}")


def _address(entry: str) -> Address | None:
    """Return the address in *entry*, which some proxies write with a port; IPv4 where it only wraps that."""
    entry = entry.strip()
    with_port = _WITH_PORT.fullmatch(entry)
    try:
        address = ip_address(entry if with_port is None else with_port["v6"] or with_port["v4"] or "")
    except ValueError:
        return None
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address
