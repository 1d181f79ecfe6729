"""From errors to answers."""

import logging

import pytest
from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError
from starlette.exceptions import HTTPException

from gateway.access.permissions import UnknownChannel
from gateway.errors import BrokerFull, BrokerUnavailable
from gateway.push.errors import RequestRejected, http_rejection
from gateway.push.requests import PublishRequest
from protocol.errors import BadRequest, ErrorCode, ServerFault

WRONG_LIMIT = {"loc": ("query", "limit"), "msg": "no", "type": "x", "input": 1}
RATE_LIMITED = ServerFault(ErrorCode.RATE_LIMITED, "slower", retry_after_ms=1_500)


@pytest.mark.parametrize(
    ("error", "status", "code", "retry_after", "retry_after_ms"),
    [
        (BadRequest("no JSON"), 400, "bad_request", None, None),
        (RequestRejected(415, ErrorCode.BAD_REQUEST, "x"), 415, "bad_request", None, None),
        (UnknownChannel("a:b", "a"), 422, "unknown_channel", None, None),
        (RATE_LIMITED, 429, "rate_limited", "2", 1_500),
        (ServerFault(ErrorCode.UNAVAILABLE, "x"), 503, "unavailable", "1", 1_000),
        (BrokerUnavailable("redis at 10.0.0.1"), 503, "unavailable", "1", 1_000),
        (BrokerUnavailable("x", retry_after=0.25), 503, "unavailable", "1", 250),
        (BrokerUnavailable("x", retry_after=9.5), 503, "unavailable", "10", 9_500),
        (BrokerFull("x"), 507, "unavailable", "5", 5_000),
        (HTTPException(404), 404, "bad_request", None, None),
        (HTTPException(405, headers={"Allow": "POST"}), 405, "bad_request", None, None),
        (RequestValidationError([WRONG_LIMIT]), 422, "bad_request", None, None),
        (KeyError("a secret"), 500, "internal", None, None),
    ],
)
def test_every_error_has_its_status_code_and_retry_time(
    error: Exception, status: int, code: str, retry_after: str | None, retry_after_ms: int | None
) -> None:
    rejected = http_rejection(error)
    described = rejected.body["error"]
    assert (rejected.status, described["code"]) == (status, code)
    assert rejected.headers.get("retry-after") == retry_after
    assert described.get("retry_after_ms") == retry_after_ms
    assert "secret" not in described["message"]
    assert "10.0.0.1" not in described["message"]


def test_only_unexpected_errors_are_logged(caplog: pytest.LogCaptureFixture) -> None:
    http_rejection(BrokerUnavailable("x"))
    http_rejection(BadRequest("x"))
    assert not caplog.records
    http_rejection(ZeroDivisionError("x"))
    (record,) = caplog.records
    assert record.levelno == logging.ERROR
    assert record.exc_info


def test_a_wrong_method_is_answered_with_the_allowed_ones() -> None:
    assert http_rejection(HTTPException(405, headers={"Allow": "POST"})).headers == {"Allow": "POST"}


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"data": 1}, "channel: is missing"),
        ({"channel": "a"}, "data: is missing"),
        ({"channel": 5, "data": 1}, "channel: expected a valid string, not 5"),
        ({"channel": "a", "data": 1, "history": "no"}, "history: expected a valid boolean, not 'no'"),
        ({"channel": "a", "data": 1, "exclude": [1]}, "exclude.0: expected a valid string, not 1"),
        ({"channel": "a", "data": 1, "tags": {"path": 1}}, "tags.path: expected a valid string, not 1"),
        ({}, "data: is missing (and 1 more)"),
        ([], "body: expected a map, not an array"),
        (None, "body: expected a map, not None"),
    ],
)
def test_a_wrong_field_is_named(body: object, message: str) -> None:
    with pytest.raises(ValidationError) as wrong:
        PublishRequest.model_validate(body)
    assert http_rejection(wrong.value).body["error"]["message"] == message
