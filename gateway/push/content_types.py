"""The two encodings of bodies, and which of them a request has and its answer gets."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import msgpack
import orjson

from gateway.push.errors import RequestRejected
from protocol.codec import decode_json, decode_msgpack
from protocol.errors import ErrorCode
from protocol.payload import Payload


@dataclass(frozen=True, slots=True)
class ContentType:
    """One encoding of bodies; a `Payload` inside a value is copied as it is already encoded."""

    name: str
    decode: Callable[[bytes], Any]
    """Bytes to a value; `BadRequest` for what JSON cannot represent."""
    encode: Callable[[Any], bytes]
    is_json: bool = False
    """Whether a body is JSON text, which must be searched for integers beyond 64 bits (`payload_of`)."""

    @property
    def header(self) -> bytes:
        """The value of a Content-Type header."""
        return self.name.encode()


def _payload(value: object) -> Payload:
    if isinstance(value, Payload):
        return value
    raise TypeError(f"{type(value).__name__} in an answer")


def _encode_json(value: Any) -> bytes:
    return orjson.dumps(value, default=lambda item: orjson.Fragment(_payload(item).json))


def _encode_msgpack(value: Any) -> bytes:
    packed: bytes = msgpack.packb(value, default=lambda item: _payload(item).value)
    return packed


JSON = ContentType("application/json", decode_json, _encode_json, is_json=True)
MSGPACK = ContentType("application/msgpack", decode_msgpack, _encode_msgpack)
CONTENT_TYPES = {each.name: each for each in (JSON, MSGPACK)}


def request_content_type(content_type: str | None, content_encoding: str | None = None) -> ContentType:
    """Return the encoding of a body with these headers, JSON without a Content-Type; 415 for any other."""
    if content_encoding and content_encoding.strip().lower() != "identity":
        raise RequestRejected(415, ErrorCode.BAD_REQUEST, "send the body without a Content-Encoding")
    if not content_type:
        return JSON
    known = CONTENT_TYPES.get(_without_parameters(content_type))
    if known is None:
        raise RequestRejected(
            415,
            ErrorCode.BAD_REQUEST,
            f"Content-Type {content_type[:64]!r}: send {' or '.join(CONTENT_TYPES)}",
        )
    return known


def preferred_content_type(accept: str | None, *, default: ContentType) -> ContentType:
    """Return the encoding that an Accept header prefers (RFC 9110 section 12.5.1).

    *default* is returned when the header is absent, prefers neither, or accepts neither: an answer in an
    encoding that the client can read says more than a 406.
    """
    if accept is None or accept == "*/*":
        return default
    ranges = dict(map(_range_and_weight, accept.split(",")))
    any_type = ranges.get("*/*", 0.0)
    weights = {
        each: ranges.get(name, ranges.get("application/*", any_type)) for name, each in CONTENT_TYPES.items()
    }
    highest = max(weights.values())
    return default if weights[default] == highest else max(weights, key=lambda each: weights[each])


def _range_and_weight(item: str) -> tuple[str, float]:
    name, *parameters = item.split(";")
    for parameter in parameters:
        key, _, value = parameter.partition("=")
        if key.strip().lower() == "q":
            try:
                return _without_parameters(name), float(value)
            except ValueError:
                return _without_parameters(name), 0.0
    return _without_parameters(name), 1.0


def _without_parameters(name: str) -> str:
    return name.partition(";")[0].strip().lower()
