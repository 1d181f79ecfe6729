import pytest

from gateway.errors import BrokerFull, BrokerUnavailable, GatewayError, Rejection, rejection_of
from protocol.errors import ClientFault, ErrorCode, ServerFault


@pytest.mark.parametrize("code", ErrorCode)
def test_a_rejection_is_raised_as_a_fault_of_the_client_or_of_the_server(code: ErrorCode) -> None:
    error = Rejection(code, "why").error()
    server = code in {ErrorCode.UNAVAILABLE, ErrorCode.INTERNAL}
    assert type(error) is (ServerFault if server else ClientFault)
    assert (error.code, error.message, error.retry_after_ms) == (code, "why", None)


@pytest.mark.parametrize(("seconds", "milliseconds"), [(0.0, 0), (0.25, 250), (1.0001, 1_001), (5.0, 5_000)])
def test_a_client_that_waits_as_long_as_it_is_asked_to_is_not_early(
    seconds: float, milliseconds: int
) -> None:
    error = Rejection(ErrorCode.RATE_LIMITED, "too many commands", seconds).error()
    assert error.retry_after_ms == milliseconds


@pytest.mark.parametrize(
    ("error", "message", "retry_after"),
    [
        (BrokerUnavailable("redis is away"), "the broker cannot take it now", 1.0),
        (BrokerUnavailable("redis is away", retry_after=0.5), "the broker cannot take it now", 0.5),
        (BrokerFull("maxmemory", details="OOM"), "the broker is full", 5.0),
        (GatewayError("anything else"), "the broker cannot take it now", 1.0),
    ],
)
def test_what_a_client_is_answered_when_the_broker_fails(
    error: GatewayError, message: str, retry_after: float
) -> None:
    assert rejection_of(error) == Rejection(ErrorCode.UNAVAILABLE, message, retry_after)


def test_details_stand_in_brackets_behind_the_kind_of_error() -> None:
    assert str(GatewayError("away")) == "away"
    assert str(GatewayError("away", details="10.0.0.1")) == "away (10.0.0.1)"
