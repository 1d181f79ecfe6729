"""One run of a scenario under locust: its options, its metrics, and the checks at its end."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import gevent
import orjson
from gevent.pool import Pool
from locust import events
from locust.env import Environment
from locust.runners import MasterRunner, Runner, WorkerRunner

from loadtests import options, payload, slo
from loadtests.metrics import ProcessMetrics, merge_snapshots
from loadtests.options import Options, Profile
from loadtests.report import Report

QUIET_SECONDS = 2.0
"""Without a delivery for this long, what is still outstanding is taken as lost."""

SETTLE_SECONDS = 60.0
"""How long the end of a run may take."""

LAG_SAMPLE_SECONDS = 0.05
"""Interval of the measurements of how late this process itself is."""

SNAPSHOT_MESSAGE, SETTLE_MESSAGE = "fanway-snapshot", "fanway-settle"
"""Types of messages between locust's master and workers."""


class Participant(Protocol):
    """A user who takes part in a run until its end."""

    @property
    def is_connected(self) -> bool:
        """Whether it has an open connection."""

    @property
    def is_restored(self) -> bool:
        """Whether it has an open connection, subscribed to all of its channels."""

    @property
    def presence(self) -> Mapping[str, str]:
        """The connection id under which members list it, by channel that it is subscribed to."""

    def reconnect(self) -> None:
        """Reconnect if it is not connected."""

    def verify(self) -> None:
        """Check what can be checked once no message is published or outstanding."""

    def record_disconnected(self) -> None:
        """Record that it is not connected, or not subscribed, at the end of the run."""


def add_listener(hook: Any, listener: Callable[..., None]) -> None:
    """Call *listener* at each of locust's events *hook*."""
    hook.add_listener(listener)


class ScenarioRun:
    """What the users of one locustfile share; driven by locust's events, however locust was started."""

    def __init__(self, scenario: str, profile: Profile) -> None:
        """Register with locust; *profile* gives the defaults of the options that locust accepts."""
        self.scenario = scenario
        self.participants: dict[Participant, None] = {}
        self.ended_connections: set[str] = set()
        """Ids of connections of this process that have ended."""
        self.ending = False
        """Whether the run ends: users no longer publish, subscribe or disconnect."""
        self._actions_under_way = self._user_count = 0
        self._settling = self._reported = False
        self._snapshots: list[Mapping[str, Any]] = []
        self._started = 0.0
        self._lag_sampler: Any = None
        add_listener(
            events.init_command_line_parser, lambda parser, **_: options.add_arguments(parser, profile)
        )
        add_listener(events.init, self._on_init)
        add_listener(events.test_start, lambda **_: self._on_start())
        add_listener(events.test_stopping, lambda **_: self._on_stopping())
        add_listener(events.test_stop, lambda **_: self._on_stop())
        add_listener(events.quitting, lambda **_: self._on_quitting())
        add_listener(events.user_error, self._on_user_error)

    # ------------------------------------------------------------ called by users

    def register_user(self, kind: str) -> tuple[int, str]:
        """Return the number of a new user in this process, and a name that no other process assigns."""
        self._user_count += 1
        return self._user_count, f"{payload.MACHINE_ID}-{os.getpid()}.{kind}{self._user_count}"

    def connections_in(self, channel: str) -> set[str]:
        """Return the ids under which *channel* lists this process's connections that are subscribed to it."""
        present = (participant.presence for participant in self.participants if participant.is_connected)
        return {listed[channel] for listed in present if channel in listed}

    @contextmanager
    def action(self) -> Iterator[None]:
        """Keep the run from ending until the block is left."""
        self._actions_under_way += 1
        try:
            yield
        finally:
            self._actions_under_way -= 1

    @contextmanager
    def timed(self, kind: str) -> Iterator[None]:
        """Time the block, here and in locust's own statistics; failures are reported to locust only."""
        started_ns = time.perf_counter_ns()
        failure: Exception | None = None
        try:
            yield
        except Exception as error:
            failure = error
            raise
        finally:
            elapsed_us = (time.perf_counter_ns() - started_ns) // 1000
            if failure is None:
                self.metrics.timings[kind].record(elapsed_us)
            fire: Any = self.environment.events.request.fire
            fire(
                request_type="WS",
                name=kind,
                response_time=elapsed_us / 1000,
                response_length=0,
                exception=failure,
                context={},
            )

    def record_crash(self, user: object, error: BaseException) -> None:
        """Record an unexpected exception."""
        self.metrics.record_problem("crashes", f"{user}: {error!r}")

    # ------------------------------------------------------------ called by locust

    def _on_init(self, *, environment: Environment, runner: Runner, **_: object) -> None:
        self.environment = environment
        # Locust's time limit counts from the last update of its loop's clock, which was before all imports.
        gevent.get_hub().loop.update_now()
        if getattr(environment.parsed_options, "headless", False) and not isinstance(runner, WorkerRunner):
            # Locust installs its own handler only after a shape has ended.
            gevent.signal_handler(signal.SIGTERM, self._end_run, runner.quit)
        if isinstance(runner, MasterRunner):
            runner.register_message(SNAPSHOT_MESSAGE, self._on_snapshot)
        elif isinstance(runner, WorkerRunner):
            runner.register_message(
                SETTLE_MESSAGE, lambda **_: self._settle_and_report(runner), concurrent=True
            )

    def _on_user_error(self, *, user_instance: object, exception: BaseException, **_: object) -> None:
        # If a task failed, the instance is the task set.
        user = getattr(user_instance, "user", user_instance)
        self.record_crash(getattr(user, "name", user), exception)

    def _on_start(self) -> None:
        assert self.environment.parsed_options is not None  # noqa: S101 (set wherever locust has a command line)
        self.options = Options.from_arguments(self.environment.parsed_options, self.environment.host)
        self.metrics = ProcessMetrics(late_after_us=self.options.late)
        self.participants.clear()
        self.ended_connections.clear()
        self._snapshots = []
        self._actions_under_way, self._settling, self._reported, self.ending = 0, False, False, False
        self._started = time.monotonic()
        self._lag_sampler = gevent.spawn(self._sample_lag)

    def _on_stopping(self) -> None:
        """Wait for outstanding deliveries, and collect what all processes counted."""
        if self._settling:
            return  # locust calls twice if a run is ended early
        self._settling = True
        runner = self.environment.runner
        if isinstance(runner, MasterRunner):
            runner.send_message(SETTLE_MESSAGE)
            _wait_until(lambda: len(self._snapshots) >= runner.worker_count, SETTLE_SECONDS + 10)
            if missing := runner.worker_count - len(self._snapshots):
                self.metrics.record_problem("crashes", f"{missing} workers did not send their metrics")
            self._snapshots.append(self.metrics.snapshot())
        elif not isinstance(runner, WorkerRunner):
            self._settle(single_process=True)
            self._snapshots.append(self.metrics.snapshot())

    def _on_snapshot(self, *, msg: Any, **_: object) -> None:
        self._snapshots.append(msg.data)

    def _settle_and_report(self, runner: WorkerRunner) -> None:
        self._settle(single_process=False)
        runner.send_message(SNAPSHOT_MESSAGE, self.metrics.snapshot())

    def _settle(self, *, single_process: bool) -> None:
        """Reconnect all users, wait for outstanding deliveries, then let all users verify what they see.

        Only a *single_process* knows all that was published; one of several waits until nothing arrives.
        """
        self.ending = True
        _wait_until(lambda: not self._actions_under_way, SETTLE_SECONDS / 4)
        _call_all(participant.reconnect for participant in self.participants)
        last_count, last_change = -1, time.monotonic()

        def settled() -> bool:
            nonlocal last_count, last_change
            if single_process and not self.metrics.deliveries.outstanding():
                return True
            if last_count != (last_count := self.metrics.deliveries.delivery_count):
                last_change = time.monotonic()
            return time.monotonic() - last_change > QUIET_SECONDS

        _wait_until(settled, SETTLE_SECONDS / 2)
        for participant in list(self.participants):
            if not participant.is_restored:
                participant.record_disconnected()
        _call_all(participant.verify for participant in self.participants)

    def _on_stop(self) -> None:
        """Print the report, write it to a file, and set the exit code."""
        gevent.kill(self._lag_sampler)
        if isinstance(self.environment.runner, WorkerRunner) or self._reported:
            return
        self._reported = True
        seconds = time.monotonic() - self._started
        metrics = merge_snapshots(self._snapshots)
        objectives = slo.evaluate(slo.parse(self.options.slo), metrics.figures(), metrics.timings)
        report = Report(self.scenario, self._settings(), seconds, metrics, objectives)
        target_file = Path(self.options.artifacts) / f"{self.scenario}.json"
        target_file.parent.mkdir(parents=True, exist_ok=True)
        target_file.write_bytes(orjson.dumps(report.as_json(), option=orjson.OPT_INDENT_2))
        print(f"\n{report.as_text()}\n\nJSON report: {target_file}", flush=True)
        self.environment.process_exit_code = 1 if report.failures() else 0

    def _settings(self) -> dict[str, Any]:
        parsed = vars(self.environment.parsed_options)
        workers = getattr(self.environment.runner, "worker_count", 1)
        reported = ("rate", "channels", "size", "codec", "shape", "seed", "run")
        return {
            "users": parsed["num_users"],
            "processes": workers,
            **{name: getattr(self.options, name) for name in reported},
        }

    def _on_quitting(self) -> None:
        """End a run that is under way before locust reads the exit code."""
        runner = self.environment.runner
        if runner is None or isinstance(runner, WorkerRunner):
            return
        if self._settling:
            _wait_until(lambda: self._reported, SETTLE_SECONDS)
        else:
            self._end_run(runner.stop)

    def _end_run(self, stop: Callable[[], None]) -> None:
        """Call *stop* if a run is under way and is not ending already."""
        runner = self.environment.runner
        if runner is not None and runner.state in {"spawning", "running"} and not self._settling:
            stop()

    def _sample_lag(self) -> None:
        """Time how late this process wakes up: its own delay is part of every other figure."""
        while True:
            started_ns = time.perf_counter_ns()
            gevent.sleep(LAG_SAMPLE_SECONDS)
            late_us = (time.perf_counter_ns() - started_ns) // 1000 - int(LAG_SAMPLE_SECONDS * 1e6)
            self.metrics.timings["generator lag"].record(late_us)


def _wait_until(condition: Callable[[], bool], seconds: float) -> None:
    """Return when *condition* is true, or after *seconds*."""
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        gevent.sleep(0.02)


def _call_all(actions: Iterator[Callable[[], None]]) -> None:
    pool = Pool(100)
    for action in list(actions):
        pool.spawn(action)
    pool.join(timeout=SETTLE_SECONDS / 4)
