"""The PROXY protocol on the public listener: whose address counts, and what is refused."""

import asyncio
import socket
import struct
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.e2e.clients import RawConnection, upgrade_request
from tests.e2e.gateway import TIMEOUT_SECONDS, GatewayProcess, gateway_process

CONFIG = """
[listen.public]
proxy_protocol = true
trusted_proxies = ["127.0.0.1/32"]
[limits]
connections_per_address = 1
"""
PROXY = "127.0.0.1"
CLIENT = "127.0.0.2"
"""An address that is not among the trusted ones."""


def v1(source: str) -> bytes:
    return f"PROXY TCP4 {source} 192.0.2.1 56324 443\r\n".encode()


def v2(source: str) -> bytes:
    signature = b"\r\n\r\n\x00\r\nQUIT\n"
    addresses = socket.inet_aton(source) + socket.inet_aton("192.0.2.1") + struct.pack("!HH", 56324, 443)
    return signature + b"\x21\x11" + struct.pack("!H", len(addresses)) + addresses


LOCAL = b"\r\n\r\n\x00\r\nQUIT\n\x20\x00\x00\x00"
UNSPEC = b"\r\n\r\n\x00\r\nQUIT\n\x21\x00\x00\x00"
HEALTHZ = b"GET /healthz HTTP/1.1\r\nhost: a\r\n\r\n"


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator[GatewayProcess]:
    with gateway_process(tmp_path, CONFIG) as gateway:
        yield gateway


def connection_from(source: str, port: int) -> RawConnection:
    sock = socket.create_connection(("127.0.0.1", port), 20, (source, 0))
    sock.setblocking(False)
    return RawConnection(sock)


async def status_of(raw: RawConnection, data: bytes) -> int:
    await raw.send(data)
    return (await raw.read_response()).status


@pytest.mark.parametrize("header", [v1, v2])
async def test_limits_count_the_address_that_the_proxy_reports(
    gateway: GatewayProcess, header: Callable[[str], bytes]
) -> None:
    with closing(connection_from(PROXY, gateway.public)) as first:
        assert await status_of(first, header("198.51.100.1") + upgrade_request()) == 101
        with closing(connection_from(PROXY, gateway.public)) as second:
            assert await status_of(second, header("198.51.100.1") + upgrade_request()) == 429
        with closing(connection_from(PROXY, gateway.public)) as other:
            assert await status_of(other, header("198.51.100.2") + upgrade_request()) == 101
            assert (await other.call(type="connect", id=1))["type"] == "connected"


@pytest.mark.parametrize("header", [v1("198.51.100.1"), v2("198.51.100.1")])
async def test_a_header_may_arrive_byte_by_byte(gateway: GatewayProcess, header: bytes) -> None:
    with closing(connection_from(PROXY, gateway.public)) as raw:
        await raw.send_byte_by_byte(header)
        assert await status_of(raw, upgrade_request()) == 101


@pytest.mark.parametrize("header", [LOCAL, UNSPEC, b"PROXY UNKNOWN\r\n"], ids=["local", "unspec", "unknown"])
async def test_a_connection_of_nobody_is_the_proxys(gateway: GatewayProcess, header: bytes) -> None:
    with closing(connection_from(PROXY, gateway.public)) as raw:
        assert await status_of(raw, header + HEALTHZ) == 200


async def test_an_address_is_forwarded_once_more_by_x_forwarded_for(tmp_path: Path) -> None:
    trusted = CONFIG.replace('"127.0.0.1/32"', '"127.0.0.1/32", "10.0.0.0/8"')
    with (
        gateway_process(tmp_path, trusted) as gateway,
        closing(connection_from(PROXY, gateway.public)) as first,
        closing(connection_from(PROXY, gateway.public)) as second,
    ):
        request = upgrade_request(x_forwarded_for="198.51.100.1")
        assert await status_of(first, v1("10.1.2.3") + request) == 101
        assert await status_of(second, v2("198.51.100.1") + upgrade_request()) == 429


async def test_others_connect_without_a_header(gateway: GatewayProcess) -> None:
    with closing(connection_from(CLIENT, gateway.public)) as raw:
        assert await status_of(raw, upgrade_request()) == 101


REFUSED = {
    "from an untrusted address": (CLIENT, v1("198.51.100.1"), "not in listen.public.trusted_proxies"),
    "v2 from an untrusted address": (CLIENT, v2("198.51.100.1"), "not in listen.public.trusted_proxies"),
    "missing": (PROXY, b"", "there is none"),
    "malformed": (PROXY, b"PROXY TCP4 198.51.100.1\r\n", "two addresses and two ports"),
    "malformed v2": (PROXY, LOCAL.replace(b"\x20", b"\x30"), "unknown version or command"),
    "two headers": (PROXY, v1("198.51.100.1") * 2, "it is the second one"),
}


@pytest.mark.parametrize("what", REFUSED)
async def test_a_header_that_is_not_accepted_leaves_a_line(gateway: GatewayProcess, what: str) -> None:
    source, header, reason = REFUSED[what]
    with closing(connection_from(source, gateway.public)) as raw:
        assert await status_of(raw, header + HEALTHZ) == 400
        assert await raw.read_to_end() == b""
    log = await gateway.log_with("proxy header refused")
    (line,) = [line for line in log.splitlines() if "proxy header refused" in line]
    assert reason in line
    assert (await gateway.metrics())["public_connections_proxy_headers_refused_total"] == 1


async def test_a_header_where_none_is_configured_leaves_a_line(tmp_path: Path) -> None:
    with gateway_process(tmp_path) as gateway:
        with closing(connection_from(PROXY, gateway.public)) as raw:
            assert await status_of(raw, v1("198.51.100.1") + HEALTHZ) == 400
        await gateway.log_with("listen.public.proxy_protocol is off")


async def test_a_header_has_a_deadline(tmp_path: Path) -> None:
    config = CONFIG.replace("proxy_protocol", 'header_timeout = "50ms"\nproxy_protocol')
    with gateway_process(tmp_path, config) as gateway:
        with closing(connection_from(PROXY, gateway.public)) as raw:
            await raw.send(b"PROXY TCP4 ")
            assert await raw.read_to_end() == b""
        await gateway.log_with("did not come in time")


async def test_connections_without_connect_are_counted_by_the_reported_address(tmp_path: Path) -> None:
    config = CONFIG.replace("proxy_protocol", "unconnected_per_address = 2\nproxy_protocol")
    with gateway_process(tmp_path, config) as gateway:
        sockets = [connection_from(PROXY, gateway.public) for _ in range(8)]
        try:
            for raw in sockets[:4]:
                await raw.send(v2("198.51.100.1"))
            displaced = 0.0
            async with asyncio.timeout(TIMEOUT_SECONDS):
                while displaced < 2:  # another process does not notify us
                    displaced = (await gateway.metrics())["public_connections_closed_silent_total"]
            for number, raw in enumerate(sockets[4:]):
                await raw.send(v2(f"198.51.100.{number + 2}"))
            for raw in sockets[4:]:
                assert await status_of(raw, HEALTHZ) == 200
            assert (await gateway.metrics())["public_connections_closed_silent_total"] == 2
        finally:
            for raw in sockets:
                raw.close()
