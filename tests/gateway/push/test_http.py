"""The internal listener and clients that are slow, silent, or send more than anybody reads."""

import asyncio
import http.client
import json
import logging
import socket
from collections.abc import AsyncIterator

import httpx
import orjson
import pytest

from gateway.push.http import RequestTimeouts, keep_alive_options
from gateway.transport.http.bounded_head import HeadLimits
from tests.gateway.push.push_kit import (
    KEY,
    ServedApi,
    WaitingBroker,
    body,
    feed,
    make_api,
    offset,
    one_more,
    request,
    served,
)

LARGE = 12 * 1024 * 1024
"""Bytes: more than any socket holds."""

SHORT_TIMEOUTS = RequestTimeouts(head=0.2, body=0.4)


def ask_with_http_client(port: int, headers: dict[str, str]) -> tuple[int, str, bytes]:
    """What Python's http.client, which sends everything first, makes of a publish that is too large."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    try:
        connection.request("POST", "/v1/publish", b"x" * LARGE, {"Authorization": f"Bearer {KEY}", **headers})
        answer = connection.getresponse()
        return answer.status, answer.getheader("connection", ""), answer.read()
    finally:
        connection.close()


def code(body: bytes) -> str:
    decoded: str = orjson.loads(body)["error"]["code"]
    return decoded


@pytest.mark.parametrize("fast", [True, False])
@pytest.mark.parametrize(
    ("headers", "status", "expected"),
    [
        ({"Content-Type": "application/json"}, 413, "too_large"),
        ({"Content-Type": "application/json", "Connection": "close"}, 413, "too_large"),
        ({"Content-Type": "application/json", "Authorization": "Bearer wrong"}, 401, "unauthorized"),
        ({"Content-Type": "text/plain"}, 415, "bad_request"),
    ],
)
async def test_a_client_that_sends_too_much_can_read_the_rejection(
    fast: bool, headers: dict[str, str], status: int, expected: str
) -> None:
    api = await make_api()
    async with served(api, fast=fast) as server:
        answer = await asyncio.to_thread(ask_with_http_client, server.listener.port, headers)
    assert (answer[0], answer[1], code(answer[2])) == (status, "close", expected)


async def test_a_body_without_a_length_is_discarded_only_for_the_linger_time() -> None:
    api = await make_api(body_size=1_024)
    async with served(api) as server, server.connect() as wire:
        head = request(b"", "Transfer-Encoding: chunked", length=False)
        await wire.send(head)
        piece = b"10000\r\n" + b"x" * 65_536 + b"\r\n"
        sending = asyncio.ensure_future(send_for_ever(wire.writer, piece))
        answer = await wire.answer()
        assert (answer.status, answer.headers["connection"]) == (413, "close")
        assert await wire.closed()
        sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)


async def send_for_ever(writer: asyncio.StreamWriter, piece: bytes) -> None:
    while True:
        writer.write(piece)
        await writer.drain()


async def test_a_connection_goes_on_after_a_rejected_request_with_a_small_body() -> None:
    api = await make_api()
    async with served(api) as server, server.connect() as wire:
        rejected = await wire.ask(request(body(), key="Bearer wrong"))
        assert (rejected.status, "connection" in rejected.headers) == (401, False)
        assert await one_more(wire) == 1


# ---------------------------------------------------------------- who is slow or silent


async def test_a_connection_without_a_request_is_closed() -> None:
    api = await make_api()
    async with served(api, timeouts=SHORT_TIMEOUTS, timeout_keep_alive=1) as server, server.connect() as wire:
        assert await wire.closed()


UNFINISHED = {
    "a part of the first line": b"POST /v1/pub",
    "a head without its end": request(body(), "X-Slow: yes")[:80],
    "a head alone": request(body())[: -len(body())],
    "half a body": request(body())[:-5],
    "a part of a large body": request(b"x" * 300_000)[:-5],
    "half of another request": request(b"x", line="POST /v1/broadcast HTTP/1.1")[:-1],
}


@pytest.mark.parametrize("again", [False, True])
@pytest.mark.parametrize("what", UNFINISHED)
async def test_an_incomplete_request_is_answered_408(what: str, again: bool) -> None:
    api = await make_api()
    async with served(api, timeouts=SHORT_TIMEOUTS, timeout_keep_alive=1) as server, server.connect() as wire:
        if again:
            assert await one_more(wire) == 1
        await wire.send(UNFINISHED[what])
        answer = await wire.answer()
        assert (answer.status, answer.headers["connection"]) == (408, "close")
        assert code(answer.body) == "bad_request"
        assert await wire.closed()
    assert len(api.node.deliveries) == again


async def test_a_head_sent_byte_by_byte_does_not_extend_its_deadline() -> None:
    api = await make_api()
    async with served(api, timeouts=SHORT_TIMEOUTS, timeout_keep_alive=1) as server, server.connect() as wire:

        async def drip() -> None:
            for byte in request(body(), "X-Slow: " + "x" * 10_000):
                await wire.send(bytes([byte]))
                # A drop at a time is what is tested: no event stands for it.
                await asyncio.sleep(0.02)

        dripping = asyncio.ensure_future(drip())
        assert (await wire.answer()).status == 408
        dripping.cancel()
        await asyncio.gather(dripping, return_exceptions=True)


async def test_a_rejected_request_ends_when_its_body_does_not_arrive() -> None:
    api = await make_api()
    async with served(api, timeouts=SHORT_TIMEOUTS, timeout_keep_alive=1) as server, server.connect() as wire:
        rejected = await wire.ask(request(body(), key="Bearer wrong")[:-3])
        assert rejected.status == 401
        assert await wire.closed()


async def test_an_idle_connection_is_closed_after_a_request_on_either_path() -> None:
    api = await make_api()
    async with served(api, timeout_keep_alive=1) as server, server.connect() as wire:
        rejected = await wire.ask(request(body(), key="Bearer wrong"))
        assert rejected.status == 401
        assert await wire.closed()


async def test_a_slow_client_is_served_within_its_deadlines() -> None:
    api = await make_api()
    async with served(api) as server, httpx.AsyncClient() as client:

        async def slowly() -> AsyncIterator[bytes]:
            for byte in body():
                yield bytes([byte])
                await asyncio.sleep(0)

        answer = await client.post(
            f"http://127.0.0.1:{server.listener.port}/v1/publish",
            content=slowly(),
            headers={"authorization": f"Bearer {KEY}", "content-type": "application/json"},
        )
    assert answer.status_code == 200
    assert json.loads(answer.text)["channel"] == "chat"


# ---------------------------------------------------------------- heads beyond their bounds


@pytest.mark.parametrize("before", [b"", request(body(data="first")), request(b"{}", "Connection: upgrade")])
@pytest.mark.parametrize(
    ("head", "status"),
    [
        (b"GET /" + b"x" * 9_000, 414),
        (b"GET / HTTP/1.1\r\nhost: a\r\n" + b"a:b\r\n" * 101, 431),
        (b"GET / HTTP/1.1\r\nhost: a\r\nx: " + b"x" * 17_000, 431),
        (b"\r\n" * 9_000, 431),
        (request(b"", "Transfer-Encoding: chunked", length=False) + b"1;" + b"x" * 17_000, 431),
        (
            request(b"", "Transfer-Encoding: chunked", length=False) + b"1\r\nx\r\n0\r\nt:" + b"x" * 34_000,
            431,
        ),
    ],
)
@pytest.mark.parametrize("fast", [True, False])
async def test_a_head_beyond_a_bound_is_refused_before_it_ends(
    fast: bool, head: bytes, status: int, before: bytes
) -> None:
    api = await make_api()
    async with served(api, fast=fast) as server, server.connect() as wire:
        if before:
            await wire.ask(before)
        await wire.send(head)
        answer = await wire.answer()
        assert (answer.status, answer.headers["connection"]) == (status, "close")
        assert code(answer.body) == "bad_request"
        assert await wire.closed()
        if server.fast_path is not None:
            assert server.fast_path.statistics()["rejected_heads"] == 1


async def test_a_head_of_the_largest_size_is_served_however_it_arrives() -> None:
    api = await make_api()
    head = request(b"", line="GET /v1/nodes HTTP/1.1", media=None)
    largest = head[:-2] + b"x: " + b"x" * (HeadLimits().size - len(head) - 5) + b"\r\n\r\n"
    assert len(largest) == HeadLimits().size
    async with served(api) as server, server.connect() as wire:
        assert (await wire.ask(largest)).status == 200
        feed(server, largest[:100], largest[100:-1], largest[-1:] + largest[:7], largest[7:])
        assert [(await wire.answer()).status for _ in range(2)] == [200, 200]
        assert (await wire.ask(largest[:-4] + b"x\r\n\r\n")).status == 431


# ---------------------------------------------------------------- requests sent ahead


async def test_requests_sent_ahead_wait_unparsed_until_those_before_are_answered() -> None:
    broker = WaitingBroker()
    api = await make_api(broker=broker)
    query = request(body(data=1), line="POST /v1/publish?x=1 HTTP/1.1")
    async with served(api) as server, server.connect() as wire:
        await wire.send(query)
        await broker.arrived.acquire()
        feed(server, query * 100, request(body(data="last")))
        assert not server.protocol().pipeline
        assert not server.protocol().transport.is_reading()
        broker.gate.set()
        assert [offset(await wire.answer()) for _ in range(102)] == list(range(1, 103))
        assert await one_more(wire) == 103
    assert api.node.data()[-2:] == ["last", "more"]


# ---------------------------------------------------------------- bodies behind an offered upgrade

OFFER = ("Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAEAAEAAAAIAAAAB")
CHUNKED = b"5\r\n%b\r\n%x\r\n%b\r\n0\r\n\r\n" % (body()[:5], len(body()) - 5, body()[5:])


@pytest.mark.parametrize("step", [1, 7, 1_000])
@pytest.mark.parametrize("fast", [True, False])
async def test_the_body_of_a_request_that_offers_an_upgrade_is_read(fast: bool, step: int) -> None:
    api = await make_api()
    data = (
        request(body(), *OFFER)
        + request(b"", *OFFER, "Transfer-Encoding: chunked", length=False)
        + CHUNKED
        + request(b"", *OFFER, line="GET /v1/nodes HTTP/1.1", length=False)
        + request(body())
    )
    async with served(api, fast=fast) as server, server.connect() as wire:
        assert offset(await wire.ask(request(body(), *OFFER))) == 1
        feed(server, *(data[at : at + step] for at in range(0, len(data), step)))
        assert [offset(await wire.answer()) for _ in range(2)] == [2, 3]
        assert b'"nodes"' in (await wire.answer()).body
        assert offset(await wire.answer()) == 4
        assert await one_more(wire) == 5


async def test_a_body_behind_an_offered_upgrade_is_not_taken_for_a_request() -> None:
    api = await make_api()
    inner = request(body(data="smuggled"))
    async with served(api) as server, server.connect() as wire:
        assert (await wire.ask(request(inner, *OFFER))).status == 400
        assert await one_more(wire) == 1
    assert api.node.data() == ["more"]


async def test_the_connections_that_a_disconnect_excepts_are_read_behind_an_offered_upgrade() -> None:
    api = await make_api()
    async with served(api) as server, server.connect() as wire:
        line = "POST /v1/users/alice/disconnect HTTP/1.1"
        answer = await wire.ask(request(b'{"except": ["c1"]}', *OFFER, line=line))
        assert answer.status == 200
    (command,) = api.node.user_commands
    assert command.except_connections == {"c1"}


async def test_a_malformed_framing_behind_an_offered_upgrade_is_refused() -> None:
    api = await make_api()
    async with served(api) as server, server.connect() as wire:
        await wire.send(request(b"", *OFFER, "Transfer-Encoding: gzip", length=False))
        answer = await wire.answer()
        assert (answer.status, answer.headers["connection"]) == (400, "close")


async def test_trailers_are_no_fields_of_the_head() -> None:
    api = await make_api()
    async with served(api) as server, server.connect() as wire:
        trailer = b"Authorization: Bearer %b\r\n\r\n" % KEY.encode()
        data = request(b"", "Transfer-Encoding: chunked", length=False, key=None) + CHUNKED[:-2] + trailer
        assert (await wire.ask(data)).status == 401


# ---------------------------------------------------------------- idle connections


@pytest.mark.parametrize("fast", [True, False])
async def test_answers_say_how_long_an_idle_connection_is_kept_unless_they_are_the_last(fast: bool) -> None:
    api = await make_api()
    async with served(api, fast=fast, **keep_alive_options(75.0)) as server, server.connect() as wire:
        for data in (request(body()), request(body()), request(body(), key="Bearer wrong")):
            assert (await wire.ask(data)).headers["keep-alive"] == "timeout=75"
        assert server.protocol().timeout_keep_alive > 75
        last = await wire.ask(request(body(), "Connection: close"))
        assert ("keep-alive" in last.headers, last.headers["connection"]) == (False, "close")
    async with served(api, fast=fast, **keep_alive_options(75.0)) as server, server.connect() as wire:
        refused = await wire.ask(b"no HTTP\r\n\r\n")
        assert (refused.status, "keep-alive" in refused.headers) == (400, False)


# ---------------------------------------------------------------- answers that nobody reads

UNREAD = RequestTimeouts(answer=0.3)
QUERY = request(b"", line="GET /openapi.json HTTP/1.1", key=None, media=None)


async def send_ahead(server: ServedApi, data: bytes, times: int = 2_000) -> socket.socket:
    """Connect, and send *data* so often that the answers fill every buffer; none of them is read."""
    loop, sock = asyncio.get_running_loop(), socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
    sock.setblocking(False)
    await loop.sock_connect(sock, ("127.0.0.1", server.listener.port))
    await loop.sock_sendall(sock, data * times)
    return sock


@pytest.mark.parametrize("fast", [True, False])
async def test_a_client_that_reads_no_answers_is_aborted(fast: bool) -> None:
    api = await make_api()
    async with served(api, fast=fast, timeouts=UNREAD) as server:
        sock = await send_ahead(server, QUERY)
        async with asyncio.timeout(30):
            while not server.listener.server_state.connections:  # noqa: ASYNC110 (the listener notifies nobody)
                await asyncio.sleep(0)
            while server.listener.server_state.connections:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        if server.fast_path is not None:
            assert server.fast_path.statistics()["stalled"] == 1
        sock.close()


async def test_a_connection_that_is_closed_with_unread_answers_is_aborted() -> None:
    api = await make_api()
    async with served(api, timeouts=UNREAD) as server, server.connect() as wire:
        assert await one_more(wire) == 1
        protocol = server.protocol()
        # More than the sockets hold, and less than pauses the answers: then the connection becomes idle.
        protocol.transport.set_write_buffer_limits(64 * 1024 * 1024, 0)
        protocol.transport.write(b"x" * LARGE)
        protocol.timeout_keep_alive = 0
        protocol.timeout_keep_alive_handler()
        async with asyncio.timeout(30):
            while server.listener.server_state.connections:  # noqa: ASYNC110 (the listener notifies nobody)
                await asyncio.sleep(0.01)


async def test_a_stop_does_not_wait_for_clients_that_read_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.WARNING)
    api = await make_api()
    async with served(api, timeouts=RequestTimeouts(answer=3_600)) as server:
        socks = [await send_ahead(server, QUERY) for _ in range(3)]
        while not all(each.flow.write_paused for each in server.protocols()):  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        server.listener.stop(grace=0.1)
        async with asyncio.timeout(30):
            while server.listener.server_state.connections:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
    assert caplog.records == []
    for sock in socks:
        sock.close()


# ---------------------------------------------------------------- hosts


@pytest.mark.parametrize("fast", [True, False])
async def test_in_dev_mode_only_requests_to_this_machine_are_answered(fast: bool) -> None:
    api = await make_api(loopback_hosts_only=True)
    data = request(body())
    async with served(api, fast=fast) as server, server.connect() as wire:
        for host in (b"localhost:8001", b"127.0.0.1", b"[::1]:8001"):
            assert (await wire.ask(data.replace(b"Host: push", b"Host: " + host))).status == 200
        for query in (data, request(b"", line="GET /docs HTTP/1.1"), request(b"", line="GET / HTTP/1.1")):
            answer = await wire.ask(query.replace(b"Host: push", b"Host: evil.example"))
            assert (answer.status, code(answer.body)) == (421, "permission_denied")
    assert len(api.node.deliveries) == 3
