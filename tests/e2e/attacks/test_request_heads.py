"""Heads of requests that never end, on both listeners, while a backend publishes."""

import asyncio
from collections.abc import Iterator

import orjson
import pytest

from tests.e2e.clients import RawConnection
from tests.e2e.gateway import GatewayProcess, gateway_process, publish

MB = 1024 * 1024
LINE = b"GET /healthz HTTP/1.1\r\nhost: a\r\n"
HEADS: dict[str, tuple[bytes, bytes, int]] = {
    # how the head begins, what comes again and again, and how it is refused
    "small fields": (LINE, b"a:b\r\n" * 50_000, 431),
    "a long value": (LINE + b"x: ", b"v" * 250_000, 431),
    "a long name": (LINE, b"n" * 250_000, 431),
    "spaces before a value": (LINE + b"x:", b" " * 250_000, 431),
    "a long target": (b"GET /", b"t" * 250_000, 414),
}


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    with gateway_process(tmp_path_factory.mktemp("gateway")) as gateway:
        yield gateway


def port_of(gateway: GatewayProcess, listener: str) -> int:
    return gateway.public if listener == "public" else gateway.internal


@pytest.mark.parametrize("listener", ["public", "internal"])
@pytest.mark.parametrize("what", HEADS)
async def test_a_head_is_refused_before_its_end(gateway: GatewayProcess, what: str, listener: str) -> None:
    first, again, status = HEADS[what]
    with await RawConnection.open(port_of(gateway, listener)) as raw:
        await raw.try_send(first + again)
        response = await raw.read_response()
        assert (response.status, response.headers["connection"]) == (status, "close")
        assert orjson.loads(response.body)["error"]["code"] == "bad_request"
        assert await raw.read_to_end() == b""


@pytest.mark.parametrize("listener", ["public", "internal"])
async def test_a_flood_of_fields_takes_no_memory(gateway: GatewayProcess, listener: str) -> None:
    """Twenty send 8 MB each; a backend's publishes are answered meanwhile."""
    first, again, _ = HEADS["small fields"]
    await publish(gateway.internal, "calm", "before")
    before = largest = gateway.resident_bytes()
    flooding = True

    async def flood() -> None:
        with await RawConnection.open(port_of(gateway, listener)) as raw:
            await raw.try_send(first)
            for _ in range(8 * MB // len(again)):
                if not await raw.try_send(again):
                    return

    async def talk() -> int:
        nonlocal largest
        published = 0
        while flooding or not published:
            await publish(gateway.internal, "calm", published)
            published += 1
            largest = max(largest, gateway.resident_bytes())
        return published

    talking = asyncio.ensure_future(talk())
    async with asyncio.TaskGroup() as attackers:
        for _ in range(20):
            attackers.create_task(flood())
    flooding = False
    assert await talking > 0
    assert largest - before < 64 * MB
