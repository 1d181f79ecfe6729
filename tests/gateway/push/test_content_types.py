"""The encodings of bodies, and how a request chooses."""

import msgpack
import orjson
import pytest

from gateway.push.content_types import (
    JSON,
    MSGPACK,
    ContentType,
    preferred_content_type,
    request_content_type,
)
from gateway.push.errors import RequestRejected
from protocol.errors import BadRequest
from protocol.payload import payload_of


@pytest.mark.parametrize(
    ("content_type", "expected"),
    [
        (None, JSON),
        ("", JSON),
        ("application/json", JSON),
        ("application/json; charset=utf-8", JSON),
        ("Application/JSON", JSON),
        ("application/msgpack", MSGPACK),
        (" application/msgpack ;x=y", MSGPACK),
    ],
)
def test_the_content_type_selects_the_encoding(content_type: str | None, expected: ContentType) -> None:
    assert request_content_type(content_type) is expected


@pytest.mark.parametrize(
    "content_type", ["text/plain", "application/x-www-form-urlencoded", "json", "a" * 500]
)
def test_an_unknown_content_type_is_rejected_and_the_known_ones_are_named(content_type: str) -> None:
    with pytest.raises(RequestRejected) as rejected:
        request_content_type(content_type)
    assert rejected.value.status == 415
    assert "application/json or application/msgpack" in rejected.value.message
    assert len(rejected.value.message) < 200


@pytest.mark.parametrize("encoding", ["gzip", "br", "gzip, identity"])
def test_a_content_encoding_is_rejected(encoding: str) -> None:
    assert request_content_type("application/json", "identity") is JSON
    with pytest.raises(RequestRejected) as rejected:
        request_content_type("application/json", encoding)
    assert rejected.value.status == 415


@pytest.mark.parametrize("default", [JSON, MSGPACK])
@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        (None, None),
        ("*/*", None),
        ("application/*", None),
        ("text/html", None),
        ("", None),
        ("application/json", JSON),
        ("application/msgpack", MSGPACK),
        ("application/msgpack, application/json", None),
        ("application/msgpack;q=0.5, application/json", JSON),
        ("application/json;q=0.2,application/msgpack;q=0.9,*/*;q=1", MSGPACK),
        ("text/html, */*;q=0.1", None),
        ("APPLICATION/MSGPACK ; Q=1.0", MSGPACK),
        ("application/msgpack;q=nonsense, application/json;q=0.1", JSON),
        ("application/json;q=0, */*", MSGPACK),
        (",;=,;q=,", None),
    ],
)
def test_the_accept_header_selects_the_encoding_and_the_default_applies_otherwise(
    accept: str | None, expected: ContentType | None, default: ContentType
) -> None:
    assert preferred_content_type(accept, default=default) is (expected or default)


def test_payloads_are_copied_into_both_encodings() -> None:
    answer = {"messages": [{"data": payload_of({"a": [1, None, "ü"]})}]}
    expected = {"messages": [{"data": {"a": [1, None, "ü"]}}]}
    assert orjson.loads(JSON.encode(answer)) == expected
    assert msgpack.unpackb(MSGPACK.encode(answer)) == expected


@pytest.mark.parametrize("content_type", [JSON, MSGPACK])
def test_a_value_that_cannot_be_encoded_raises(content_type: ContentType) -> None:
    with pytest.raises(TypeError):
        content_type.encode({"answer": object()})


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        (JSON, b""),
        (JSON, b"{"),
        (JSON, b'{"a": NaN}'),
        (JSON, b'"\xff"'),
        (JSON, b"[" * 100_000),
        (JSON, b"[" * 100 + b"]" * 100),
        (MSGPACK, b""),
        (MSGPACK, b"\x81"),
        (MSGPACK, b"\x01\x01"),
        (MSGPACK, b"\xc7\x00\x01"),
        (MSGPACK, msgpack.packb({1: 2})),
        (MSGPACK, msgpack.packb({"a": b"bytes"})),
        (MSGPACK, msgpack.packb(float("nan"))),
        (MSGPACK, b"\xdd\xff\xff\xff\xff"),
        (MSGPACK, b"\x91" * 2_000 + b"\x01"),
    ],
)
def test_a_body_that_json_cannot_represent_is_malformed_in_both_encodings(
    content_type: ContentType, body: bytes
) -> None:
    with pytest.raises(BadRequest):
        content_type.decode(body)
