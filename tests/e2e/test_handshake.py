"""The opening handshake, and the HTTP responses of the public listener, over real sockets."""

import asyncio
from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import orjson
import pytest

from tests.e2e.clients import (
    BINARY,
    JSON,
    MSGPACK,
    TEXT,
    Client,
    RawConnection,
    client_frame,
    upgrade_request,
)
from tests.e2e.gateway import GatewayProcess, gateway_on_loop, gateway_process, wait_until

CONFIG = """
[listen.public]
allowed_origins = ["https://app.example.com"]
[log]
level = "debug"
"""
CONNECT = client_frame(TEXT, b'{"type":"connect","id":1}')


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    with gateway_process(tmp_path_factory.mktemp("gateway"), CONFIG) as gateway:
        yield gateway


# ---------------------------------------------------------------- subprotocols


@pytest.mark.parametrize(
    ("offered", "chosen"),
    [
        (JSON, JSON),
        (MSGPACK, MSGPACK),
        (f"{JSON}, {MSGPACK}", JSON),
        (f"{MSGPACK},{JSON}", MSGPACK),
        (f"chat, {MSGPACK}, {JSON}", MSGPACK),
        (f"fanway.v2.json, {JSON}", JSON),
    ],
)
async def test_first_supported_subprotocol_of_the_client_is_chosen(
    gateway: GatewayProcess, offered: str, chosen: str
) -> None:
    with await RawConnection.open(gateway.public) as raw:
        await raw.send(upgrade_request(subprotocol=offered))
        response = await raw.read_response()
        assert (response.status, response.headers["sec-websocket-protocol"]) == (101, chosen)
        assert response.headers["sec-websocket-accept"] == "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
        await raw.send(client_frame(BINARY if chosen == MSGPACK else TEXT, b"?"))
        assert (await raw.read_frame()).opcode == (BINARY if chosen == MSGPACK else TEXT)


async def test_client_without_a_subprotocol_gets_json(gateway: GatewayProcess) -> None:
    with await RawConnection.open(gateway.public) as raw:
        await raw.send(upgrade_request(subprotocol=None))
        response = await raw.read_response()
        assert response.status == 101
        assert "sec-websocket-protocol" not in response.headers
        assert (await raw.call(type="connect", id=1))["type"] == "connected"


async def test_refusal_of_unknown_subprotocols_lists_the_supported_ones(gateway: GatewayProcess) -> None:
    with await RawConnection.open(gateway.public) as raw:
        await raw.send(upgrade_request(subprotocol="chat, superchat"))
        response = await raw.read_response()
        assert response.status == 400
        error = orjson.loads(response.body)["error"]
        assert error["code"] == "bad_request"
        assert JSON in error["message"]
        assert MSGPACK in error["message"]
        assert await raw.read_to_end() == b""


SPELT: dict[str, bytes] = {
    "as browsers do": upgrade_request(connection="keep-alive, Upgrade", origin="https://app.example.com"),
    "in capitals": upgrade_request(upgrade="WebSocket", connection="UPGRADE"),
    "with names in capitals": upgrade_request()
    .replace(b"sec-websocket-", b"Sec-WebSocket-")
    .replace(b"host", b"HOST"),
    "with a length of nothing": upgrade_request(content_length="0"),
    "with the server in it": upgrade_request("http://gateway.test/v1/ws?a=b"),
    "with a query": upgrade_request("/v1/ws?a=b&c=%00%ff"),
    "percent-encoded": upgrade_request("/v1/%77s"),
}


@pytest.mark.parametrize("how", SPELT)
async def test_valid_variant_of_the_request_is_accepted(gateway: GatewayProcess, how: str) -> None:
    with await RawConnection.open(gateway.public) as raw:
        await raw.send(SPELT[how])
        assert (await raw.read_response()).status == 101


async def test_extensions_are_not_negotiated(gateway: GatewayProcess) -> None:
    with await RawConnection.open(gateway.public) as raw:
        await raw.send(upgrade_request(sec_websocket_extensions="permessage-deflate; client_max_window_bits"))
        assert "sec-websocket-extensions" not in (await raw.read_response()).headers


# ---------------------------------------------------------------- what is no handshake


REFUSED: dict[str, tuple[bytes, int, dict[str, str]]] = {
    "another version": (upgrade_request(sec_websocket_version="8"), 426, {"sec-websocket-version": "13"}),
    "no version": (upgrade_request(without="sec-websocket-version"), 426, {"sec-websocket-version": "13"}),
    "no key": (upgrade_request(without="sec-websocket-key"), 400, {}),
    "a key that is none": (upgrade_request(sec_websocket_key="c2hvcnQ="), 400, {}),
    "an empty list of subprotocols": (upgrade_request(subprotocol=""), 400, {}),
    "POST": (upgrade_request(method="POST"), 405, {"allow": "GET"}),
    "PUT": (upgrade_request(method="PUT"), 405, {"allow": "GET"}),
    "HTTP/1.0": (upgrade_request(version="1.0"), 505, {}),
    "no host": (upgrade_request(without="host"), 400, {}),
    "two hosts": (upgrade_request(x="1\r\nhost: other.test"), 400, {}),
    "a body": (upgrade_request(content_length="4") + b"GET ", 400, {}),
    "a body in chunks": (upgrade_request(transfer_encoding="chunked") + b"0\r\n\r\n", 400, {}),
    "no upgrade": (upgrade_request(without="upgrade"), 426, {"upgrade": "websocket"}),
    "no connection": (upgrade_request(without="connection"), 426, {"upgrade": "websocket"}),
    "another upgrade": (upgrade_request(upgrade="h2c"), 426, {"upgrade": "websocket"}),
    "a plain GET": (b"GET /v1/ws HTTP/1.1\r\nhost: a\r\n\r\n", 426, {"upgrade": "websocket"}),
    "a plain POST": (b"POST /v1/ws HTTP/1.1\r\nhost: a\r\ncontent-length: 1\r\n\r\n ", 405, {}),
    "another path": (upgrade_request("/v2/ws"), 404, {"content-type": "application/json"}),
    "a plain other path": (b"GET / HTTP/1.1\r\nhost: a\r\n\r\n", 404, {}),
    "the push API": (b"POST /v1/publish HTTP/1.1\r\nhost: a\r\ncontent-length: 0\r\n\r\n", 404, {}),
    "another origin": (upgrade_request(origin="https://evil.example.com"), 403, {}),
    "an origin that only begins like ours": (
        upgrade_request(origin="https://app.example.com.evil.test"),
        403,
        {},
    ),
    "our origin without TLS": (upgrade_request(origin="http://app.example.com"), 403, {}),
    "no origin at all": (upgrade_request(origin="null"), 403, {}),
    "a head that is too large": (upgrade_request(cookie="c" * 20_000), 431, {}),
    "a head much too large": (upgrade_request(cookie="c" * 2_000_000), 431, {}),
    "a head without an end": (b"GET /" + b"a" * 500_000, 414, {}),
    "HTTP/2": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400, {}),
    "TLS": (bytes.fromhex("16030100c8010000c40303"), 400, {}),
    "no HTTP": (b"\x00\x01\x02\x03\r\n\r\n", 400, {}),
    "a target that is none": (upgrade_request("*"), 404, {}),
    "another server's target": (upgrade_request("http://[::1"), 400, {}),
    "a path that is not ASCII": ("GET /\xff HTTP/1.1\r\nhost: a\r\n\r\n".encode("latin-1"), 400, {}),
}


@pytest.mark.parametrize("what", REFUSED)
async def test_invalid_request_is_rejected(gateway: GatewayProcess, what: str) -> None:
    request, status, headers = REFUSED[what]
    with await RawConnection.open(gateway.public) as raw:
        await raw.try_send(request)
        response = await raw.read_response()
        assert response.status == status, response
        assert response.headers["connection"] in ("close", "upgrade")
        assert response.headers.items() >= headers.items()
        error = orjson.loads(response.body)["error"]
        assert error["code"] in ("bad_request", "permission_denied")
        assert error["message"]
        assert await raw.read_to_end() == b"", "one answer, then the end"


@pytest.mark.parametrize("origin", ["https://app.example.com", "https://APP.example.com:443"])
async def test_allowed_origin_may_connect(gateway: GatewayProcess, origin: str) -> None:
    with await RawConnection.open(gateway.public) as raw:
        await raw.send(upgrade_request(origin=origin))
        assert (await raw.read_response()).status == 101


SMUGGLED = b"GET /healthz HTTP/1.1\r\nhost: a\r\n\r\n"
SMUGGLING: dict[str, bytes] = {
    "a request in a body": b"POST /healthz HTTP/1.1\r\nhost: a\r\ncontent-length: 34\r\n\r\n" + SMUGGLED,
    "a request behind a body": b"GET /healthz HTTP/1.1\r\nhost: a\r\ncontent-length: 1\r\n\r\n " + SMUGGLED,
    "two lengths": b"GET /healthz HTTP/1.1\r\nhost: a\r\ncontent-length: 0\r\ncontent-length: 34\r\n\r\n",
    "a length and chunks": b"GET /healthz HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\n"
    b"transfer-encoding: chunked\r\n\r\n0\r\n\r\n" + SMUGGLED,
    "chunks twice": b"GET /healthz HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n"
    b"transfer-encoding: identity\r\n\r\n0\r\n\r\n" + SMUGGLED,
    "a length with a sign": b"GET /healthz HTTP/1.1\r\nhost: a\r\ncontent-length: +34\r\n\r\n" + SMUGGLED,
    "a space before the colon": b"GET /healthz HTTP/1.1\r\nhost: a\r\ncontent-length : 34\r\n\r\n" + SMUGGLED,
    "a folded header": b"GET /healthz HTTP/1.1\r\nhost: a\r\nx: a\r\n content-length: 34\r\n\r\n" + SMUGGLED,
    "line feeds alone": b"GET /healthz HTTP/1.1\nhost: a\n\n" + SMUGGLED,
    "a NUL": b"GET /healthz HTTP/1.1\r\nhost: a\r\nx: \x00\r\n\r\n" + SMUGGLED,
    "a refused upgrade": upgrade_request(sec_websocket_version="1337") + SMUGGLED,
    "an upgrade elsewhere": upgrade_request("/healthz") + SMUGGLED,
    "an upgrade to something else": upgrade_request("/healthz", upgrade="h2c") + SMUGGLED,
    "two requests at once": SMUGGLED * 2,
    "a thousand requests at once": SMUGGLED * 1_000,
}


@pytest.mark.parametrize("how", SMUGGLING)
async def test_connection_gets_exactly_one_response(gateway: GatewayProcess, how: str) -> None:
    with await RawConnection.open(gateway.public) as raw:
        await raw.try_send(SMUGGLING[how])
        said = await raw.read_to_end()
        assert said.count(b"HTTP/1.1 ") == 1, said
        await raw.try_send(SMUGGLED)


# ---------------------------------------------------------------- how bytes arrive


@pytest.mark.parametrize("subprotocol", [JSON, MSGPACK])
async def test_request_head_may_arrive_byte_by_byte(gateway: GatewayProcess, subprotocol: str) -> None:
    with await RawConnection.open(gateway.public) as raw:
        await raw.send_byte_by_byte(upgrade_request(subprotocol=subprotocol))
        assert (await raw.read_response()).status == 101


@pytest.mark.parametrize("cut", [0, 1, 6, len(CONNECT) - 1, len(CONNECT)])
async def test_frames_may_arrive_together_with_the_request(gateway: GatewayProcess, cut: int) -> None:
    with await RawConnection.open(gateway.public) as raw:
        await raw.send(upgrade_request() + CONNECT[:cut])
        assert (await raw.read_response()).status == 101
        await raw.send(CONNECT[cut:])
        assert (await raw.receive())["type"] == "connected"


async def test_many_and_large_frames_may_arrive_together_with_the_request(gateway: GatewayProcess) -> None:
    commands = [
        {"type": "connect", "id": 1, "client": {"name": "x" * 100, "version": "1"}, "pad": "x" * 60_000}
    ]
    commands += [{"type": "ping", "id": number} for number in range(2, 20)]
    frames = b"".join(client_frame(TEXT, orjson.dumps(command)) for command in commands)
    with await RawConnection.open(gateway.public) as raw:
        await raw.send(upgrade_request() + frames)
        assert (await raw.read_response()).status == 101
        assert [(await raw.receive())["id"] for _ in commands] == list(range(1, 20))


async def test_frames_after_a_rejected_request_are_ignored(gateway: GatewayProcess) -> None:
    with await RawConnection.open(gateway.public) as raw:
        await raw.send(upgrade_request(origin="https://evil.example.com") + CONNECT * 100)
        assert (await raw.read_response()).status == 403
        assert await raw.read_to_end() == b""


async def test_incomplete_request_head_times_out(tmp_path: Path) -> None:
    async with gateway_on_loop(tmp_path, listen__public__header_timeout=0.3) as gateway:
        silent, half, slow = [await RawConnection.open(gateway.public) for _ in range(3)]
        with silent, half, slow, await RawConnection.websocket(gateway.public) as open_one:
            await half.send(upgrade_request()[:-2])

            async def drip() -> None:
                while True:
                    if not await slow.try_send(b"X-Slow: 1\r\n"):
                        return
                    await asyncio.sleep(0.02)

            await slow.send(b"GET /v1/ws HTTP/1.1\r\n")
            dripping = asyncio.ensure_future(drip())
            assert await silent.read_to_end() == b""
            assert (await half.read_response()).status == 408
            assert (await slow.read_response()).status == 408
            slow.close()
            dripping.cancel()
            assert (await open_one.call(type="connect", id=1))["type"] == "connected"
            await asyncio.gather(dripping, return_exceptions=True)


# ---------------------------------------------------------------- who gets in


async def test_query_strings_are_not_logged(gateway: GatewayProcess) -> None:
    secret = "eyJhbGciOiJIUzI1NiJ9.very-secret"
    for request in (
        upgrade_request(f"/v1/ws?token={secret}"),
        upgrade_request(f"/v1/ws?token={secret}", sec_websocket_version="8"),
        upgrade_request(f"/v1/ws?token={secret}", authorization=f"Bearer {secret}"),
        upgrade_request(f"/v1/ws?token={secret}", origin=f"https://{secret}"),
        f"GET /healthz?token={secret} HTTP/1.1\r\nhost: a\r\n\r\n".encode(),
        f"GET /nowhere/{secret}?token={secret} HTTP/1.1\r\nhost: a\r\n\r\n".encode(),
        f"GET /healthz?token={secret} HTTP/1.1\r\nhost : a\r\n\r\n".encode(),
    ):
        with await RawConnection.open(gateway.public) as raw:
            await raw.send(request)
            await raw.read_response()
            await raw.try_send(
                client_frame(TEXT, orjson.dumps({"type": "connect", "id": 1, "token": secret}))
            )
    assert secret not in gateway.stderr
    assert "token=" not in gateway.stderr


async def test_token_may_be_sent_in_the_authorization_header(tmp_path: Path) -> None:
    config = "[push]\nkeys = ['k']"
    async with gateway_on_loop(tmp_path, config, dev=False) as gateway:
        with await RawConnection.open(gateway.public) as raw:
            await raw.send(upgrade_request(authorization="Bearer no.token.really") + CONNECT)
            assert (await raw.read_response()).status == 101
            assert (await raw.receive())["code"] == "unauthorized"
            assert (await raw.expect_close()).code == 4003


async def test_connections_per_address_are_limited(tmp_path: Path) -> None:
    async with gateway_on_loop(tmp_path, limits__connections_per_address=2) as gateway:
        with (
            await RawConnection.websocket(gateway.public) as first,
            await RawConnection.websocket(gateway.public) as second,
        ):
            with await RawConnection.open(gateway.public) as third:
                await third.send(upgrade_request())
                response = await third.read_response()
                assert response.status == 429
                assert 10 <= int(response.headers["retry-after"]) <= 30
                error = orjson.loads(response.body)["error"]
                assert (error["code"], error["retry_after_ms"]) == (
                    "limit_exceeded",
                    int(response.headers["retry-after"]) * 1000,
                )
            await first.send(b"\x88\x80abcd")  # a Close without a code
            assert (await first.read_until_close())[1].code == 1005
            await first.read_to_end()
            with await RawConnection.websocket(gateway.public) as again:
                assert (await again.call(type="connect", id=1))["type"] == "connected"
            assert (await second.call(type="connect", id=1))["type"] == "connected"


async def test_connections_per_node_are_limited(tmp_path: Path) -> None:
    async with gateway_on_loop(tmp_path, limits__connections=1) as gateway, AsyncExitStack() as stack:
        # An upgrade takes no place: whoever sends `connect` first gets it.
        for _ in range(2):
            stack.enter_context(await RawConnection.websocket(gateway.public))
        late = stack.enter_context(await RawConnection.websocket(gateway.public))
        await stack.enter_async_context(Client.open(gateway.public))
        assert (await late.call(type="connect", id=1))["code"] == "unavailable"
        assert (await late.expect_close()).code == 4011
        raw = stack.enter_context(await RawConnection.open(gateway.public))
        await raw.send(upgrade_request())
        response = await raw.read_response()
        assert response.status == 503
        assert int(response.headers["retry-after"]) >= 1
        assert orjson.loads(response.body)["error"]["code"] == "unavailable"
        with await RawConnection.open(gateway.public) as probe:
            await probe.send(SMUGGLED)
            assert (await probe.read_response()).status == 200, "a full node is alive"


async def test_draining_node_refuses_upgrades_with_retry_after(tmp_path: Path) -> None:
    async with gateway_on_loop(tmp_path) as gateway, asyncio.TaskGroup() as clients:
        answer = asyncio.Event()

        async def stay() -> None:
            async with Client.open(gateway.public) as client:
                connected.release()
                await client.next_push("reconnect")
                answer.set()
                assert (await client.expect_close()).code == 4000

        connected = asyncio.Semaphore(0)
        for _ in range(60):  # so many leave in several groups: there is time between the first and the last
            clients.create_task(stay())
        for _ in range(60):
            await connected.acquire()
        with await RawConnection.open(gateway.public) as late:
            await late.send(upgrade_request()[:-2])
            await wait_until(lambda: len(gateway.gateway.public.server_state.connections) == 61)
            gateway.stop.set()
            await answer.wait()
            await late.send(b"\r\n")
            response = await late.read_response()
            assert response.status == 503
            assert 1 <= int(response.headers["retry-after"]) <= 5
            assert orjson.loads(response.body)["error"]["code"] == "unavailable"


async def test_healthz(gateway: GatewayProcess) -> None:
    with await RawConnection.open(gateway.public) as raw:
        await raw.send(SMUGGLED)
        response = await raw.read_response()
        assert (response.status, orjson.loads(response.body)) == (200, {"alive": True})
        assert await raw.read_to_end() == b""
    with await RawConnection.open(gateway.public) as raw:
        await raw.send(SMUGGLED.replace(b"GET", b"HEAD"))
        assert (await raw.read_to_end()).startswith(b"HTTP/1.1 200 ")
