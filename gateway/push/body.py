"""Reading a request's body within its limit, and encoding the answer as the client wants it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from pydantic import BaseModel
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from gateway.errors import UNAVAILABLE_RETRY_SECONDS, Rejection
from gateway.memory import MemoryBudget
from gateway.push.content_types import JSON, ContentType, preferred_content_type, request_content_type
from gateway.push.errors import RequestRejected
from gateway.transport.http.rejections import HttpRejection
from protocol.errors import ErrorCode, ProtocolError

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


class RequestBodies:
    """Reads the bodies of requests, each within its limit, and all within the memory for bodies."""

    __slots__ = ("_budget", "_max_size")

    def __init__(self, *, max_size: int, budget: MemoryBudget) -> None:
        """Read at most *max_size* bytes of one body, and keep at most *budget* of all."""
        self._max_size = max_size
        self._budget = budget

    @asynccontextmanager
    async def read(self, request: Request) -> AsyncIterator[DecodedBody]:
        """Return the body of *request*, which is counted until the context ends.

        Raises:
            RequestRejected: 413 as soon as it turns out to have more bytes than one body may.
            ProtocolError: `unavailable`, 503: the bodies of all requests have more bytes than they may.
        """
        content_type = _content_type_of(request)
        async with self._bytes_of(request) as body:
            yield DecodedBody(body, content_type)

    @asynccontextmanager
    async def read_optional(self, request: Request) -> AsyncIterator[DecodedBody]:
        """As `read`; an empty map if *request* has no body."""
        async with self._bytes_of(request) as body:
            yield DecodedBody(body, _content_type_of(request)) if body else DecodedBody(b"{}", JSON)

    @asynccontextmanager
    async def _bytes_of(self, request: Request) -> AsyncIterator[bytes]:
        declared = request.headers.get("content-length", "")
        if declared.isdecimal() and (len(declared) > 18 or int(declared) > self._max_size):
            raise _too_large(self._max_size)
        body, counted = bytearray(), 0
        try:
            async for chunk in request.stream():
                if not self._budget.take(len(chunk)):
                    raise _no_memory()
                counted += len(chunk)
                body += chunk
                if len(body) > self._max_size:
                    raise _too_large(self._max_size)
            if declared.isdecimal() and int(declared) != len(body):
                # A layer below has lost it: what it said must not be taken for a body that says nothing.
                raise RequestRejected(
                    400, ErrorCode.BAD_REQUEST, f"of {int(declared)} bytes of the body, {len(body)} arrived"
                )
            yield bytes(body)
        except ClientDisconnect:
            raise RequestRejected(400, ErrorCode.BAD_REQUEST, "the body ended early") from None
        finally:
            self._budget.give_back(counted)


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


def _too_large(max_size: int) -> RequestRejected:
    return RequestRejected(
        413, ErrorCode.TOO_LARGE, f"a body has at most {max_size} bytes; send several requests"
    )


def _no_memory() -> ProtocolError:
    message = "the bodies of other requests take all the memory for bodies; try again later"
    return Rejection(ErrorCode.UNAVAILABLE, message, UNAVAILABLE_RETRY_SECONDS).error()
