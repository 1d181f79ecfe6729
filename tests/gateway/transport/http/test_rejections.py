import pytest

from gateway.errors import Rejection
from gateway.transport.http.rejections import STATUS, UNPROCESSABLE, render
from protocol.errors import ErrorCode


@pytest.mark.parametrize("code", ErrorCode)
def test_the_status_follows_from_the_code(code: ErrorCode) -> None:
    rendered = render(Rejection(code, "no"))
    assert rendered.status == STATUS.get(code, UNPROCESSABLE)
    assert rendered.json() == b'{"error":{"code":"%b","message":"no"}}' % code.encode()
    assert rendered.headers == {}


def test_a_caller_may_name_a_more_exact_status_and_further_headers() -> None:
    rendered = render(Rejection(ErrorCode.BAD_REQUEST, "no"), status=405, headers={"allow": "POST"})
    assert (rendered.status, rendered.headers) == (405, {"allow": "POST"})


@pytest.mark.parametrize(
    ("seconds", "header", "milliseconds"),
    [(0.0, "1", 0), (0.25, "1", 250), (1.0, "1", 1_000), (1.0001, "2", 1_001), (9.5, "10", 9_500)],
)
def test_retry_after_has_whole_seconds_in_the_header_and_milliseconds_in_the_body(
    seconds: float, header: str, milliseconds: int
) -> None:
    rendered = render(Rejection(ErrorCode.UNAVAILABLE, "later", seconds), headers={"x": "y"})
    assert rendered.headers == {"x": "y", "retry-after": header}
    assert rendered.body["error"]["retry_after_ms"] == milliseconds
