"""Reading a request's body within its limit, and encoding the answer as the client wants it."""

from __future__ import annotations

from typing import Any, TypeVar

from pydantic import BaseModel
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from gateway.push.content_types import JSON, ContentType, preferred_content_type, request_content_type
from gateway.push.errors import RequestRejected
from gateway.transport.http.rejections import HttpRejection
from protocol.errors import ErrorCode

M = TypeVar("M", bound=BaseModel)


class DecodedBody:
    """A request's body: the value, and the JSON text that it was decoded from, if it was JSON."""

    __slots__ = ("json_text", "value")

    def __init__(self, body: bytes, content_type: ContentType) -> None:
        """Decode *body*; `BadRequest` if it cannot be decoded."""
        self.value: Any = content_type.decode(body)
        self.json_text = body if content_type.is_json else None

    def parse(self, model: type[M]) -> M:
        """Return the value as *model*; pydantic's `ValidationError` if it does not fit."""
        return model.model_validate(self.value)


async def read_body(request: Request, *, max_size: int) -> DecodedBody:
    """Return the body of *request*; 413 as soon as it turns out to have more than *max_size* bytes."""
    content_type = _content_type_of(request)
    return DecodedBody(await _read_bytes(request, max_size), content_type)


async def read_optional_body(request: Request, *, max_size: int) -> DecodedBody:
    """Return the body of *request*; an empty map if it has none."""
    body = await _read_bytes(request, max_size)
    return DecodedBody(body, _content_type_of(request)) if body else DecodedBody(b"{}", JSON)


def encode_answer(request: Request, answer: Any) -> Response:
    """Return a response with *answer* in the encoding that *request* prefers."""
    content_type = answer_content_type(request)
    return Response(content_type.encode(answer), headers={"content-type": content_type.name})


def encode_rejection(request: Request, rejection: HttpRejection) -> Response:
    """Return a response with *rejection* in the encoding that *request* prefers."""
    content_type = answer_content_type(request)
    headers = {**rejection.headers, "content-type": content_type.name}
    return Response(content_type.encode(rejection.body), rejection.status, headers)


def answer_content_type(request: Request) -> ContentType:
    """Return the encoding of the answer: what Accept says, else that of the request."""
    try:
        default = request_content_type(request.headers.get("content-type"))
    except RequestRejected:
        default = JSON
    return preferred_content_type(request.headers.get("accept"), default=default)


def _content_type_of(request: Request) -> ContentType:
    headers = request.headers
    return request_content_type(headers.get("content-type"), headers.get("content-encoding"))


async def _read_bytes(request: Request, max_size: int) -> bytes:
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and (len(declared) > 18 or int(declared) > max_size):
        raise _too_large(max_size)
    body = bytearray()
    try:
        async for chunk in request.stream():
            body += chunk
            if len(body) > max_size:
                raise _too_large(max_size)
    except ClientDisconnect:
        raise RequestRejected(400, ErrorCode.BAD_REQUEST, "the body ended early") from None
    if declared.isdecimal() and int(declared) != len(body):
        # A layer below has lost it: what it said must not be taken for a body that says nothing.
        raise RequestRejected(
            400, ErrorCode.BAD_REQUEST, f"of {int(declared)} bytes of the body, {len(body)} arrived"
        )
    return bytes(body)


def _too_large(max_size: int) -> RequestRejected:
    return RequestRejected(
        413, ErrorCode.TOO_LARGE, f"a body has at most {max_size} bytes; send several requests"
    )
