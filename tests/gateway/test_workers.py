"""When a worker is started again, and how it shows that it lives."""

import multiprocessing
import os

import pytest

from gateway import workers
from gateway.clock import FakeClock
from gateway.workers import FIRST_DELAY, LONGEST_DELAY, SILENT, STARTING, Pulse, Worker, restart_delay


def test_delays_double_up_to_half_a_minute() -> None:
    assert [restart_delay(deaths, 1.0) for deaths in (1, 2, 3)] == [
        FIRST_DELAY,
        2 * FIRST_DELAY,
        4 * FIRST_DELAY,
    ]
    assert restart_delay(50, 1.0) == LONGEST_DELAY
    assert restart_delay(3, 0.0) == 0.0


def test_a_worker_may_start_for_longer_than_it_may_be_silent() -> None:
    context = multiprocessing.get_context("spawn")
    worker = Worker(1, context.Process(), context.Value("d", 0.0), started=100.0)
    assert not worker.serves
    assert not worker.is_silent(100.0 + SILENT + 1)
    assert worker.is_silent(100.0 + STARTING + 1)
    worker.beat.value = 110.0
    assert worker.serves
    assert not worker.is_silent(110.0 + SILENT)
    assert worker.is_silent(110.0 + SILENT + 1)
    worker.restart_at = 130.0
    assert not worker.serves
    assert not worker.is_silent(1_000.0)


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
