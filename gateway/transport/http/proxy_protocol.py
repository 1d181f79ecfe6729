"""The PROXY protocol, versions 1 and 2: a header by which a proxy says whose connection it forwards.

Specified in https://www.haproxy.org/download/3.0/doc/proxy-protocol.txt; sent by HAProxy, nginx (`stream`),
AWS Network Load Balancers, Envoy and others.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address

V1_PREFIX = b"PROXY "
V2_SIGNATURE = b"\r\n\r\n\x00\r\nQUIT\n"

MAX_V1_BYTES = 107
"""In a line of version 1, with CR and LF (section 2.1)."""

MAX_HEADER_BYTES = 4_096
"""In a header of version 2, whose length field would allow 64 KiB: as many as nginx accepts."""

_V2_HEAD = struct.Struct("!12sBBH")
_V2_IPV4, _V2_IPV6 = struct.Struct("!4s4sHH"), struct.Struct("!16s16sHH")
_V2_UNIX_BYTES = 216
_TLV = struct.Struct("!BH")
_PORT = re.compile(r"0|[1-9][0-9]{0,4}", re.ASCII)

_LOCAL, _PROXY = 0, 1
_UNSPEC, _INET, _INET6, _UNIX = range(4)
_STREAM = 1


class ProxyHeaderError(Exception):
    """Bytes that are no header of the PROXY protocol; the text says why."""


@dataclass(frozen=True, slots=True)
class ProxyHeader:
    """A complete header."""

    size: int
    """Bytes; what follows them is of the client."""
    source: tuple[str, int] | None
    """Address and port of the client; None for a connection of the proxy itself, or of an unknown client."""


def is_proxy_header(data: bytes) -> bool:
    """Return whether *data* begins as a header does, in either version."""
    return data.startswith((V1_PREFIX, V2_SIGNATURE))


def parse_proxy_header(data: bytes) -> ProxyHeader | None:
    """Return the header at the beginning of *data*; None while it is incomplete.

    Raises:
        ProxyHeaderError: *data* does not begin with a header, or with one that is malformed.

    """
    if data.startswith(V2_SIGNATURE):
        return _parse_v2(data)
    if data.startswith(V1_PREFIX):
        return _parse_v1(data)
    if V2_SIGNATURE.startswith(data) or V1_PREFIX.startswith(data):
        return None
    raise ProxyHeaderError("there is none")


# ---------------------------------------------------------------- version 1 (section 2.1)


def _parse_v1(data: bytes) -> ProxyHeader | None:
    end = data.find(b"\n", 0, MAX_V1_BYTES)
    if end < 0:
        if len(data) >= MAX_V1_BYTES:
            raise ProxyHeaderError(f"a line of version 1 has at most {MAX_V1_BYTES} bytes")
        return None
    if data[end - 1 : end] != b"\r":
        raise ProxyHeaderError("a line of version 1 ends with CR and LF")
    family, *rest = data[len(V1_PREFIX) : end - 1].decode("latin-1").split(" ")
    if family == "UNKNOWN":
        return ProxyHeader(end + 1, None)
    if family not in {"TCP4", "TCP6"} or len(rest) != 4:
        raise ProxyHeaderError("version 1 has TCP4 or TCP6, two addresses and two ports, or UNKNOWN")
    source, _ = (_address(text, family) for text in rest[:2])
    port, _ = (_port(text) for text in rest[2:])
    return ProxyHeader(end + 1, (source, port))


def _address(text: str, family: str) -> str:
    try:
        # A zone after "%" has a meaning on the proxy's machine alone.
        return str(IPv4Address(text) if family == "TCP4" else IPv6Address(text.replace("%", "-")))
    except ValueError:
        raise ProxyHeaderError(f"not an address of {family}") from None


def _port(text: str) -> int:
    if not _PORT.fullmatch(text) or int(text) > 65_535:
        raise ProxyHeaderError("not a port")
    return int(text)


# ---------------------------------------------------------------- version 2 (section 2.2)


def _parse_v2(data: bytes) -> ProxyHeader | None:
    if len(data) < _V2_HEAD.size:
        return None
    _, version_and_command, family_and_transport, length = _V2_HEAD.unpack_from(data)
    version, command = divmod(version_and_command, 16)
    size = _V2_HEAD.size + length
    if version != 2 or command not in {_LOCAL, _PROXY}:
        raise ProxyHeaderError("unknown version or command")
    if size > MAX_HEADER_BYTES:
        raise ProxyHeaderError(f"longer than {MAX_HEADER_BYTES} bytes")
    if len(data) < size:
        return None
    if command == _LOCAL:
        return ProxyHeader(size, None)
    family, transport = divmod(family_and_transport, 16)
    return ProxyHeader(size, _v2_source(data[_V2_HEAD.size : size], family, transport))


def _v2_source(body: bytes, family: int, transport: int) -> tuple[str, int] | None:
    if family == _UNSPEC:
        return None
    if family not in _ADDRESS_BYTES or transport != _STREAM:
        raise ProxyHeaderError("an unknown family of addresses, or no stream")
    size = _ADDRESS_BYTES[family]
    if len(body) < size:
        raise ProxyHeaderError("shorter than its addresses")
    _check_tlvs(body[size:])
    if family == _UNIX:
        return None
    source, _, port, _ = (_V2_IPV4 if family == _INET else _V2_IPV6).unpack_from(body)
    return str(IPv4Address(source) if family == _INET else IPv6Address(source)), port


_ADDRESS_BYTES = {_INET: _V2_IPV4.size, _INET6: _V2_IPV6.size, _UNIX: _V2_UNIX_BYTES}


def _check_tlvs(data: bytes) -> None:
    """Check that *data* consists of complete type-length-value vectors, none of which is used here."""
    start = 0
    while start < len(data):
        if len(data) - start < _TLV.size:
            raise ProxyHeaderError("an incomplete extension")
        start += _TLV.size + _TLV.unpack_from(data, start)[1]
    if start > len(data):
        raise ProxyHeaderError("an extension that is longer than the header")
