"""Several workers on one machine: each a process and a node of its own, on shared ports, kept running.

The parent serves nothing. It keeps the ports, starts the workers, replaces one that died (with backoff) or
whose event loop is silent, and passes on what tells it to stop.
"""

from __future__ import annotations

import multiprocessing
import os
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
from multiprocessing.sharedctypes import Synchronized

from gateway.clock import Scheduler
from gateway.observe.worker_metrics import WorkerMetrics

SILENT = 10.0
"""Seconds without a sign from a worker's event loop after which it is killed and replaced."""

STARTING = 30.0
"""Seconds that a worker may take until its first sign: it has to import everything, beside all the others."""

BEAT = 1.0
"""Seconds between two signs."""

FIRST_DELAY, LONGEST_DELAY = 0.5, 30.0
"""Seconds until a worker that died is started again: at most, doubling each time."""

STEADY = 60.0
"""Seconds that a worker must have lived for its next death to count as its first."""

LOOK, LOOK_AT_START = 0.5, 0.05
"""Seconds between two looks at the workers: always, and until all of them serve."""

Target = Callable[[int, "WorkerMetrics | None", "Synchronized[float]"], None]
"""What a worker runs in a process of its own, with its number, its mates, and the beat to keep (`Pulse`)."""


def restart_delay(deaths: int, chance: float) -> float:
    """Return the seconds to wait after so many deaths in a row; *chance*, 0 to 1, spreads them."""
    return chance * min(LONGEST_DELAY, FIRST_DELAY * 2.0 ** (deaths - 1))


@dataclass(slots=True)
class Worker:
    """One worker, as its parent sees it."""

    number: int
    process: BaseProcess
    beat: Synchronized[float]
    started: float
    deaths: int = 0
    restart_at: float | None = None
    """When it is to be started again, while it is dead."""

    @property
    def serves(self) -> bool:
        """Whether it has given its first sign, which says that it listens."""
        return self.restart_at is None and self.beat.value > 0

    def is_silent(self, now: float) -> bool:
        """Return whether its event loop has been silent for too long, or has not begun in time."""
        if self.restart_at is not None:
            return False
        return now - self.beat.value > SILENT if self.serves else now - self.started > STARTING


@dataclass(slots=True)
class Supervisor:
    """Keeps *count* workers running until it is told to stop."""

    target: Target
    count: int
    grace: float
    """Seconds that the workers have to end when told to, before they are killed."""
    report: Callable[..., None]
    """Takes an event's name and its fields."""
    ready: Callable[[], None]
    """Hears, once, that every worker serves."""
    clock: Callable[[], float] = time.monotonic
    workers: list[Worker] = field(default_factory=list)
    _stopping: bool = False
    _ready: bool = False
    _home: str | None = None
    """Where the workers tell each other their figures."""

    def run(self) -> int:
        """Run until one of `stop_signals`; return the exit status: 1 where a worker had to be killed then."""
        with self._signals() as woken, self._directory() as self._home:
            self.workers = [self._start(number) for number in range(1, self.count + 1)]
            while not self._stopping:
                alive = [worker.process.sentinel for worker in self.workers if worker.restart_at is None]
                wait([woken, *alive], LOOK if self._ready else LOOK_AT_START)
                self.look()
            return self._stop()

    def look(self) -> None:
        """Replace who died or is silent."""
        now = self.clock()
        for place, worker in enumerate(self.workers):
            if worker.restart_at is not None:
                if now >= worker.restart_at and not self._stopping:
                    self.workers[place] = self._start(worker.number, deaths=worker.deaths)
            elif worker.is_silent(now):
                self.report("worker is silent", worker=worker.number, pid=worker.process.pid)
                worker.process.kill()
                worker.process.join()
                self._bury(worker, now)
            elif worker.process.exitcode is not None:
                self._bury(worker, now)
        if not self._ready and all(worker.serves for worker in self.workers):
            self._ready = True
            self.ready()

    def _start(self, number: int, *, deaths: int = 0) -> Worker:
        context = multiprocessing.get_context("spawn")
        beat = context.Value("d", 0.0)
        mates = None if self._home is None else WorkerMetrics(self._home, number, self.count)
        process = context.Process(target=self.target, args=(number, mates, beat), name=f"worker-{number}")
        process.start()
        self.report("worker started", worker=number, pid=process.pid)
        return Worker(number, process, beat, self.clock(), deaths)

    def _bury(self, worker: Worker, now: float) -> None:
        if now - worker.started >= STEADY:
            worker.deaths = 0
        worker.deaths += 1
        delay = restart_delay(worker.deaths, random.random())
        worker.restart_at = now + delay
        self.report(
            "worker died", worker=worker.number, status=worker.process.exitcode, restart_in=round(delay, 2)
        )
        worker.process.close()

    def _stop(self) -> int:
        """Tell every worker to end; kill those that are silent, or not done in time."""
        leaving = [worker for worker in self.workers if worker.restart_at is None]
        for worker in leaving:
            worker.process.terminate()
        deadline, status = self.clock() + self.grace, 0
        while running := [worker for worker in leaving if worker.process.exitcode is None]:
            wait([worker.process.sentinel for worker in running], LOOK)
            now = self.clock()
            for worker in running:
                if worker.process.exitcode is None and (now >= deadline or worker.is_silent(now)):
                    status = 1
                    self.report("worker did not end", pid=worker.process.pid)
                    worker.process.kill()
                    worker.process.join()
        for worker in leaving:
            worker.process.close()
        return status

    @contextmanager
    def _directory(self) -> Iterator[str | None]:
        """Yield a directory of the workers alone; None where there can be none."""
        try:
            made = tempfile.TemporaryDirectory(prefix="fanway-", ignore_cleanup_errors=True)
        except OSError as error:
            self.report("each worker shows its own metrics alone", reason=str(error))
            yield None
            return
        with made as home:
            yield home

    @contextmanager
    def _signals(self) -> Iterator[socket.socket]:
        """Yield a socket that becomes readable when a signal arrives that says stop."""

        def stop(_: int, __: object) -> None:
            self._stopping = True

        reader, writer = socket.socketpair()
        writer.settimeout(0)
        wakeup = signal.set_wakeup_fd(writer.fileno())
        before = {number: signal.signal(number, stop) for number in stop_signals()}
        try:
            yield reader
        finally:
            signal.set_wakeup_fd(wakeup)
            for number, handler in before.items():
                signal.signal(number, handler)
            reader.close()
            writer.close()


def stop_signals() -> list[signal.Signals]:
    """Return what tells a gateway to drain and end: also that its terminal has gone, but under `nohup`."""
    hung_up = signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN
    return [signal.SIGTERM, signal.SIGINT, *([signal.SIGHUP] if hung_up else [])]


class Pulse:
    """A worker's side: gives signs from its event loop, and notices when nobody looks for them any more."""

    def __init__(
        self, beat: Synchronized[float], scheduler: Scheduler, orphaned: Callable[[], object]
    ) -> None:
        """Write the time to *beat* every `BEAT` seconds; call *orphaned* once the parent is gone."""
        self._beat = beat
        self._scheduler = scheduler
        self._orphaned = orphaned
        self._parent = os.getppid()

    def start(self) -> None:
        """Give the first sign, and from now on others: it serves."""
        self._beat.value = time.monotonic()  # one clock for every process of the machine (clock_gettime(2))
        if os.getppid() == self._parent:
            self._scheduler.call_later(BEAT, self.start)
        else:
            self._orphaned()
