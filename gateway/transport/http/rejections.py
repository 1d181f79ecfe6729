"""A `Rejection` as an HTTP answer, the same on both listeners: status, body and Retry-After.

The body is described in docs/protocol.md#connecting and docs/push-api.md#errors.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from gateway.errors import Rejection
from protocol.errors import ErrorCode

STATUS: dict[ErrorCode, int] = {
    ErrorCode.BAD_REQUEST: 400,
    ErrorCode.UNAUTHORIZED: 401,
    ErrorCode.PERMISSION_DENIED: 403,
    ErrorCode.TOO_LARGE: 413,
    ErrorCode.LIMIT_EXCEEDED: 429,
    ErrorCode.RATE_LIMITED: 429,
    ErrorCode.UNAVAILABLE: 503,
    ErrorCode.INTERNAL: 500,
}
"""The status that goes with each error code; `UNPROCESSABLE` with one that is not named here.

Where HTTP has a more exact status than the code, the caller of `render` names it: 404 and 405 for a path or
method that is not served, 408 for a late request, 414 for a long target, 415 for a content type, 426 for a
missing upgrade, 431 for a large head, 505 for an HTTP version, 507 for a full broker.
"""

UNPROCESSABLE = 422
"""The status of a well-formed request whose values do not fit, such as an unknown channel."""

BROKER_FULL = 507
"""Insufficient Storage (RFC 4918 section 11.5): the code is `unavailable`, but operators tell it from 503."""


@dataclass(frozen=True, slots=True)
class HttpRejection:
    """A rejection, ready to be encoded and sent."""

    status: int
    headers: Mapping[str, str]
    body: dict[str, Any]

    def json(self) -> bytes:
        """Return the body as JSON."""
        return orjson.dumps(self.body)


def render(
    rejection: Rejection, *, status: int | None = None, headers: Mapping[str, str] | None = None
) -> HttpRejection:
    """Return the HTTP answer for *rejection*.

    Args:
        rejection: what the body says.
        status: instead of the one that `STATUS` has for the code.
        headers: beside Retry-After, which has whole seconds and is there where waiting helps.

    """
    error: dict[str, Any] = {"code": rejection.code.value, "message": rejection.message}
    every = dict(headers or ())
    if rejection.retry_after is not None:
        error["retry_after_ms"] = rejection.retry_after_ms
        every["retry-after"] = str(max(1, math.ceil(rejection.retry_after)))
    if status is None:
        status = STATUS.get(rejection.code, UNPROCESSABLE)
    return HttpRejection(status, every, {"error": error})
