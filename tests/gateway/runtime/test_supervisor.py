"""When a worker is restarted, and when it is unresponsive."""

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from gateway.clock import FakeClock
from gateway.runtime.supervisor import (
    FIRST_RESTART_DELAY_SECONDS,
    HEARTBEAT_TIMEOUT_SECONDS,
    MAX_RESTART_DELAY_SECONDS,
    START_TIMEOUT_SECONDS,
    Supervisor,
    Worker,
    restart_delay,
)
from gateway.runtime.worker_heartbeat import WorkerStatus

ROOT = Path(__file__).parents[3]
STOP_SECONDS = 30.0
"""How long a supervisor may take to notice deaths and to stop; a healthy one takes a second."""


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
        WorkerStatus(heartbeat),
        started_at=100.0,
        restart_at=restart_at,
    )
    assert (worker.is_serving, worker.is_unresponsive(now)) == (is_serving, is_unresponsive)


@pytest.mark.parametrize("ready_at_first", [True, False])
def test_the_start_is_reported_once_all_workers_serve_and_once_all_are_ready(ready_at_first: bool) -> None:
    reports: list[str] = []
    process = SimpleNamespace(exitcode=None, sentinel=0, pid=1)
    statuses = [WorkerStatus(), WorkerStatus()]
    supervisor = Supervisor(
        lambda *_: None,
        2,
        stop_timeout=STOP_SECONDS,
        log_event=lambda *_, **__: None,
        on_all_serving=lambda ready: reports.append(f"serving, ready: {ready}"),
        on_all_ready=lambda: reports.append("ready"),
        clock=lambda: 100.0,
        workers=[Worker(number, process, status, 100.0) for number, status in enumerate(statuses)],  # type: ignore[arg-type]
    )
    statuses[0].last_heartbeat, statuses[0].is_ready = 100.0, True
    supervisor.check_workers()
    assert reports == []
    statuses[1].last_heartbeat, statuses[1].is_ready = 100.0, ready_at_first
    supervisor.check_workers()
    assert reports == [f"serving, ready: {ready_at_first}"]
    statuses[0].is_ready, statuses[1].is_ready = False, True
    supervisor.check_workers()
    assert len(reports) == 1
    statuses[0].is_ready = True
    supervisor.check_workers()
    supervisor.check_workers()
    assert reports[1:] == ([] if ready_at_first else ["ready"])


def killed_while_it_holds_what_is_shared(_: int, __: object, status: Any) -> None:
    """Serve for a moment as a worker; if what is shared has a lock, die with it."""
    status.last_heartbeat = time.monotonic()
    if hasattr(status, "get_lock"):
        status.get_lock().acquire()
    os.kill(os.getpid(), signal.SIGKILL)


def supervise() -> None:
    """Run a supervisor whose workers are all killed; print its events."""

    def print_event(event: str, **_: object) -> None:
        sys.stdout.write(f"{event}\n")
        sys.stdout.flush()

    supervisor = Supervisor(
        killed_while_it_holds_what_is_shared,
        1,
        stop_timeout=STOP_SECONDS,
        log_event=print_event,
        on_all_serving=lambda _: None,
        on_all_ready=lambda: None,
    )
    sys.exit(supervisor.run())


def test_a_worker_that_is_killed_while_it_holds_what_is_shared_does_not_block_the_supervisor() -> None:
    code = f"from {__name__} import supervise; supervise()"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, cwd=ROOT, text=True) as child:
        try:
            assert child.stdout is not None
            watchdog = threading.Timer(STOP_SECONDS, child.kill)
            watchdog.start()
            deaths = 0
            for line in child.stdout:
                deaths += line == "worker died\n"
                if deaths == 2:
                    child.send_signal(signal.SIGTERM)
            assert child.wait(STOP_SECONDS) == 0
        finally:
            watchdog.cancel()
            child.kill()


class RunningProcess(multiprocessing.Process):
    """A process that is never started, and runs until it is killed."""

    code: int | None = None

    @property
    def exitcode(self) -> int | None:
        return self.code

    def kill(self) -> None:
        self.code = -signal.SIGKILL

    def join(self, timeout: float | None = None) -> None:
        assert self.code is not None


def test_workers_are_not_killed_because_the_supervisor_did_not_run_either() -> None:
    clock, events = FakeClock(), list[str]()
    supervisor = Supervisor(
        lambda *_: None,
        1,
        stop_timeout=1.0,
        log_event=lambda event, **_: events.append(event),
        on_all_serving=lambda _: None,
        on_all_ready=lambda: None,
        clock=clock,
    )
    supervisor.workers = [Worker(1, RunningProcess(), WorkerStatus(clock()), started_at=clock())]
    supervisor.check_workers()
    clock.advance(3_600.0)  # the machine was paused, with both processes
    supervisor.check_workers()
    for _ in range(int(HEARTBEAT_TIMEOUT_SECONDS)):
        assert events == []
        clock.advance(1.0)
        supervisor.check_workers()
    assert events == ["worker is silent", "worker died"], "it had the time to write a heartbeat"
