"""The short way of a publish: it must be the same as the routes, only shorter."""

import asyncio
import http.client
from collections.abc import Mapping
from typing import Any

import httpx
import msgpack
import orjson
import pytest

from gateway.push.fast_path import MAX_BUFFERED_BYTES
from tests.gateway.push.push_kit import (
    KEY,
    ServedApi,
    body,
    comparable,
    feed,
    make_api,
    offset,
    one_more,
    published,
    request,
    served,
)


def packed(**fields: Any) -> bytes:
    data: bytes = msgpack.packb({"channel": "chat", "data": 1, **fields})
    return data


CHUNKED = b"1b\r\n" + b'{"channel":"chat","data":1}' + b"\r\n0\r\n\r\n"
DEEP = b'{"channel":"chat","data":' + b"[" * 70 + b"]" * 70 + b"}"
NAMELESS = b'{"data":1}'
LARGE_BODY = 2_000

FAST_PATH_REQUESTS: dict[str, bytes] = {
    "plain": request(body()),
    "other case": request(body(), "accept: */*").replace(b"Content-Length", b"content-length"),
    "no content type": request(body(), media=None),
    "charset": request(body(), media="application/json; charset=utf-8"),
    "msgpack": request(packed(), media="application/msgpack"),
    "msgpack answered in json": request(packed(), "Accept: application/json", media="application/msgpack"),
    "json answered in msgpack": request(body(), "Accept: application/msgpack"),
    "scheme in lower case": request(body(), key=f"bearer  {KEY}"),
    "keep-alive": request(body(), "Connection: keep-alive"),
    "null": request(body(data=None, key=None, tags=None)),
    "everything": request(body(key="k", tags={"a": "b"}, exclude=["c"], history=True, other=1)),
    "the same key again": request(body(key="k", tags={"a": "b"}, exclude=["c"])),
    "not stored": request(body(history=False)),
    "no history": request(body(channel="plain:1")),
    "personal": request(body(channel="@ann")),
    "trace header": request(body(), "Traceparent: 00-1-1-01"),
    "huge integer that is ignored": request(b'{"channel":"chat","data":1e30,"x":123456789012345678901}'),
    "header twice": request(body(), "X-A: 1", "X-A: 2"),
}
"""Requests that go the fast path."""

OTHER_REQUESTS: dict[str, bytes] = {
    "no key": request(body(), key=None),
    "wrong key": request(body(), key="Bearer wrong"),
    "two keys": request(body(), "Authorization: Bearer wrong"),
    "malformed": request(b"{"),
    "malformed msgpack": request(b"\xc1", media="application/msgpack"),
    "empty": request(b""),
    "no map": request(b"[]"),
    "no channel": request(NAMELESS),
    "bad channel": request(body(channel="a b")),
    "unknown namespace": request(body(channel="nowhere:1")),
    "huge integer": request(b'{"channel":"chat","data":123456789012345678901}'),
    "huge integer beside a float": request(b'{"channel":"chat","data":[1e30,123456789012345678901]}'),
    "too deep": request(DEEP),
    "not a number": request(b'{"channel":"chat","data":NaN}'),
    "large message": request(body(data="x" * 600)),
    "large body": request(body(other="x" * LARGE_BODY)),
    "text": request(body(), media="text/plain"),
    "zipped": request(body(), "Content-Encoding: gzip"),
    "chunked": request(CHUNKED, "Transfer-Encoding: chunked", length=False),
    "expect": request(body(), "Expect: 100-continue"),
    "query": request(body(), line="POST /v1/publish?x=1 HTTP/1.1"),
    "absolute": request(body(), line="POST http://push/v1/publish HTTP/1.1"),
    "method": request(body(), line="PUT /v1/publish HTTP/1.1"),
    "path": request(body(), line="POST /v1/publish/ HTTP/1.1"),
    "dots": request(b"", line="GET /v1/channels/a/../b HTTP/1.1"),
    "other route": request(body(channels=["a"]), line="POST /v1/broadcast HTTP/1.1"),
    "stats": request(b"", line="GET /v1/stats HTTP/1.1"),
    "empty line before": b"\r\n" + request(body()),
    "http 1.0": request(body(), line="POST /v1/publish HTTP/1.0"),
    "close": request(body(), "Connection: close"),
    "upgrade": request(body(), "Connection: upgrade", "Upgrade: h2c"),
}
"""Requests that are served by the routes, whatever the listener."""

FINAL = ("large body", "http 1.0", "close")
"""After these, a connection is at its end."""


async def conversation(server: ServedApi, data: bytes) -> list[Any]:
    """What comes of a publish, of *data*, and of a publish again, on one connection."""
    answers: list[Any] = []
    async with server.connect() as wire:
        for each in (request(body(data="before")), data, request(body(data="after"))):
            try:
                answers.append(comparable(await wire.ask(each)))
            except (asyncio.IncompleteReadError, ConnectionError):
                answers.append("closed")
    return answers


async def conversations(
    requests: Mapping[str, bytes], *, fast: bool
) -> tuple[dict[str, Any], dict[str, int]]:
    """By name, what comes of each of *requests*, and how many of three took the fast path."""
    api = await make_api(body_size=1_024, message_size=512)
    outcomes, taken = {}, {}
    async with served(api, fast=fast) as server:
        for name, data in requests.items():
            before = server.fast_path.published if server.fast_path else 0
            answers = await conversation(server, data)
            delivered = [(one.message.channel, one.message.tags, one.exclude) for one in api.node.deliveries]
            outcomes[name] = (answers, api.node.data(), delivered)
            taken[name] = (server.fast_path.published if server.fast_path else 0) - before
            api.node.envelopes.clear()
    return outcomes, taken


async def test_the_fast_path_answers_a_publish_exactly_as_the_routes_do() -> None:
    short, taken = await conversations(FAST_PATH_REQUESTS, fast=True)
    long, _ = await conversations(FAST_PATH_REQUESTS, fast=False)
    assert short == long
    assert taken == dict.fromkeys(FAST_PATH_REQUESTS, 3)
    assert {answers[1][0] for answers, *_ in short.values()} == {200}


async def test_every_other_request_is_answered_by_the_routes() -> None:
    short, taken = await conversations(OTHER_REQUESTS, fast=True)
    long, _ = await conversations(OTHER_REQUESTS, fast=False)
    assert short == long
    assert taken == {name: 1 if name in FINAL else 2 for name in OTHER_REQUESTS}


async def test_malformed_http_is_answered_like_every_other_error() -> None:
    api = await make_api()
    async with served(api) as server, server.connect() as wire:
        answer = await wire.ask(b"this is not HTTP\r\n\r\n")
        assert await wire.closed()
    assert answer.status == 400
    assert answer.headers["connection"] == "close"
    assert orjson.loads(answer.body)["error"]["code"] == "bad_request"


# ---------------------------------------------------------------- in pieces, in a row


@pytest.mark.parametrize("name", ["plain", "msgpack", "no content type"])
async def test_a_request_may_arrive_in_any_two_pieces(name: str) -> None:
    api, data = await make_api(), FAST_PATH_REQUESTS[name]
    begin = data.index(b"\r\n\r\n") + 4
    async with served(api) as server, server.connect() as wire:
        assert (await wire.ask(data)).status == 200
        for cut in range(1, len(data)):
            feed(server, data[:cut], data[cut:])
            assert (await wire.answer()).status == 200
        assert published(server) == 1 + len(data) - begin
    assert len(api.node.deliveries) == len(data)


async def test_a_request_may_arrive_byte_by_byte() -> None:
    api, data = await make_api(), request(body())
    begin = data.index(b"\r\n\r\n") + 4
    async with served(api) as server, server.connect() as wire:
        await wire.ask(data)
        feed(server, *(data[n : n + 1] for n in range(len(data))))
        assert (await wire.answer()).status == 200
        feed(server, data[:begin], *(data[n : n + 1] for n in range(begin, len(data))))
        assert (await wire.answer()).status == 200
        assert published(server) == 2
    assert len(api.node.deliveries) == 3


@pytest.mark.parametrize("cut", [0, 30, 200])
async def test_requests_in_a_row_are_answered_in_order(cut: int) -> None:
    api = await make_api()
    row = b"".join(request(body(data=number)) for number in range(5))
    async with served(api) as server, server.connect() as wire:
        await wire.ask(request(body(data="first")))
        feed(server, row[:cut], row[cut:]) if cut else feed(server, row)
        offsets = [offset(await wire.answer()) for _ in range(5)]
        assert await one_more(wire) == 7
    assert offsets == [2, 3, 4, 5, 6]
    assert api.node.data() == ["first", 0, 1, 2, 3, 4, "more"]


async def test_a_body_and_the_next_head_may_arrive_together() -> None:
    api, data = await make_api(), request(body())
    begin = data.index(b"\r\n\r\n") + 4
    async with served(api) as server, server.connect() as wire:
        await wire.ask(data)
        feed(server, data[:begin], data[begin:] + data[:20], data[20:])
        assert [offset(await wire.answer()) for _ in range(2)] == [2, 3]
        assert await one_more(wire) == 4


async def test_a_request_too_large_to_buffer_is_served_by_the_routes() -> None:
    api = await make_api(message_size=2 * MAX_BUFFERED_BYTES)
    data = request(body(data="x" * MAX_BUFFERED_BYTES))
    async with served(api) as server, server.connect() as wire:
        assert (await wire.ask(data)).status == 200
        feed(server, data[:1_000], data[1_000:])
        assert (await wire.answer()).status == 200
    assert len(api.node.deliveries) == 2


def with_http_client(port: int, count: int) -> list[int]:
    """Statuses that the standard library's client gets, which sends head and body apart."""
    connection = http.client.HTTPConnection("127.0.0.1", port)
    statuses = []
    for _ in range(count):
        headers = {"Authorization": f"Bearer {KEY}", "Content-Type": "application/json"}
        connection.request("POST", "/v1/publish", body(), headers)
        answer = connection.getresponse()
        answer.read()
        statuses.append(answer.status)
    connection.close()
    return statuses


async def test_requests_of_common_clients_take_the_fast_path() -> None:
    api = await make_api()
    url, headers = "http://127.0.0.1:{}/v1/publish", {"Authorization": f"Bearer {KEY}"}
    async with served(api) as server:
        assert await asyncio.to_thread(with_http_client, server.listener.port, 5) == [200] * 5
        async with httpx.AsyncClient(trust_env=False) as client:
            for number in range(5):
                message = {"channel": "chat", "data": "x" * number}
                answer = await client.post(url.format(server.listener.port), json=message, headers=headers)
                assert answer.json()["replayed"] is False
        assert published(server) == 10
        assert server.fast_path is not None
        assert server.fast_path.statistics() == {
            "published": 10,
            "heads": 2,
            "rejected_heads": 0,
            "stalled": 0,
            "in_progress": 0,
            "rejected_concurrency": 0,
            "rejected_rate": 0,
        }
