"""Errors as HTTP answers: one table from an error to status, code and message."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError
from starlette.exceptions import HTTPException

from gateway import errors
from gateway.errors import UNAVAILABLE_RETRY_SECONDS, BrokerFull, BrokerUnavailable, KeyReused, Rejection
from gateway.transport.http.rejections import BROKER_FULL, UNPROCESSABLE, HttpRejection, render
from protocol import fields
from protocol.errors import ErrorCode, ProtocolError

_log = logging.getLogger(__name__)


class RequestRejected(ProtocolError):
    """The request is not carried out; *status* and *headers* are those of the answer."""

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


def http_rejection(error: Exception) -> HttpRejection:
    """Return the answer to a request that ended in *error*.

    An error that is not in `RENDERERS` is logged with its traceback; the answer has none of its details.
    """
    for kind in type(error).__mro__:
        if kind in RENDERERS:
            return RENDERERS[kind](error)
    _log.error("push: %s", type(error).__name__, exc_info=error)
    return render(Rejection(ErrorCode.INTERNAL, "the gateway failed; its log says how"))


def first_problem(problems: Sequence[Any]) -> str:
    """Return pydantic's first problem in one line: the field, what was expected, and what was there."""
    first = problems[0]
    place, *_ = parts = [str(part) for part in first["loc"]] or ["body"]
    where = ".".join(parts[1:] if place in _PLACES and len(parts) > 1 else parts)
    problem: str = first["msg"]
    if first["type"] == "missing":
        problem = "is missing"
    elif first["type"] == "model_type":
        problem = fields.expected("a map", first["input"]).message
    elif problem.startswith(_EXPECTED):
        problem = fields.expected(problem.removeprefix(_EXPECTED), first["input"]).message
    return f"{where}: {problem}" + (f" (and {len(problems) - 1} more)" if len(problems) > 1 else "")


_EXPECTED = "Input should be "
_PLACES = ("path", "query")


def _rejected(error: RequestRejected) -> HttpRejection:
    return render(Rejection(error.code, error.message), status=error.status, headers=error.headers)


def _protocol(error: ProtocolError) -> HttpRejection:
    retry_after = None if error.retry_after_ms is None else error.retry_after_ms / 1000
    if retry_after is None and error.code in _WAITING_HELPS:
        retry_after = UNAVAILABLE_RETRY_SECONDS
    return render(Rejection(error.code, error.message, retry_after))


_WAITING_HELPS = frozenset({ErrorCode.RATE_LIMITED, ErrorCode.UNAVAILABLE})


def _http(error: HTTPException) -> HttpRejection:
    """Return the answer to what Starlette's router raises: no such path, or not with this method."""
    messages = {404: "no such path; GET /docs lists them", 405: "this path does not take this method"}
    code = ErrorCode.BAD_REQUEST if error.status_code < 500 else ErrorCode.INTERNAL
    message = messages.get(error.status_code, str(error.detail))
    return render(Rejection(code, message), status=error.status_code, headers=error.headers)


def _unavailable(error: BrokerUnavailable) -> HttpRejection:
    message = "the broker cannot take it now; try again later"
    return render(replace(errors.rejection_of(error), message=message))


def _full(error: BrokerFull) -> HttpRejection:
    message = "the broker has no memory left to keep this message"
    return render(replace(errors.rejection_of(error), message=message), status=BROKER_FULL)


def _key_reused(error: KeyReused) -> HttpRejection:
    return render(errors.rejection_of(error))


def _invalid(error: ValidationError | RequestValidationError) -> HttpRejection:
    return render(Rejection(ErrorCode.BAD_REQUEST, first_problem(error.errors())), status=UNPROCESSABLE)


RENDERERS: dict[type, Callable[[Any], HttpRejection]] = {
    RequestRejected: _rejected,
    ProtocolError: _protocol,
    BrokerUnavailable: _unavailable,
    BrokerFull: _full,
    KeyReused: _key_reused,
    ValidationError: _invalid,
    RequestValidationError: _invalid,
    HTTPException: _http,
}
"""The answer to each expected error, by its class or the nearest base of it."""
