"""The two encodings of bodies, and which of them a request is in and its answer goes out in."""

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
    """One encoding of bodies; a `Payload` in what is encoded is spliced in."""

    name: str
    decode: Callable[[bytes], Any]
    """Bytes to a value; `BadRequest` for what JSON cannot carry."""
    encode: Callable[[Any], bytes]
    text: bool = False
    """Whether a body is JSON text, in which integers beyond 64 bits have to be looked for (`payload_of`)."""

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


JSON = ContentType("application/json", decode_json, _encode_json, text=True)
MSGPACK = ContentType("application/msgpack", decode_msgpack, _encode_msgpack)
MEDIA = {media.name: media for media in (JSON, MSGPACK)}


def media_of(content_type: str | None, content_encoding: str | None = None) -> ContentType:
    """Return the encoding of a body with these headers, JSON without a Content-Type; 415 for any other."""
    if content_encoding and content_encoding.strip().lower() != "identity":
        raise RequestRejected(415, ErrorCode.BAD_REQUEST, "send the body without a Content-Encoding")
    if not content_type:
        return JSON
    media = MEDIA.get(_bare(content_type))
    if media is None:
        raise RequestRejected(
            415, ErrorCode.BAD_REQUEST, f"Content-Type {content_type[:64]!r}: send {' or '.join(MEDIA)}"
        )
    return media


def accepted(accept: str | None, *, otherwise: ContentType) -> ContentType:
    """Return the encoding that an Accept header prefers (RFC 9110 section 12.5.1).

    *otherwise* is taken when the header is absent, likes both as much, or accepts neither: an answer in an
    encoding that the client knows tells more than a 406.
    """
    if accept is None or accept == "*/*":
        return otherwise
    ranges = dict(map(_weighted, accept.split(",")))
    anything = ranges.get("*/*", 0.0)
    weights = {
        media: ranges.get(name, ranges.get("application/*", anything)) for name, media in MEDIA.items()
    }
    best = max(weights.values())
    return otherwise if weights[otherwise] == best else max(weights, key=lambda media: weights[media])


def _weighted(item: str) -> tuple[str, float]:
    name, *parameters = item.split(";")
    for parameter in parameters:
        key, _, value = parameter.partition("=")
        if key.strip().lower() == "q":
            try:
                return _bare(name), float(value)
            except ValueError:
                return _bare(name), 0.0
    return _bare(name), 1.0


def _bare(name: str) -> str:
    return name.partition(";")[0].strip().lower()
