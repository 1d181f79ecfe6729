"""What is refused: every status, one shape, nothing of the inside."""

import logging
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import httpx
import msgpack
import orjson
import pytest

from tests.gateway.push.push_kit import KEY, OLD_KEY, BrokenNode, make_api

JSON, PACKED = {"content-type": "application/json"}, {"content-type": "application/msgpack"}
PUBLISH = "/v1/publish"
DEEP = b'{"channel":"chat","data":' + b"[" * 70 + b"]" * 70 + b"}"


def said(**fields: Any) -> bytes:
    return orjson.dumps({"channel": "chat", "data": 1, **fields})


@dataclass(frozen=True)
class Case:
    """A request, and the part of an answer that matters."""

    path: str
    body: bytes
    status: int
    message: str
    code: str = "bad_request"
    method: str = "POST"
    headers: Mapping[str, str] = field(default_factory=lambda: JSON)


def get(
    path: str, message: str, *, status: int = 422, code: str = "bad_request", method: str = "GET"
) -> Case:
    return Case(path, b"", status, message, code, method, {})


ANN = "/v1/users/ann"
PLAIN = {"content-type": "text/plain"}
ZIPPED = {**JSON, "content-encoding": "gzip"}
HUGE = b"123456789012345678901"
UNKNOWN = "unknown_channel"

REFUSED = [
    Case(PUBLISH, b"", 400, "no JSON"),
    Case(PUBLISH, b"{", 400, "no JSON"),
    Case(PUBLISH, b'{"channel":"chat","data":NaN}', 400, "no JSON"),
    Case(PUBLISH, b'{"channel":"chat","data":%b}' % HUGE, 400, "64 bits"),
    Case(PUBLISH, DEEP, 400, "nested"),
    Case(PUBLISH, b"\xc1", 400, "no MessagePack", headers=PACKED),
    Case(PUBLISH, msgpack.packb({"channel": "chat", "data": b"x"}), 400, "as JSON", headers=PACKED),
    Case(PUBLISH, said(), 415, "application/msgpack", headers=PLAIN),
    Case(PUBLISH, said(), 415, "Content-Encoding", headers=ZIPPED),
    Case(PUBLISH, b"[]", 422, "body: expected a map"),
    Case(PUBLISH, b"{}", 422, "is missing"),
    Case(PUBLISH, said(channel="a b"), 422, "channel: "),
    Case(PUBLISH, said(channel="a\n"), 422, "channel: "),
    Case(PUBLISH, said(channel="x" * 129), 422, "channel: "),
    Case(PUBLISH, said(channel=None), 422, "channel: "),
    Case(PUBLISH, said(channel="nowhere:1"), 422, "nowhere", UNKNOWN),
    Case(PUBLISH, said(key=""), 422, "key: "),
    Case(PUBLISH, said(key=7), 422, "key: "),
    Case(PUBLISH, said(tags={"a": 1}), 422, "tags.a: "),
    Case(PUBLISH, said(tags={str(n): "" for n in range(33)}), 422, "tags: "),
    Case(PUBLISH, said(exclude="c1"), 422, "exclude: "),
    Case(PUBLISH, said(history=0), 422, "history: "),
    Case(PUBLISH, said(data="x" * 600), 413, "512", "too_large"),
    Case(PUBLISH, said(other="x" * 2_000), 413, "1024", "too_large"),
    Case("/v1/broadcast", said(), 422, "channels: is missing"),
    Case("/v1/broadcast", said(channels=["a", 1]), 422, "channels.1: "),
    Case("/v1/broadcast", said(channels=["a"], data="x" * 600), 413, "512", "too_large"),
    Case("/v1/notify", said(users="alice"), 422, "users: "),
    Case("/v1/batch", said(commands={}), 422, "commands: "),
    Case("/v1/batch", b'{"commands":[%b]}' % HUGE, 400, "64 bits"),
    get("/v1/channels?limit=0", "limit: "),
    get("/v1/channels?limit=1001", "limit: "),
    get("/v1/channels?limit=many", "limit: "),
    get("/v1/channels?cursor=%21%21", "cursor: "),
    get("/v1/channels?cursor=_w", "cursor: "),
    get("/v1/channels/a%20b", "channel: "),
    get("/v1/channels/%FF", "channel: "),
    get("/v1/channels/nowhere:1", "nowhere", code=UNKNOWN),
    get("/v1/channels/plain:1/history", "[channels.plain]"),
    get("/v1/channels/plain:1/presence", "[channels.plain]"),
    get("/v1/channels/chat/history?since=7", "since: "),
    get("/v1/channels/chat/history?since=7-abc", "no longer"),
    get("/v1/channels/chat/history?limit=-1", "limit: "),
    get("/v1/channels/chat/history?reverse=maybe", "reverse: "),
    get("/v1/channels/nowhere:1/history", "nowhere", code=UNKNOWN, method="DELETE"),
    get("/v1/users/%00", "user: "),
    get("/v1/users/" + "x" * 129, "user: "),
    Case(f"{ANN}/disconnect", b'{"code":1000}', 422, "code: "),
    Case(f"{ANN}/disconnect", b'{"code":"4005"}', 422, "code: "),
    Case(f"{ANN}/disconnect", orjson.dumps({"reason": "ü" * 62}), 422, "123"),
    Case(f"{ANN}/disconnect", b'{"except":"c1"}', 422, "except: "),
    Case(f"{ANN}/disconnect", b"x=1", 415, "text/plain", headers=PLAIN),
    Case(f"{ANN}/subscribe", b"{}", 422, "channel: is missing"),
    Case(f"{ANN}/subscribe", said(channel="@bob"), 422, "@bob", "permission_denied"),
    Case(f"{ANN}/subscribe", said(channel="nowhere:1"), 422, "nowhere", UNKNOWN),
    get(PUBLISH, "method", status=405),
    get(ANN, "method", status=405, method="PUT"),
    Case("/v1/publish/", said(), 404, "/docs"),
    get("/v1/users/a/b", "/docs", status=404),
]


@pytest.mark.parametrize(
    "case", REFUSED, ids=[f"{number}-{case.method}-{case.status}" for number, case in enumerate(REFUSED)]
)
async def test_a_wrong_request_is_rejected(case: Case) -> None:
    api = await make_api(body_size=1_024, message_size=512)
    async with api.client() as client:
        answer = await client.request(case.method, case.path, content=case.body, headers=case.headers)
    answered = decoded(answer)
    assert answer.status_code == case.status
    assert answered.keys() == {"error"}
    assert answered["error"]["code"] == case.code
    assert case.message in answered["error"]["message"]
    assert api.node.envelopes == []


def decoded(answer: httpx.Response) -> Any:
    if answer.headers["content-type"] == "application/msgpack":
        return msgpack.unpackb(answer.content)
    return answer.json()


@pytest.mark.parametrize(
    "authorization", ["", "Bearer", "Bearer wrong", f"Basic {KEY}", KEY, f"Bearer {KEY}x"]
)
@pytest.mark.parametrize(("method", "path"), [("POST", PUBLISH), ("GET", "/v1/stats"), ("GET", ANN)])
async def test_without_a_valid_key_nothing_is_done(authorization: str, method: str, path: str) -> None:
    api = await make_api()
    async with api.client(authorization=authorization) as client:
        answer = await client.request(method, path, content=said() if method == "POST" else b"", headers=JSON)
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"].startswith("Bearer")
    assert answer.json()["error"]["code"] == "unauthorized"
    assert api.node.envelopes == []


async def test_without_a_valid_key_no_body_is_read() -> None:
    api = await make_api()
    read: list[bytes] = []

    async def body() -> AsyncIterator[bytes]:
        read.append(b"x")
        yield b"x"

    async with api.client(authorization="Bearer wrong") as client:
        answer = await client.post(PUBLISH, content=body(), headers=JSON)
    assert (answer.status_code, read) == (401, [])


async def test_every_configured_key_is_accepted() -> None:
    api = await make_api()
    for key in (KEY, OLD_KEY):
        async with api.client(authorization=f"bearer {key}") as client:
            assert (await client.post(PUBLISH, content=said(), headers=JSON)).status_code == 200


async def test_a_body_without_a_length_is_read_up_to_the_limit() -> None:
    api = await make_api(body_size=1_024)
    read = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal read
        while True:
            read += 256
            yield b"x" * 256

    async with api.client() as client:
        answer = await client.post(PUBLISH, content=endless(), headers=JSON)
    assert answer.status_code == 413
    assert read <= 1_024 + 512


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        (PACKED, "application/msgpack"),
        ({**PACKED, "accept": "application/json"}, "application/json"),
        ({**JSON, "accept": "application/msgpack"}, "application/msgpack"),
        ({"content-type": "text/plain"}, "application/json"),
    ],
)
async def test_errors_have_the_encoding_that_the_client_prefers(
    headers: dict[str, str], expected: str
) -> None:
    api = await make_api()
    async with api.client() as client:
        answer = await client.post(PUBLISH, content=b"\xc1", headers=headers)
    assert answer.headers["content-type"] == expected
    assert decoded(answer)["error"]["code"] == "bad_request"


async def test_an_unexpected_error_is_logged_and_answered_without_details(
    caplog: pytest.LogCaptureFixture,
) -> None:
    api = await make_api(node=BrokenNode())
    async with api.client() as client:
        one = await client.post(PUBLISH, content=said(data="private words"), headers=JSON)
        many = await client.post("/v1/broadcast", content=said(channels=["a"]), headers=JSON)
    assert one.status_code == 500
    assert one.json() == {"error": {"code": "internal", "message": "the gateway failed; its log says how"}}
    assert many.json()["results"][0]["error"]["code"] == "internal"
    assert [record.levelno for record in caplog.records] == [logging.ERROR] * 2
    assert "a bug with a secret in it" in caplog.text
    assert KEY not in caplog.text
    assert "private words" not in caplog.text


async def test_lookups_are_rejected_like_publishes_when_the_broker_is_unavailable() -> None:
    api = await make_api(started=False)
    paths = ["channels", "channels/chat", "channels/chat/history", "users/ann", "nodes", "stats"]
    async with api.client() as client:
        answers = [await client.get(f"/v1/{path}") for path in paths]
    assert [answer.status_code for answer in answers] == [503] * len(paths)
    assert {answer.headers["retry-after"] for answer in answers} == {"1"}


async def test_the_index_names_the_documentation_health_and_metrics() -> None:
    api = await make_api()
    async with api.client() as client:
        answer = await client.get("/", headers={"authorization": ""})
        index = answer.json()
        assert (answer.status_code, index["name"], index["docs"]) == (200, "fanway", "/docs")
        assert (await client.get(index["docs"])).status_code == 200
        assert (await client.get(index["openapi"])).status_code == 200
    assert (index["health"], index["metrics"]) == ("/readyz", "/metrics")
