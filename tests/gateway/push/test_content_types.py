"""The encodings of bodies, and how a request chooses."""

import msgpack
import orjson
import pytest

from gateway.push.content_types import JSON, MSGPACK, ContentType, accepted, media_of
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
def test_content_type_names_the_encoding(content_type: str | None, expected: ContentType) -> None:
    assert media_of(content_type) is expected


@pytest.mark.parametrize(
    "content_type", ["text/plain", "application/x-www-form-urlencoded", "json", "a" * 500]
)
def test_another_content_type_is_refused_with_the_right_ones(content_type: str) -> None:
    with pytest.raises(RequestRejected) as refused:
        media_of(content_type)
    assert refused.value.status == 415
    assert "application/json or application/msgpack" in refused.value.message
    assert len(refused.value.message) < 200


@pytest.mark.parametrize("encoding", ["gzip", "br", "gzip, identity"])
def test_a_content_encoding_is_refused(encoding: str) -> None:
    assert media_of("application/json", "identity") is JSON
    with pytest.raises(RequestRejected) as refused:
        media_of("application/json", encoding)
    assert refused.value.status == 415


@pytest.mark.parametrize("otherwise", [JSON, MSGPACK])
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
def test_accept_chooses_and_otherwise_the_request_does(
    accept: str | None, expected: ContentType | None, otherwise: ContentType
) -> None:
    assert accepted(accept, otherwise=otherwise) is (expected or otherwise)


def test_payloads_are_spliced_into_both_encodings() -> None:
    answer = {"messages": [{"data": payload_of({"a": [1, None, "ü"]})}]}
    expected = {"messages": [{"data": {"a": [1, None, "ü"]}}]}
    assert orjson.loads(JSON.encode(answer)) == expected
    assert msgpack.unpackb(MSGPACK.encode(answer)) == expected


@pytest.mark.parametrize("media", [JSON, MSGPACK])
def test_what_has_no_place_in_an_answer_is_no_answer(media: ContentType) -> None:
    with pytest.raises(TypeError):
        media.encode({"answer": object()})


@pytest.mark.parametrize(
    ("media", "body"),
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
def test_what_json_cannot_carry_is_malformed_in_both(media: ContentType, body: bytes) -> None:
    with pytest.raises(BadRequest):
        media.decode(body)
