"""When a worker is restarted, and when it is unresponsive."""

import multiprocessing

import pytest

from gateway.runtime.supervisor import (
    FIRST_RESTART_DELAY_SECONDS,
    HEARTBEAT_TIMEOUT_SECONDS,
    MAX_RESTART_DELAY_SECONDS,
    START_TIMEOUT_SECONDS,
    Worker,
    restart_delay,
)


class SharedValue:
    """The part of a `multiprocessing.Value` that is used."""

    def __init__(self, value: float = 0.0) -> None:
        self.value = value


def test_restart_delays_double_up_to_half_a_minute() -> None:
    assert [restart_delay(deaths, 1.0) for deaths in (1, 2, 3)] == [
        FIRST_RESTART_DELAY_SECONDS,
        2 * FIRST_RESTART_DELAY_SECONDS,
        4 * FIRST_RESTART_DELAY_SECONDS,
    ]
    assert restart_delay(50, 1.0) == MAX_RESTART_DELAY_SECONDS
    assert restart_delay(3, 0.0) == 0.0


@pytest.mark.parametrize(
    ("heartbeat", "restart_at", "now", "is_serving", "is_unresponsive"),
    [
        (0.0, None, 100.0 + HEARTBEAT_TIMEOUT_SECONDS + 1, False, False),
        (0.0, None, 100.0 + START_TIMEOUT_SECONDS + 1, False, True),
        (110.0, None, 110.0 + HEARTBEAT_TIMEOUT_SECONDS, True, False),
        (110.0, None, 110.0 + HEARTBEAT_TIMEOUT_SECONDS + 1, True, True),
        (110.0, 130.0, 1_000.0, False, False),
    ],
)
def test_the_timeout_of_the_first_heartbeat_is_longer_than_that_of_later_ones(
    heartbeat: float, restart_at: float | None, now: float, is_serving: bool, is_unresponsive: bool
) -> None:
    worker = Worker(
        1,
        multiprocessing.Process(),
        SharedValue(heartbeat),  # type: ignore[arg-type] # only its value is used
        started_at=100.0,
        restart_at=restart_at,
    )
    assert (worker.is_serving, worker.is_unresponsive(now)) == (is_serving, is_unresponsive)
