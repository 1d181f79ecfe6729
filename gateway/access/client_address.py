"""The address of a client behind proxies, as X-Forwarded-For reports it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address

Network = IPv4Network | IPv6Network
Address = IPv4Address | IPv6Address

_WITH_PORT = re.compile(r"\[(?P<v6>[^\]]*)\](?::[0-9]{1,5})?|(?P<v4>[0-9.]+):[0-9]{1,5}")


def client_address(peer: str, forwarded_for: Sequence[str], trusted: Iterable[Network]) -> str:
    """Return the address of the client behind *peer*, as the proxies among *trusted* report it.

    *forwarded_for* are the values of X-Forwarded-For, in their order. Any client can send that header, and
    every proxy appends the address of its peer: the header is read from its end, as long as a trusted proxy
    wrote the entry. At an entry that is not an address, the last address read before it is returned.
    """
    networks = tuple(trusted)
    address = _parsed_address(peer)
    if address is None:
        return peer
    for entry in reversed([entry for value in forwarded_for for entry in value.split(",")]):
        if not any(address in network for network in networks):
            break
        reported = _parsed_address(entry)
        if reported is None:
            break
        address = reported
    return str(address)


def is_trusted(address: str, networks: Sequence[Network]) -> bool:
    """Return whether *address* is in one of *networks*."""
    if not networks:
        return False
    parsed = _parsed_address(address)
    return parsed is not None and any(parsed in network for network in networks)


def source_of(address: str) -> str:
    """Return what *address* counts as where addresses have limits: itself, or its /64; IPv4 if it maps one.

    One subscriber's line has as many IPv6 addresses as a /64 (RFC 6177).
    """
    if ":" not in address:
        return address
    try:
        parsed = ip_address(address)
    except ValueError:
        return address
    if isinstance(parsed, IPv6Address):
        return str(parsed.ipv4_mapped or f"{IPv6Address(int(parsed) >> 64 << 64)}/64")
    return address


def _parsed_address(entry: str) -> Address | None:
    """Return the address in *entry*, which some proxies write with a port; IPv4 for a mapped address."""
    entry = entry.strip()
    with_port = _WITH_PORT.fullmatch(entry)
    try:
        address = ip_address(entry if with_port is None else with_port["v6"] or with_port["v4"] or "")
    except ValueError:
        return None
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address
