import math
from typing import Any

from gateway.hub.pong_deadline import (
    LEAST_BYTES_PER_SECOND,
    LONGEST_WAIT_SECONDS,
    PROMPT_SECONDS,
    PongDeadline,
)
from gateway.transport.tcp_progress import TcpProgress

GRACE, STALL_TIMEOUT = 10.0, 20.0
PING = 17
KIB = 1024


def progress(written: int, acknowledged: int | None = None) -> TcpProgress:
    return TcpProgress(written, written if acknowledged is None else acknowledged, 0.0, math.inf)


def at(deadline: PongDeadline, now: float, written: int, acknowledged: int) -> float:
    """Return until when to wait, counted from *now*."""
    return deadline.at(now, progress(written, acknowledged), grace=GRACE, stall_timeout=STALL_TIMEOUT) - now


def pinged(*, written: int, acknowledged: int | None = None, now: float = 100.0) -> PongDeadline:
    deadline = PongDeadline()
    deadline.on_ping(now, PING, progress(written, acknowledged))
    return deadline


def test_idle_connection_with_little_sent_needs_no_deadline_of_its_own() -> None:
    assert not PongDeadline.is_needed(progress(10 * KIB), GRACE)
    assert PongDeadline.is_needed(progress(10 * KIB + 1), GRACE)
    assert PongDeadline.is_needed(progress(900, 899), GRACE)


def test_ping_that_waits_behind_other_bytes_waits_while_some_are_acknowledged() -> None:
    deadline, now, written, acknowledged = pinged(written=500 * KIB, acknowledged=0), 110.0, 500 * KIB, 1
    while acknowledged < written:
        assert at(deadline, now, written + PING, acknowledged) == STALL_TIMEOUT
        now, acknowledged = now + STALL_TIMEOUT, acknowledged + 25 * KIB
    assert at(deadline, now, written + PING, written + PING) > 0


def test_ping_that_waits_behind_bytes_of_which_none_is_acknowledged_times_out() -> None:
    deadline = pinged(written=500 * KIB, acknowledged=100 * KIB)
    assert at(deadline, 110.0, 500 * KIB + PING, 100 * KIB) == STALL_TIMEOUT - GRACE
    assert at(deadline, 120.0, 500 * KIB + PING, 100 * KIB) == 0


def test_ping_with_nothing_before_it_that_is_not_acknowledged_times_out_after_the_grace() -> None:
    assert at(pinged(written=500 * KIB), 110.0, 500 * KIB + PING, 500 * KIB) == 0


def test_acknowledged_ping_waits_for_what_a_proxy_may_still_hold() -> None:
    size = 100 * KIB
    deadline = pinged(written=size)
    left = at(deadline, 110.0, size + PING, size + PING)
    assert left == (size + PING) / LEAST_BYTES_PER_SECOND - GRACE
    assert at(deadline, 110.0 + left, size + PING, size + PING) == 0


def test_wait_for_what_a_proxy_may_hold_begins_when_the_ping_is_acknowledged() -> None:
    size = 100 * KIB
    deadline = pinged(written=size, acknowledged=0)
    at(deadline, 110.0, size + PING, size - KIB)
    assert at(deadline, 130.0, size + PING, size + PING) == (size + PING) / LEAST_BYTES_PER_SECOND
    assert at(deadline, 140.0, size + PING, size + PING) == (size + PING) / LEAST_BYTES_PER_SECOND - 10.0


def test_wait_for_an_acknowledged_ping_is_bounded() -> None:
    size = 1_000_000_000
    assert at(pinged(written=size), 110.0, size + PING, size + PING) == LONGEST_WAIT_SECONDS - GRACE


def answered(deadline: PongDeadline, *, after: float, now: float = 100.0) -> PongDeadline:
    deadline.on_pong(now + after)
    return deadline


def test_answer_proves_that_everything_before_the_ping_was_read() -> None:
    deadline = answered(pinged(written=100 * KIB), after=5.0)
    deadline.on_ping(200.0, PING, progress(120 * KIB))
    unproven = 120 * KIB - 100 * KIB
    assert at(deadline, 210.0, 120 * KIB + PING, 120 * KIB + PING) == unproven / LEAST_BYTES_PER_SECOND - 10


def test_as_much_again_as_passed_promptly_needs_no_more_than_the_grace() -> None:
    deadline = answered(pinged(written=100 * KIB), after=PROMPT_SECONDS)
    deadline.on_ping(200.0, PING, progress(200 * KIB))
    assert at(deadline, 210.0, 200 * KIB + PING, 200 * KIB + PING) == 0


def test_answer_to_an_earlier_ping_proves_nothing_about_the_newest() -> None:
    deadline = pinged(written=100 * KIB)
    deadline.on_ping(130.0, PING, progress(100 * KIB + PING))
    deadline.on_pong(135.0)
    proves_nothing: Any = (at(deadline, 140.0, 110 * KIB, 110 * KIB), 100 * KIB / LEAST_BYTES_PER_SECOND)
    assert proves_nothing[0] > proves_nothing[1] - GRACE
    deadline.on_pong(141.0)
    deadline.on_pong(142.0)
    deadline.on_ping(200.0, PING, progress(110 * KIB))
    assert at(deadline, 210.0, 110 * KIB + PING, 110 * KIB + PING) == 0
    assert repr(deadline).startswith("<PongDeadline 1 unanswered")
