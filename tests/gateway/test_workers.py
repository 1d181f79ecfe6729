"""When a worker is started again, and how it shows that it lives."""

import os

import pytest

from gateway import workers
from gateway.clock import FakeClock
from gateway.workers import FIRST_DELAY, LONGEST_DELAY, Pulse, restart_delay


def test_delays_double_up_to_half_a_minute() -> None:
    assert [restart_delay(deaths, 1.0) for deaths in (1, 2, 3)] == [
        FIRST_DELAY,
        2 * FIRST_DELAY,
        4 * FIRST_DELAY,
    ]
    assert restart_delay(50, 1.0) == LONGEST_DELAY
    assert restart_delay(3, 0.0) == 0.0


def test_a_pulse_beats_until_nobody_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, gone = FakeClock(), list[bool]()

    class Beat:
        value = 0.0

    beat = Beat()
    pulse = Pulse(beat, clock, lambda: gone.append(True))  # type: ignore[arg-type] # all that is used of it
    pulse.start()
    first = beat.value
    assert first > 0
    clock.advance(workers.BEAT * 3)
    assert beat.value >= first
    assert gone == []
    monkeypatch.setattr(os, "getppid", lambda: 1)
    clock.advance(workers.BEAT)
    assert gone == [True]
    clock.advance(workers.BEAT * 3)
    assert gone == [True]
