"""Header blocks that are cached, and those that must not be."""

import pytest

from gateway.push.content_types import JSON, MSGPACK, ContentType
from gateway.push.header_cache import MAX_BLOCK_BYTES, MAX_BLOCKS, HeaderCache, parse_block
from gateway.push.push_keys import PushKeys
from tests.gateway.push.push_kit import KEY, OLD_KEY, request

KEYS = PushKeys([OLD_KEY, KEY])
BODY = b'{"channel":"chat","data":1}'


def test_a_block_ends_where_its_body_begins() -> None:
    cache, data = HeaderCache(KEYS), request(BODY)
    found = cache.find(data)
    assert found is not None
    parsed, begin, end = found
    assert data[begin:end] == BODY
    assert (parsed.request_type, parsed.answer_type) == (JSON, JSON)


def test_blocks_that_differ_only_in_the_length_share_one_entry() -> None:
    cache = HeaderCache(KEYS)
    for size in (0, 9, 10, 99_999):
        body = b"x" * size
        data = request(body)
        found = cache.find(data)
        assert found is not None
        assert data[found[1] : found[2]] == body
    assert len(cache) == 1


def test_the_end_of_the_body_may_lie_beyond_the_data() -> None:
    data = request(BODY)
    for cut in range(len(data) - len(BODY), len(data)):
        found = HeaderCache(KEYS).find(data[:cut])
        assert found is not None
        assert found[2] == len(data)
    for cut in range(len(data) - len(BODY)):
        assert HeaderCache(KEYS).find(data[:cut]) is None


@pytest.mark.parametrize(
    ("headers", "media", "expected"),
    [
        ((), "application/json; charset=utf-8", (JSON, JSON)),
        ((), None, (JSON, JSON)),
        ((), "application/msgpack", (MSGPACK, MSGPACK)),
        (("Accept: application/json",), "application/msgpack", (MSGPACK, JSON)),
        (("ACCEPT: application/msgpack",), "application/json", (JSON, MSGPACK)),
        (
            ("Accept: */*", "Connection: Keep-Alive", "User-Agent: x", "X-Trace: 1", "X-Trace: 2"),
            None,
            (JSON, JSON),
        ),
    ],
)
def test_the_encodings_are_those_of_the_routes(
    headers: tuple[str, ...], media: str | None, expected: tuple[ContentType, ContentType]
) -> None:
    found = HeaderCache(KEYS).find(request(BODY, *headers, media=media))
    assert found is not None
    assert (found[0].request_type, found[0].answer_type) == expected


ANOTHER = "Content-Length: 3"
LEFT_TO_ROUTES = [
    request(BODY, key="Bearer wrong"),
    request(BODY, key=None),
    request(BODY, f"Authorization: Bearer {KEY}"),
    request(BODY, key=f"Basic {KEY}"),
    request(BODY, line="GET /v1/publish HTTP/1.1"),
    request(BODY, line="POST /v1/publish?x=1 HTTP/1.1"),
    request(BODY, line="POST /v1/broadcast HTTP/1.1"),
    request(BODY, line="POST http://push/v1/publish HTTP/1.1"),
    request(BODY, line="POST /v1/publish HTTP/1.0"),
    request(BODY, "Connection: close"),
    request(BODY, "Connection: keep-alive, close"),
    request(BODY, "Connection: keep-alive", "Connection: close"),
    request(BODY, "Connection: upgrade", "Upgrade: h2c"),
    request(BODY, "Expect: 100-continue"),
    request(BODY, "Transfer-Encoding: chunked"),
    request(BODY, "Transfer-Encoding: chunked", length=False),
    request(BODY, "Content-Encoding: gzip"),
    request(BODY, ANOTHER),
    request(BODY, f"{ANOTHER}\r\n{ANOTHER}", length=False),
    request(BODY, "Content-Length: -3", length=False),
    request(BODY, "Content-Length: 3x", length=False),
    request(BODY, "Content-Length: 0x3", length=False),
    request(BODY, "Content-Length: 999999999", length=False),
    request(BODY, "Content-Length : 3", length=False),
    request(BODY, length=False),
    request(BODY, "Accept: application/json", "Accept: application/msgpack"),
    request(BODY, "no colon here"),
    request(BODY, "X: a\0b"),
    request(BODY, " folded"),
    request(BODY, "X: a\nContent-Length: 3"),
    request(BODY, media="text/plain"),
    request(BODY, f"X: {'x' * MAX_BLOCK_BYTES}"),
    request(BODY).replace(b"\r\n", b"\n"),
    b"\r\n" + request(BODY),
    b"",
    b"\r\n\r\n",
    b"POST /v1/publish HTTP/1.1\r\n\r\n",
]


@pytest.mark.parametrize("data", LEFT_TO_ROUTES, ids=range(len(LEFT_TO_ROUTES)))
def test_special_rejected_and_malformed_requests_are_left_to_the_routes(data: bytes) -> None:
    cache = HeaderCache(KEYS)
    # A block in the cache must not match a similar one.
    assert cache.find(request(BODY)) is not None
    assert cache.find(data) is None
    assert cache.find(data) is None
    assert len(cache) == 1


def test_an_empty_body_does_not_hide_a_connection_close() -> None:
    # llhttp forgets `Connection: close` once the message is complete, which it is at once without a body.
    block = request(b"", "Connection: close")
    assert parse_block(block, KEYS) is None


def test_the_cache_is_bounded() -> None:
    cache = HeaderCache(KEYS)
    for number in range(3 * MAX_BLOCKS):
        assert cache.find(request(BODY, f"Traceparent: {number}")) is not None
        assert len(cache) <= MAX_BLOCKS
