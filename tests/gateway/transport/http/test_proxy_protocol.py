import ipaddress
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.transport.http.proxy_protocol import (
    MAX_HEADER_BYTES,
    MAX_V1_BYTES,
    V1_PREFIX,
    V2_SIGNATURE,
    ProxyHeader,
    ProxyHeaderError,
    is_proxy_header,
    parse_proxy_header,
)


def v2(
    body: bytes = b"", *, version: int = 2, command: int = 1, family: int = 0x11, length: int | None = None
) -> bytes:
    size = len(body) if length is None else length
    return V2_SIGNATURE + bytes([version << 4 | command, family]) + struct.pack("!H", size) + body


def inet(source: str, port: int, extensions: bytes = b"") -> bytes:
    packed = ipaddress.ip_address(source).packed
    return packed + bytes(len(packed)) + struct.pack("!HH", port, 80) + extensions


TLV = b"\x04\x00\x03abc"
LONGEST_V1 = (
    b"PROXY TCP6 " + b" ".join([b"ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"] * 2) + b" 65535 65535\r\n"
)

HEADERS: dict[str, tuple[bytes, tuple[str, int] | None]] = {
    "v1 over IPv4": (b"PROXY TCP4 198.51.100.7 192.0.2.1 56324 443\r\n", ("198.51.100.7", 56324)),
    "v1 over IPv6": (b"PROXY TCP6 2001:DB8::0:7 2001:db8::1 1 2\r\n", ("2001:db8::7", 1)),
    "v1, longest": (LONGEST_V1, ("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", 65535)),
    "v1 of nobody": (b"PROXY UNKNOWN\r\n", None),
    "v1 of nobody with addresses": (b"PROXY UNKNOWN a b c d\r\n", None),
    "v2 over IPv4": (v2(inet("198.51.100.7", 56324)), ("198.51.100.7", 56324)),
    "v2 over IPv6": (v2(inet("2001:db8::7", 1), family=0x21), ("2001:db8::7", 1)),
    "v2 with extensions": (v2(inet("198.51.100.7", 1, TLV * 3)), ("198.51.100.7", 1)),
    "v2 of the proxy itself": (v2(command=0, family=0), None),
    "v2 of the proxy itself, with addresses": (v2(inet("198.51.100.7", 1), command=0), None),
    "v2 of nobody": (v2(family=0), None),
    "v2 of nobody with extensions": (v2(TLV, family=0), None),
    "v2 over a Unix socket": (v2(bytes(216), family=0x31), None),
    "v2, longest": (
        v2(inet("198.51.100.7", 1, struct.pack("!BH", 4, 4065) + bytes(4065))),
        ("198.51.100.7", 1),
    ),
}

MALFORMED: dict[str, bytes] = {
    "HTTP": b"GET / HTTP/1.1\r\n",
    "v1 without CR": b"PROXY TCP4 198.51.100.7 192.0.2.1 1 2\n",
    "v1 without an end": b"PROXY TCP4 " + b"1" * MAX_V1_BYTES,
    "v1 in lower case": b"proxy TCP4 198.51.100.7 192.0.2.1 1 2\r\n",
    "v1 of another family": b"PROXY UDP4 198.51.100.7 192.0.2.1 1 2\r\n",
    "v1 with two spaces": b"PROXY TCP4  198.51.100.7 192.0.2.1 1 2\r\n",
    "v1 with a space at the end": b"PROXY TCP4 198.51.100.7 192.0.2.1 1 2 \r\n",
    "v1 without ports": b"PROXY TCP4 198.51.100.7 192.0.2.1\r\n",
    "v1 with the wrong kind of address": b"PROXY TCP4 2001:db8::7 192.0.2.1 1 2\r\n",
    "v1 with a zone": b"PROXY TCP6 fe80::1%eth0 2001:db8::1 1 2\r\n",
    "v1 with a wrong destination": b"PROXY TCP4 198.51.100.7 here 1 2\r\n",
    "v1 with a leading zero": b"PROXY TCP4 198.51.100.7 192.0.2.1 01 2\r\n",
    "v1 with a port too large": b"PROXY TCP4 198.51.100.7 192.0.2.1 65536 2\r\n",
    "v1 with a signed port": b"PROXY TCP4 198.51.100.7 192.0.2.1 +1 2\r\n",
    "v2 of another version": v2(inet("198.51.100.7", 1), version=3),
    "v2 with another command": v2(inet("198.51.100.7", 1), command=2),
    "v2 of datagrams": v2(inet("198.51.100.7", 1), family=0x12),
    "v2 of an unknown family": v2(inet("198.51.100.7", 1), family=0x41),
    "v2 shorter than its addresses": v2(bytes(11)),
    "v2 with an incomplete extension": v2(inet("198.51.100.7", 1, b"\x04\x00")),
    "v2 with an extension too long": v2(inet("198.51.100.7", 1, b"\x04\x00\x04abc")),
    "v2 too long": v2(length=MAX_HEADER_BYTES),
}


@pytest.mark.parametrize("what", HEADERS)
def test_a_header_is_complete_at_its_last_byte(what: str) -> None:
    data, source = HEADERS[what]
    for end in range(len(data)):
        assert parse_proxy_header(data[:end]) is None, end
    assert parse_proxy_header(data) == ProxyHeader(len(data), source)
    assert parse_proxy_header(data + b"GET / HTTP/1.1\r\n") == ProxyHeader(len(data), source)
    assert is_proxy_header(data)


@pytest.mark.parametrize("what", MALFORMED)
def test_what_is_no_header_is_an_error(what: str) -> None:
    with pytest.raises(ProxyHeaderError):
        parse_proxy_header(MALFORMED[what])


@given(
    st.sampled_from([b"", V1_PREFIX, V1_PREFIX + b"TCP4 ", V2_SIGNATURE, V2_SIGNATURE + b"\x21\x11"]),
    st.binary(),
)
def test_any_bytes_are_a_header_or_incomplete_or_an_error(prefix: bytes, data: bytes) -> None:
    try:
        header = parse_proxy_header(prefix + data)
    except ProxyHeaderError:
        return
    if header is None:
        assert len(prefix + data) < MAX_HEADER_BYTES
    else:
        assert header.size <= len(prefix + data)
