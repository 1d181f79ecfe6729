"""Error codes, close codes and what a client does on each, as docs/protocol.md has them."""

from __future__ import annotations

import pytest

from protocol.errors import (
    CLOSE_ON_ERROR,
    CLOSES,
    BadRequest,
    ClientFault,
    CloseCode,
    ErrorCode,
    ProtocolError,
    ServerFault,
)

ERROR_CODES = (
    "bad_request unauthorized permission_denied unknown_channel already_subscribed not_subscribed "
    "limit_exceeded rate_limited too_large token_expired unavailable internal key_reused"
)

CLOSE_CODES = {
    4000: ("drain", "reconnect", "told"),
    4001: ("connect_timeout", "reconnect", "jitter"),
    4002: ("protocol_violation", "stop", "jitter"),
    4003: ("unauthorized", "stop_until_new_token", "jitter"),
    4004: ("token_expired", "refresh_token", "jitter"),
    4005: ("disconnected", "stop", "jitter"),
    4006: ("slow_consumer", "reconnect", "jitter"),
    4007: ("heartbeat_timeout", "reconnect", "jitter"),
    4008: ("rate_limited", "reconnect", "long"),
    4010: ("connection_limit", "reconnect", "long"),
    4011: ("internal", "reconnect", "jitter"),
    4012: ("replaced", "stop", "jitter"),
    4013: ("fenced", "reconnect", "jitter"),
    1009: ("message too big", "stop", "jitter"),
    1002: ("protocol error", "stop", "jitter"),
    1007: ("invalid data", "stop", "jitter"),
}


def test_the_error_codes_are_complete() -> None:
    assert " ".join(ErrorCode) == ERROR_CODES


def test_the_close_codes_are_complete() -> None:
    assert {int(code): (row.reason, row.reaction, row.backoff) for code, row in CLOSES.items()} == CLOSE_CODES
    assert set(CloseCode) == {*CLOSE_CODES, 1000}


def test_a_rejected_connect_closes_the_connection_after_some_errors() -> None:
    assert CLOSE_ON_ERROR == {
        "unauthorized": 4003,
        "permission_denied": 4003,
        "token_expired": 4004,
        "limit_exceeded": 4010,
        "unavailable": 4011,
        "internal": 4011,
    }
    assert set(CLOSE_ON_ERROR.values()) <= set(CLOSES)


@pytest.mark.parametrize("kind", [ClientFault, ServerFault])
def test_a_protocol_error_has_the_fields_of_its_error(kind: type[ProtocolError]) -> None:
    fault = kind(ErrorCode.RATE_LIMITED, "too many commands", retry_after_ms=250)
    assert isinstance(fault, ProtocolError)
    assert (fault.code, fault.message, fault.retry_after_ms) == ("rate_limited", "too many commands", 250)
    assert str(fault) == "too many commands"
    assert kind(ErrorCode.INTERNAL, "").retry_after_ms is None


def test_a_bad_request_is_a_client_fault_with_the_id_of_the_command() -> None:
    assert isinstance(BadRequest("x"), ClientFault)
    assert BadRequest("x").id is None
    assert (BadRequest("x", id=3).id, BadRequest("x").code) == (3, ErrorCode.BAD_REQUEST)
