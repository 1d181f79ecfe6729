"""When a worker is started again, and how it shows that it lives."""

import multiprocessing
import os

import pytest

from gateway.clock import FakeClock
from gateway.runtime import supervisor
from gateway.runtime.supervisor import (
    FIRST_DELAY,
    LONGEST_DELAY,
    SILENT,
    STARTING,
    Pulse,
    Worker,
    restart_delay,
)


class Beat:
    """What worker and parent share."""

    def __init__(self, value: float = 0.0) -> None:
        self.value = value


def test_delays_double_up_to_half_a_minute() -> None:
    assert [restart_delay(deaths, 1.0) for deaths in (1, 2, 3)] == [
        FIRST_DELAY,
        2 * FIRST_DELAY,
        4 * FIRST_DELAY,
    ]
    assert restart_delay(50, 1.0) == LONGEST_DELAY
    assert restart_delay(3, 0.0) == 0.0


@pytest.mark.parametrize(
    ("beat", "restart_at", "now", "serves", "is_silent"),
    [
        (0.0, None, 100.0 + SILENT + 1, False, False),
        (0.0, None, 100.0 + STARTING + 1, False, True),
        (110.0, None, 110.0 + SILENT, True, False),
        (110.0, None, 110.0 + SILENT + 1, True, True),
        (110.0, 130.0, 1_000.0, False, False),
    ],
)
def test_a_worker_may_start_for_longer_than_it_may_be_silent(
    beat: float, restart_at: float | None, now: float, serves: bool, is_silent: bool
) -> None:
    worker = Worker(
        1,
        multiprocessing.Process(),
        Beat(beat),  # type: ignore[arg-type] # all that is used of it
        started=100.0,
        restart_at=restart_at,
    )
    assert (worker.serves, worker.is_silent(now)) == (serves, is_silent)


def test_a_pulse_beats_until_nobody_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, gone = FakeClock(), list[bool]()

    beat = Beat()
    pulse = Pulse(beat, clock, lambda: gone.append(True))  # type: ignore[arg-type] # all that is used of it
    pulse.start()
    first = beat.value
    assert first > 0
    clock.advance(supervisor.BEAT * 3)
    assert beat.value >= first
    assert gone == []
    monkeypatch.setattr(os, "getppid", lambda: 1)
    clock.advance(supervisor.BEAT)
    assert gone == [True]
    clock.advance(supervisor.BEAT * 3)
    assert gone == [True]
