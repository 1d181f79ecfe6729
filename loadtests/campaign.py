"""One run under locust: its options, its account, and its end, when nobody speaks and everything arrives."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import gevent
import orjson
from gevent.pool import Pool
from locust import LoadTestShape, events
from locust.env import Environment
from locust.runners import MasterRunner, Runner, WorkerRunner

from loadtests import options, payload, slo
from loadtests.account import Account, summed
from loadtests.options import Options, Profile
from loadtests.report import Report
from loadtests.shapes import target

SILENCE = 2.0
"""Seconds without an arrival after which what is still outstanding does not come any more."""

SETTLE = 60.0
"""Seconds that a run's end may take."""

LAG_INTERVAL = 0.05
"""Seconds between two looks at how late this process itself is."""

STATEMENT, SETTLE_NOW = "fanway-statement", "fanway-settle"


class Participant(Protocol):
    """A user who is still there when a run ends."""

    @property
    def is_here(self) -> bool:
        """Whether it is connected."""

    @property
    def whereabouts(self) -> tuple[str, Iterable[str]]:
        """Its connection, and the channels that it follows there."""

    def come_back(self) -> None:
        """Reconnect if it is not."""

    def audit(self) -> None:
        """Check what can be checked once nothing moves any more."""

    def give_up(self) -> None:
        """Count as one who never came back."""


def on(hook: Any, listener: Callable[..., None]) -> None:
    """Have *listener* called at one of locust's events."""
    hook.add_listener(listener)


class Campaign:
    """What the users of one locustfile share; driven by locust's events, however locust was started."""

    def __init__(self, scenario: str, profile: Profile) -> None:
        """Begin; *profile* gives the defaults of the options that locust is to take."""
        self.scenario = scenario
        self.participants: dict[Participant, None] = {}
        self.departed: set[str] = set()
        """Connections of ours that have ended."""
        self.hushed = False
        """Whether the run ends: nobody publishes or moves any more."""
        self._busy = self._made = 0
        self._concluding = self._told = False
        self._statements: list[Mapping[str, Any]] = []
        self._began = 0.0
        self._lag: Any = None
        on(events.init_command_line_parser, lambda parser, **_: options.add(parser, profile))
        on(events.init, self._init)
        on(events.test_start, lambda **_: self._start())
        on(events.test_stopping, lambda **_: self._conclude())
        on(events.test_stop, lambda **_: self._tell())
        on(events.quitting, lambda **_: self._quit())
        on(events.user_error, self._failed)

    # ------------------------------------------------------------ what users call

    def enroll(self, kind: str) -> tuple[int, str]:
        """Return the number of a new user in this process, and a name that no other process gives."""
        self._made += 1
        return self._made, f"{payload.MACHINE}-{os.getpid()}.{kind}{self._made}"

    def present(self, channel: str) -> set[str]:
        """Return the connections of this process that follow *channel*."""
        places = (participant.whereabouts for participant in self.participants if participant.is_here)
        return {connection for connection, channels in places if channel in channels}

    @contextmanager
    def acting(self) -> Iterator[None]:
        """While it lasts, the run does not end."""
        self._busy += 1
        try:
            yield
        finally:
            self._busy -= 1

    @contextmanager
    def timed(self, kind: str) -> Iterator[None]:
        """Time what is done within, here and in locust's own statistics; failures are told to locust only."""
        began = time.perf_counter_ns()
        failure: Exception | None = None
        try:
            yield
        except Exception as error:
            failure = error
            raise
        finally:
            elapsed = (time.perf_counter_ns() - began) // 1000
            if failure is None:
                self.account.timings[kind].record(elapsed)
            fire: Any = self.environment.events.request.fire
            fire(
                request_type="WS",
                name=kind,
                response_time=elapsed / 1000,
                response_length=0,
                exception=failure,
                context={},
            )

    def crashed(self, who: object, error: BaseException) -> None:
        """Note an error that nobody expected."""
        self.account.fault("crashes", f"{who}: {error!r}")

    # ------------------------------------------------------------ what locust calls

    def _init(self, *, environment: Environment, runner: Runner, **_: object) -> None:
        self.environment = environment
        # Locust's time limit counts from when its loop last looked at the clock: before all imports, else.
        gevent.get_hub().loop.update_now()
        if getattr(environment.parsed_options, "headless", False) and not isinstance(runner, WorkerRunner):
            # Locust's own handler comes only after a shape has ended.
            gevent.signal_handler(signal.SIGTERM, self._stop, runner.quit)
        if isinstance(runner, MasterRunner):
            runner.register_message(STATEMENT, self._collect)
        elif isinstance(runner, WorkerRunner):
            runner.register_message(SETTLE_NOW, lambda **_: self._report_to_master(runner), concurrent=True)

    def _failed(self, *, user_instance: object, exception: BaseException, **_: object) -> None:
        # Where a task failed, it is the task set.
        user = getattr(user_instance, "user", user_instance)
        self.crashed(getattr(user, "name", user), exception)

    def _start(self) -> None:
        assert self.environment.parsed_options is not None  # noqa: S101 (locust's command line always has some)
        self.options = Options.of(self.environment.parsed_options, self.environment.host)
        self.account = Account(late_bound=self.options.late)
        self.participants.clear()
        self.departed.clear()
        self._statements = []
        self._busy, self._concluding, self._told, self.hushed = 0, False, False, False
        self._began = time.monotonic()
        self._lag = gevent.spawn(self._watch_lag)

    def _conclude(self) -> None:
        """Let everything arrive, and collect what all processes counted."""
        if self._concluding:
            return  # locust says so again where a run is ended early
        self._concluding = True
        runner = self.environment.runner
        if isinstance(runner, MasterRunner):
            runner.send_message(SETTLE_NOW)
            _wait(lambda: len(self._statements) >= runner.worker_count, SETTLE + 10)
            if missing := runner.worker_count - len(self._statements):
                self.account.fault("crashes", f"{missing} workers did not say what they counted")
            self._statements.append(self.account.statement())
        elif not isinstance(runner, WorkerRunner):
            self._settle(alone=True)
            self._statements.append(self.account.statement())

    def _collect(self, *, msg: Any, **_: object) -> None:
        self._statements.append(msg.data)

    def _report_to_master(self, runner: WorkerRunner) -> None:
        self._settle(alone=False)
        runner.send_message(STATEMENT, self.account.statement())

    def _settle(self, *, alone: bool) -> None:
        """Wait for what is on its way, then let everybody check what they see.

        Only a process that is *alone* knows what was published; others can but wait for silence.
        """
        self.hushed = True
        _wait(lambda: not self._busy, SETTLE / 4)
        _everybody(participant.come_back for participant in self.participants)
        heard, since = -1, time.monotonic()

        def settled() -> bool:
            nonlocal heard, since
            if alone and not self.account.ledger.outstanding():
                return True
            if heard != (heard := self.account.ledger.arrivals):
                since = time.monotonic()
            return time.monotonic() - since > SILENCE

        _wait(settled, SETTLE / 2)
        for participant in list(self.participants):
            if not participant.is_here:
                participant.give_up()
        _everybody(participant.audit for participant in self.participants)

    def _tell(self) -> None:
        """Print the report, write it down, and let it be the exit code."""
        gevent.kill(self._lag)
        if isinstance(self.environment.runner, WorkerRunner) or self._told:
            return
        self._told = True
        seconds = time.monotonic() - self._began
        sums = summed(self._statements)
        outcomes = slo.outcomes(slo.parse(self.options.slo), sums.figures(), sums.timings)
        report = Report(self.scenario, self._setting(), seconds, sums, outcomes)
        target_file = Path(self.options.artifacts) / f"{self.scenario}.json"
        target_file.parent.mkdir(parents=True, exist_ok=True)
        target_file.write_bytes(orjson.dumps(report.as_json(), option=orjson.OPT_INDENT_2))
        print(f"\n{report.as_text()}\n\nthe report as JSON: {target_file}", flush=True)
        self.environment.process_exit_code = 1 if report.failures() else 0

    def _setting(self) -> dict[str, Any]:
        parsed = vars(self.environment.parsed_options)
        workers = getattr(self.environment.runner, "worker_count", 1)
        told = ("rate", "channels", "size", "codec", "shape", "seed", "run")
        return {
            "users": parsed["num_users"],
            "processes": workers,
            **{name: getattr(self.options, name) for name in told},
        }

    def _quit(self) -> None:
        """End a run that is still going on before locust asks for the exit code."""
        runner = self.environment.runner
        if runner is None or isinstance(runner, WorkerRunner):
            return
        if self._concluding:
            _wait(lambda: self._told, SETTLE)
        else:
            self._stop(runner.stop)

    def _stop(self, how: Callable[[], None]) -> None:
        """End a run, if one is going on and does not end already."""
        runner = self.environment.runner
        if runner is not None and runner.state in {"spawning", "running"} and not self._concluding:
            how()

    def _watch_lag(self) -> None:
        """Time how late this process wakes up: what its own slowness adds to every other figure."""
        while True:
            began = time.perf_counter_ns()
            gevent.sleep(LAG_INTERVAL)
            late = (time.perf_counter_ns() - began) // 1000 - int(LAG_INTERVAL * 1e6)
            self.account.timings["generator lag"].record(late)


class Shape(LoadTestShape):
    """The plan that `--shape` names, of as many users as `-u` says, for as long as `-t` says."""

    abstract = True
    use_common_options = True

    def tick(self) -> tuple[int, float] | None:
        """Return how many users there should be now, and how many may come in a second; None at the end."""
        assert self.runner is not None  # noqa: S101 (locust sets it before it asks)
        parsed, passed = vars(self.runner.environment.parsed_options), time.perf_counter() - self.start_time
        users = target(
            parsed["shape"], users=parsed["num_users"] or 1, duration=parsed["run_time"], elapsed=passed
        )
        return None if users is None else (users + self.beside(parsed), parsed["spawn_rate"] or 1)

    def beside(self, parsed: Mapping[str, Any]) -> int:
        """Return how many users there are beside those that `-u` counts."""
        return 0


def _wait(met: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not met() and time.monotonic() < deadline:
        gevent.sleep(0.02)


def _everybody(actions: Iterator[Callable[[], None]]) -> None:
    pool = Pool(100)
    for action in list(actions):
        pool.spawn(action)
    pool.join(timeout=SETTLE / 4)
