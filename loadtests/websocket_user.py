"""A locust user with a WebSocket connection: connects, records what it receives, reconnects."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping
from random import Random
from typing import Any, ClassVar

import gevent
from gevent import GreenletExit
from gevent.event import Event
from gevent.lock import RLock
from locust import User
from locust.env import Environment

from loadtests import tokens
from loadtests.client_rules import (
    BACKOFF_SECONDS,
    GIVE_UP_CLOSE_CODES,
    MAX_BACKOFF_SECONDS,
    PERMANENT_ERRORS,
)
from loadtests.codecs import CODECS
from loadtests.connection import CommandRejected, Connection, Disconnected, UpgradeRejected
from loadtests.scenario_run import ScenarioRun
from loadtests.user_recorder import UserRecorder


class WebSocketUser(User):
    """A user with one connection at a time; subclasses define what it does there.

    It listens to its connection and passes everything on to its recorder.
    """

    abstract = True
    scenario_run: ClassVar[ScenarioRun]

    def __init__(self, environment: Environment) -> None:
        super().__init__(environment)
        self.options = self.scenario_run.options
        self.metrics = self.scenario_run.metrics
        self.index, self.name = self.scenario_run.register_user(type(self).__name__.lower())
        self.random = Random(f"{self.options.seed} {self.index}")
        self.recorder = UserRecorder(self.name, self.metrics)
        self.connection: Connection | None = None
        self.token = tokens.create_token(self.options.secret, self.name) if self.options.secret else None
        codecs = CODECS[self.options.codec]
        self._codec = codecs[self.index % len(codecs)]
        self._connect_lock = RLock()
        self._closed = Event()
        self._closing = False
        """Whether this user itself ends the connection."""
        self._close_code = 0
        self._reconnect_delay = 0.0

    def on_start(self) -> None:
        """Take part in the run."""
        self.scenario_run.participants[self] = None

    def on_stop(self) -> None:
        """Leave the run with a closing handshake."""
        self.scenario_run.participants.pop(self, None)
        if self.connection is not None:
            self._closing = True
            self.connection.close()
        self.recorder.end_all(require_own=False)

    # ------------------------------------------------------------ called by subclasses

    def perform(self, action: Callable[[], object]) -> None:
        """Reconnect if necessary and call *action*, unless the run ends; count failures."""
        with self.scenario_run.action():
            self.reconnect()
            if self.scenario_run.ending:
                return
            try:
                action()
            except CommandRejected as rejected:
                self.record_rejection(rejected)
            except Disconnected:
                self.metrics.counts["interrupted"] += 1

    def record_rejection(self, rejected: CommandRejected) -> None:
        """Count a rejected command, and wait for its `retry_after_ms`."""
        self.metrics.record_error(rejected.code, f"{self.name}: {rejected}")
        gevent.sleep(rejected.retry_after)

    def request(self, kind: str, **fields: Any) -> Mapping[str, Any]:
        """Send a command, return its reply, and time it; raise `CommandRejected` or `Disconnected`."""
        if self.connection is None:
            raise Disconnected("not connected")
        with self.scenario_run.timed(kind):
            return self.connection.request(kind, **fields)

    def connect(self, *channels: str) -> None:
        """Connect, and subscribe to *channels*."""
        with self._connect_lock:
            self._connect_with_retries("connect", lambda: {channel: {} for channel in channels})

    def drop_connection(self) -> None:
        """Close the socket without a Close frame; `reconnect` resumes."""
        if self.connection is not None:
            self._closing = True
            self.connection.abort()
            self._discard_connection()

    def wait_until_closed(self, seconds: float) -> None:
        """Return when the connection ends, or after *seconds*."""
        self._closed.wait(timeout=seconds)

    # ------------------------------------------------------------ called by the run

    @property
    def is_connected(self) -> bool:
        """Whether the connection is open."""
        return self.connection is not None and not self._closed.is_set()

    @property
    def presence(self) -> tuple[str, Iterable[str]]:
        """The connection id, and the subscribed channels."""
        return self.connection.id if self.connection else "", self.recorder.channels

    def reconnect(self) -> None:
        """Reconnect and resume if the connection ended; stop this user if the close code says so."""
        with self._connect_lock:
            if self.is_connected or self not in self.scenario_run.participants:
                return
            if self._close_code in GIVE_UP_CLOSE_CODES:
                self._stop(f"closed with {self._close_code}")
            self._discard_connection()
            gevent.sleep(self.random.uniform(0, self._reconnect_delay))
            self._connect_with_retries("resume", self.recorder.resume_subs)
            self.metrics.counts["resumes"] += 1

    def record_disconnected(self) -> None:
        """Record that this user is not connected at the end of the run."""
        self.metrics.record_problem("disconnected_at_end", f"{self.name} is not connected when the run ends")
        self.recorder.end_all(require_own=False)

    def verify(self) -> None:
        """Check what can be checked once no message is published or outstanding."""

    # ------------------------------------------------------------ called by the connection

    def on_command(self, command: Mapping[str, Any]) -> None:
        """Record a command that is about to be sent."""
        self.recorder.on_command(command)

    def on_reply(self, command: Mapping[str, Any], reply: Mapping[str, Any]) -> None:
        """Record a reply."""
        self.recorder.on_reply(command, reply)

    def on_push(self, push: Mapping[str, Any]) -> None:
        """Record a push; remember the delay of a `reconnect`."""
        if push["type"] == "reconnect":
            self._reconnect_delay = push["after_ms"] / 1000
        self.recorder.on_push(push)

    def on_closed(self, code: int) -> None:
        """Record that the connection ended."""
        if not self._closing:
            self._close_code = code
            self.metrics.counts[f"closes.{code}"] += 1
            self.metrics.record_problem("disconnects", f"{self.name}: closed with {code}")
        self._closed.set()

    def on_failure(self, error: BaseException) -> None:
        """Record that what arrived could not be processed."""
        self.scenario_run.record_crash(self.name, error)

    # ------------------------------------------------------------ private

    def _connect_with_retries(self, kind: str, subs: Callable[[], Mapping[str, Any]]) -> None:
        for attempt in itertools.count():
            backoff = self.random.uniform(0, min(BACKOFF_SECONDS * 2**attempt, MAX_BACKOFF_SECONDS))
            self._closing, self._close_code, self._reconnect_delay = False, 0, 0.0
            self._closed.clear()
            try:
                with self.scenario_run.timed(kind):
                    self._connect_once(kind, subs())
                return
            except UpgradeRejected as rejected:
                self.metrics.counts[f"rejected.{rejected.status}"] += 1
                gevent.sleep(rejected.retry_after or backoff)
            except CommandRejected as rejected:
                self.record_rejection(rejected)
                if rejected.code in PERMANENT_ERRORS:
                    self._stop(f"{rejected.code} at {kind}")
                gevent.sleep(backoff)
            except (Disconnected, OSError) as error:
                self.metrics.record_problem("unreachable", f"{self.name}: {error}")
                gevent.sleep(backoff)

    def _connect_once(self, kind: str, subs: Mapping[str, Any]) -> None:
        """Connect and restore all channels; a channel that cannot be restored yet fails the whole attempt."""
        fields = {"token": self.token} if self.token else {}
        self.connection = Connection(self.options.url, self._codec, self)
        try:
            connected = self.connection.connect(client={"name": "fanway-loadtests"}, subs=subs, **fields)
            _require_all({"type": kind}, connected["subs"].values())
        except BaseException:
            self._closing = True
            self.connection.abort()
            self.connection = None
            raise

    def _stop(self, reason: str) -> None:
        self.scenario_run.participants.pop(self, None)
        self.metrics.record_problem("disconnected_at_end", f"{self.name} stopped: {reason}")
        # Locust's StopUser, raised while users start, would print an error with a traceback for each of them.
        raise GreenletExit

    def _discard_connection(self) -> None:
        if self.connection is not None:
            self.scenario_run.ended_connections.add(self.connection.id)
            self.connection.abort()
            self.connection = None

    def __repr__(self) -> str:
        return f"<{self.name} {self.connection}>"

    __str__ = __repr__


def _require_all(command: Mapping[str, Any], answers: Iterable[Mapping[str, Any]]) -> None:
    """Raise `CommandRejected` if a channel could not be restored now, but may be later."""
    for answer in answers:
        if answer["type"] == "error" and answer["code"] not in PERMANENT_ERRORS:
            raise CommandRejected(command, answer)
