"""Several workers on one machine: each a process and a node of its own, on shared ports, kept running.

The parent process serves no clients. It reserves the ports, starts the workers, restarts one that died (with
backoff) or whose event loop stopped writing heartbeats, and forwards the signals that stop the gateway.
"""

from __future__ import annotations

import math
import multiprocessing
import random
import signal
import socket
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess

from gateway.observe.worker_metrics import WorkerMetricsExchange
from gateway.runtime.stop_signals import stop_signals
from gateway.runtime.worker_heartbeat import WorkerStatus

HEARTBEAT_TIMEOUT_SECONDS = 10.0
"""Age of a worker's last heartbeat above which it is killed and restarted."""

PAUSE_SECONDS = 5.0
"""Time between two checks of the workers beyond which the supervisor did not run, as on a paused machine."""

START_TIMEOUT_SECONDS = 30.0
"""Time until a worker's first heartbeat: it has to import everything, at the same time as all others."""

FIRST_RESTART_DELAY_SECONDS = 0.5
MAX_RESTART_DELAY_SECONDS = 30.0
"""Upper bounds of the delay before a restart, after the first death and after many; each death doubles it."""

STABLE_AFTER_SECONDS = 60.0
"""A worker that has lived for so long starts again with the first restart delay when it dies."""

CHECK_INTERVAL_SECONDS = 0.5
START_CHECK_INTERVAL_SECONDS = 0.05
"""Between two checks of the workers: when all of them serve, and until then."""

WorkerMain = Callable[[int, "WorkerMetricsExchange | None", WorkerStatus], None]
"""Runs in each worker process: its number, the metrics of the other workers, and its status to write."""


def restart_delay(deaths: int, jitter: float) -> float:
    """Return the seconds to wait after *deaths* in a row; *jitter*, from 0 to 1, is the jitter."""
    return jitter * min(MAX_RESTART_DELAY_SECONDS, FIRST_RESTART_DELAY_SECONDS * 2.0 ** (deaths - 1))


@dataclass(slots=True)
class Worker:
    """One worker process, as its supervisor sees it."""

    number: int
    process: BaseProcess
    status: WorkerStatus
    started_at: float
    deaths: int = 0
    """Deaths in a row, each less than `STABLE_AFTER_SECONDS` after its start."""
    restart_at: float | None = None
    """When it is started again; None while the process runs."""

    @property
    def is_serving(self) -> bool:
        """Whether the process runs and has written its first heartbeat, which it does once it listens."""
        return self.restart_at is None and self.status.last_heartbeat > 0

    @property
    def is_ready(self) -> bool:
        """Whether the process serves, and its broker takes publishes."""
        return self.is_serving and self.status.is_ready

    def is_unresponsive(self, now: float) -> bool:
        """Return whether its last heartbeat is too old, or the first one did not come in time."""
        if self.restart_at is not None:
            return False
        if self.is_serving:
            return now - self.status.last_heartbeat > HEARTBEAT_TIMEOUT_SECONDS
        return now - self.started_at > START_TIMEOUT_SECONDS


@dataclass(slots=True)
class Supervisor:
    """Keeps *count* workers running until a signal stops it."""

    worker_main: WorkerMain
    count: int
    stop_timeout: float
    """Seconds that workers have to end after the signal, before they are killed."""
    log_event: Callable[..., None]
    """Takes an event's name and its fields."""
    on_all_serving: Callable[[bool], None]
    """Called once, when every worker serves, with whether every worker is ready, too."""
    on_all_ready: Callable[[], None]
    """Called once, when every worker is ready, if that was not so when all served."""
    clock: Callable[[], float] = time.monotonic
    workers: list[Worker] = field(default_factory=list)
    _checked_at: float = math.inf
    _trust_until: float = 0.0
    """Until when no worker is considered unresponsive."""
    _stopping: bool = False
    _all_served: bool = False
    _all_ready: bool = False
    _metrics_directory: str | None = None
    """Where the workers have their sockets for metrics; None where no directory could be created."""

    def run(self) -> int:
        """Run until one of `stop_signals`; return the exit status: 1 where a worker had to be killed then."""
        with self._signals() as signalled, self._temporary_directory() as self._metrics_directory:
            self.workers = [self._start(number) for number in range(1, self.count + 1)]
            while not self._stopping:
                running = [worker.process.sentinel for worker in self.workers if worker.restart_at is None]
                interval = CHECK_INTERVAL_SECONDS if self._all_served else START_CHECK_INTERVAL_SECONDS
                wait([signalled, *running], interval)
                self.check_workers()
            return self._stop()

    def check_workers(self) -> None:
        """Kill workers that are unresponsive, and restart those that died once their delay is over."""
        now = self.clock()
        if now - self._checked_at > PAUSE_SECONDS:
            # Perhaps the workers did not run either: let them write heartbeats first.
            self._trust_until = now + HEARTBEAT_TIMEOUT_SECONDS
        self._checked_at = now
        for index, worker in enumerate(self.workers):
            if worker.restart_at is not None:
                if now >= worker.restart_at and not self._stopping:
                    self.workers[index] = self._start(worker.number, deaths=worker.deaths)
            elif now >= self._trust_until and worker.is_unresponsive(now):
                self.log_event("worker is silent", worker=worker.number, pid=worker.process.pid)
                worker.process.kill()
                worker.process.join()
                self._schedule_restart(worker, now)
            elif worker.process.exitcode is not None:
                self._schedule_restart(worker, now)
        if not self._all_ready:
            self._report_start()

    def _report_start(self) -> None:
        """Call back when all workers serve, and when all are ready."""
        is_ready = all(worker.is_ready for worker in self.workers)
        if not self._all_served:
            if all(worker.is_serving for worker in self.workers):
                self._all_served, self._all_ready = True, is_ready
                self.on_all_serving(is_ready)
        elif is_ready:
            self._all_ready = True
            self.on_all_ready()

    def _start(self, number: int, *, deaths: int = 0) -> Worker:
        context = multiprocessing.get_context("spawn")
        # Without a lock: a worker that is killed while it holds one would block this process for ever, its
        # handler of SIGTERM included.
        status = context.RawValue(WorkerStatus)
        directory = self._metrics_directory
        metrics = None if directory is None else WorkerMetricsExchange(directory, number, self.count)
        process = context.Process(
            target=self.worker_main, args=(number, metrics, status), name=f"worker-{number}"
        )
        process.start()
        self.log_event("worker started", worker=number, pid=process.pid)
        return Worker(number, process, status, self.clock(), deaths)

    def _schedule_restart(self, worker: Worker, now: float) -> None:
        if now - worker.started_at >= STABLE_AFTER_SECONDS:
            worker.deaths = 0
        worker.deaths += 1
        delay = restart_delay(worker.deaths, random.random())
        worker.restart_at = now + delay
        self.log_event(
            "worker died", worker=worker.number, status=worker.process.exitcode, restart_in=round(delay, 2)
        )
        worker.process.close()

    def _stop(self) -> int:
        """Send SIGTERM to every worker; kill those that are unresponsive or do not end in time."""
        stopping = [worker for worker in self.workers if worker.restart_at is None]
        for worker in stopping:
            worker.process.terminate()
        deadline, status = self.clock() + self.stop_timeout, 0
        while running := [worker for worker in stopping if worker.process.exitcode is None]:
            wait([worker.process.sentinel for worker in running], CHECK_INTERVAL_SECONDS)
            now = self.clock()
            for worker in running:
                if worker.process.exitcode is None and (now >= deadline or worker.is_unresponsive(now)):
                    status = 1
                    self.log_event("worker did not end", pid=worker.process.pid)
                    worker.process.kill()
                    worker.process.join()
        for worker in stopping:
            worker.process.close()
        return status

    @contextmanager
    def _temporary_directory(self) -> Iterator[str | None]:
        """Yield a new directory for the workers' sockets; None where it cannot be created."""
        try:
            created = tempfile.TemporaryDirectory(prefix="fanway-", ignore_cleanup_errors=True)
        except OSError as error:
            self.log_event("each worker shows its own metrics alone", reason=str(error))
            yield None
            return
        with created as path:
            yield path

    @contextmanager
    def _signals(self) -> Iterator[socket.socket]:
        """Yield a socket that becomes readable when one of `stop_signals` arrives."""

        def stop(_: int, __: object) -> None:
            self._stopping = True

        reader, writer = socket.socketpair()
        writer.settimeout(0)
        previous_fd = signal.set_wakeup_fd(writer.fileno())
        previous = {number: signal.signal(number, stop) for number in stop_signals()}
        try:
            yield reader
        finally:
            signal.set_wakeup_fd(previous_fd)
            for number, handler in previous.items():
                signal.signal(number, handler)
            reader.close()
            writer.close()
