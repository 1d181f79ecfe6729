"""What went wrong, as an HTTP answer: one table from errors to status, code and words."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError
from starlette.exceptions import HTTPException

from gateway.errors import BrokerFull, BrokerUnavailable
from gateway.transport.http import rejections
from protocol import fields
from protocol.errors import ErrorCode, ProtocolError

_log = logging.getLogger(__name__)

STATUS: dict[ErrorCode, int] = {
    ErrorCode.BAD_REQUEST: 400,
    ErrorCode.UNAUTHORIZED: 401,
    ErrorCode.TOO_LARGE: 413,
    ErrorCode.RATE_LIMITED: 429,
    ErrorCode.UNAVAILABLE: 503,
    ErrorCode.INTERNAL: 500,
}
"""The status of each error of the protocol; those not named here were well-formed but refused: 422."""

RETRY_AFTER = 1.0
"""Seconds after which to try again, where nobody knows better."""
FULL_RETRY_AFTER = 5.0
"""Seconds after which a broker without memory may have dropped what is too old."""


class Refused(ProtocolError):
    """The request is not carried out: the *status* to answer with, beside what the body's `error` says."""

    def __init__(
        self,
        status: int,
        code: ErrorCode,
        message: str,
        *,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(code, message)
        self.status = status
        self.headers = headers or {}


@dataclass(frozen=True, slots=True)
class Failure:
    """The answer to a request that was not carried out; `retry_after` in seconds."""

    status: int
    code: ErrorCode
    message: str
    retry_after: float | None = None
    headers: Mapping[str, str] = field(default_factory=dict)

    def body(self) -> dict[str, Any]:
        """Return the map that tells of it: PROTOCOL's `{"error": {…}}`."""
        return rejections.body(self.code, self.message, self.retry_after)

    def all_headers(self) -> dict[str, str]:
        """Return `headers`, with Retry-After where the same request may succeed later."""
        return {**self.headers, **rejections.headers(self.retry_after)}


def failure_of(error: Exception) -> Failure:
    """Return the answer to a request that ended in *error*.

    What nobody foresaw is logged with its traceback, and told without details.
    """
    for kind in type(error).__mro__:
        if kind in FAILURES:
            return FAILURES[kind](error)
    _log.error("push: %s", type(error).__name__, exc_info=error)
    return Failure(500, ErrorCode.INTERNAL, "the gateway failed; its log says how")


def explain(errors: Sequence[Any]) -> str:
    """Return pydantic's first complaint in one line: the field, what was expected, and what was there."""
    first = errors[0]
    place, *_ = parts = [str(part) for part in first["loc"]] or ["body"]
    where = ".".join(parts[1:] if place in _PLACES and len(parts) > 1 else parts)
    problem: str = first["msg"]
    if first["type"] == "missing":
        problem = "is missing"
    elif first["type"] == "model_type":
        problem = fields.expected("a map", first["input"]).message
    elif problem.startswith(_EXPECTED):
        problem = fields.expected(problem.removeprefix(_EXPECTED), first["input"]).message
    return f"{where}: {problem}" + (f" (and {len(errors) - 1} more)" if len(errors) > 1 else "")


_EXPECTED = "Input should be "
_PLACES = ("path", "query")


def _refused(error: Refused) -> Failure:
    return Failure(error.status, error.code, error.message, headers=error.headers)


def _protocol(error: ProtocolError) -> Failure:
    status = STATUS.get(error.code, 422)
    retry_after = None if error.retry_after_ms is None else error.retry_after_ms / 1000
    if status in (429, 503) and retry_after is None:
        retry_after = RETRY_AFTER
    return Failure(status, error.code, error.message, retry_after=retry_after)


def _http(error: HTTPException) -> Failure:
    """Return what Starlette's router means: no such path, or not with this method."""
    messages = {404: "no such path; GET /docs lists them", 405: "this path does not take this method"}
    code = ErrorCode.BAD_REQUEST if error.status_code < 500 else ErrorCode.INTERNAL
    message = messages.get(error.status_code, str(error.detail))
    return Failure(error.status_code, code, message, headers=error.headers or {})


def _unavailable(error: BrokerUnavailable) -> Failure:
    message = "the broker cannot take it now; try again later"
    return Failure(503, ErrorCode.UNAVAILABLE, message, retry_after=error.retry_after)


def _full(_: BrokerFull) -> Failure:
    message = "the broker has no memory left to keep this message"
    return Failure(507, ErrorCode.UNAVAILABLE, message, retry_after=FULL_RETRY_AFTER)


def _invalid(error: ValidationError | RequestValidationError) -> Failure:
    return Failure(422, ErrorCode.BAD_REQUEST, explain(error.errors()))


FAILURES: dict[type, Callable[[Any], Failure]] = {
    Refused: _refused,
    ProtocolError: _protocol,
    BrokerUnavailable: _unavailable,
    BrokerFull: _full,
    ValidationError: _invalid,
    RequestValidationError: _invalid,
    HTTPException: _http,
}
"""What each foreseen error answers."""
