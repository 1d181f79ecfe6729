"""One request and its answer: the body read within its bound, both in the encoding that was asked for."""

from __future__ import annotations

from typing import Any, TypeVar

from pydantic import BaseModel
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from gateway.push.content_types import JSON, ContentType, accepted, media_of
from gateway.push.errors import RequestRejected
from gateway.transport.http.rejections import HttpRejection
from protocol.errors import ErrorCode

M = TypeVar("M", bound=BaseModel)


class DecodedBody:
    """A request's body: the value, and the JSON text that it was decoded from, where it was."""

    __slots__ = ("source", "value")

    def __init__(self, body: bytes, media: ContentType) -> None:
        """Decode *body*; `BadRequest` where it cannot be."""
        self.value: Any = media.decode(body)
        self.source = body if media.text else None

    def as_a(self, model: type[M]) -> M:
        """Return the value as *model*; pydantic's `ValidationError` where it is none."""
        return model.model_validate(self.value)


async def read(request: Request, *, at_most: int) -> DecodedBody:
    """Return the body of *request*; 413 as soon as it turns out to have more than *at_most* bytes."""
    media = _media_in(request)
    return DecodedBody(await _whole(request, at_most), media)


async def read_optional(request: Request, *, at_most: int) -> DecodedBody:
    """Return the body of *request*, an empty map where it has none."""
    body = await _whole(request, at_most)
    return DecodedBody(body, _media_in(request)) if body else DecodedBody(b"{}", JSON)


def reply(request: Request, answer: Any) -> Response:
    """Return *answer* in the encoding that *request* prefers."""
    media = media_out(request)
    return Response(media.encode(answer), headers={"content-type": media.name})


def rejection(request: Request, rejected: HttpRejection) -> Response:
    """Return the answer *rejected* in the encoding that *request* prefers."""
    media = media_out(request)
    headers = {**rejected.headers, "content-type": media.name}
    return Response(media.encode(rejected.body), rejected.status, headers)


def media_out(request: Request) -> ContentType:
    """Return the encoding of the answer: what Accept says, else that of the request."""
    try:
        otherwise = media_of(request.headers.get("content-type"))
    except RequestRejected:
        otherwise = JSON
    return accepted(request.headers.get("accept"), otherwise=otherwise)


def _media_in(request: Request) -> ContentType:
    return media_of(request.headers.get("content-type"), request.headers.get("content-encoding"))


async def _whole(request: Request, at_most: int) -> bytes:
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and (len(declared) > 18 or int(declared) > at_most):
        raise _too_large(at_most)
    body = bytearray()
    try:
        async for chunk in request.stream():
            body += chunk
            if len(body) > at_most:
                raise _too_large(at_most)
    except ClientDisconnect:
        raise RequestRejected(400, ErrorCode.BAD_REQUEST, "the body ended early") from None
    return bytes(body)


def _too_large(at_most: int) -> RequestRejected:
    return RequestRejected(
        413, ErrorCode.TOO_LARGE, f"a body has at most {at_most} bytes; send several requests"
    )
