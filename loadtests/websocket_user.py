"""A locust user with a WebSocket connection: connects, records what it receives, reconnects.

What it does when a connection ends or a subscription is refused is decided in `protocol.client`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from random import Random
from typing import Any, ClassVar

import gevent
from gevent import GreenletExit
from gevent.event import Event
from gevent.lock import RLock
from locust import User
from locust.env import Environment

from loadtests import tokens
from loadtests.codecs import CODECS
from loadtests.connection import CommandRejected, Connection, Disconnected, UpgradeRejected
from loadtests.scenario_run import ScenarioRun
from loadtests.user_recorder import UserRecorder
from protocol.client import ClientState, ConnectionState, Decision, Retry, RetrySubscription, Stop
from protocol.commands import map_of
from protocol.messages import ClientInfo
from protocol.server_messages import server_message_of

STATE_MESSAGES = frozenset(
    {"connected", "subscribed", "unsubscribed", "error", "gap", "ping", "expiring", "reconnect"}
)
"""Types of server messages with an effect on `ClientState`, except `message`, which advances a position."""


CONNECTING_SECONDS = 0.5
"""After which a subscription is tried again that could not be sent, because the client was connecting."""


class Clock:
    """The time of users, by gevent."""

    now = staticmethod(time.monotonic)
    sleep = staticmethod(gevent.sleep)
    later = staticmethod(gevent.spawn_later)


class WebSocketUser(User):
    """A user with one connection at a time; subclasses define what it does there.

    It listens to its connection, and passes every message on to its recorder and to its client state.
    """

    abstract = True
    scenario_run: ClassVar[ScenarioRun]
    clock: ClassVar[Any] = Clock
    """Replaced by tests."""

    def __init__(self, environment: Environment) -> None:
        super().__init__(environment)
        self.options = self.scenario_run.options
        self.metrics = self.scenario_run.metrics
        self.index, self.name = self.scenario_run.register_user(type(self).__name__.lower())
        self.random = Random(f"{self.options.seed} {self.index}")
        self.recorder = UserRecorder(self.name, self.metrics)
        self.connection: Connection | None = None
        self.token: str | None = None
        self._create_token()
        codecs = CODECS[self.options.codec]
        self._codec = codecs[self.index % len(codecs)]
        self._client_state = ClientState(
            random=self.random.random,
            can_fetch_token=self.token is not None,
            info=ClientInfo("fanway-loadtests"),
        )
        self._subscribe_options: dict[str, Mapping[str, Any]] = {}
        """Fields of `subscribe` by channel, for the case that it must be sent again."""
        self._connect_lock = RLock()
        self._closed = Event()
        self._closing = False
        """Whether this user itself ends the connection."""
        self._retry_at = 0.0
        """When to connect again, by the monotonic clock."""
        self._stop_reason: str | None = None
        """Why this user must not connect again."""
        self._refused_channels: set[str] = set()
        """Channels whose subscription will be retried; no `connect` names them before."""
        self._all_subscribed = Event()
        self._all_subscribed.set()

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
        return self._request({"id": self._client_state.next_id(), "type": kind, **fields})

    def send(self, kind: str, **fields: Any) -> None:
        """Send a command without waiting for its reply; raise `Disconnected`."""
        if self.connection is None:
            raise Disconnected("not connected")
        self.connection.send({"id": self._client_state.next_id(), "type": kind, **fields})

    def connect(self, *channels: str) -> None:
        """Connect, and subscribe to *channels*."""
        for channel in channels:
            self._client_state.add(channel)
        with self._connect_lock:
            self._connect_with_retries("connect")

    def subscribe(self, channel: str, **options: Any) -> Mapping[str, Any]:
        """Subscribe to *channel*, across reconnects; raise `CommandRejected` or `Disconnected`."""
        self._client_state.add(channel)
        self._subscribe_options[channel] = options
        return self._request({**map_of(self._client_state.subscribe_command(channel)), **options})

    def drop_connection(self) -> None:
        """Close the socket without a Close frame; `reconnect` resumes."""
        if self.connection is not None:
            self._closing = True
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
    def is_restored(self) -> bool:
        """Whether the connection is open and subscribed to every channel."""
        return self.is_connected and self._all_subscribed.is_set()

    @property
    def presence(self) -> Mapping[str, str]:
        """The connection id under which members list it, by subscribed channel."""
        own = self.connection.id if self.connection else ""
        return {channel: self.recorder.listed_as.get(channel, own) for channel in self.recorder.channels}

    def reconnect(self) -> None:
        """Reconnect and resume if the connection ended; return when every channel is subscribed again."""
        with self._connect_lock:
            if self not in self.scenario_run.participants:
                return
            if not self.is_connected:
                self._discard_connection()
                self._connect_with_retries("resume")
                self.metrics.counts["resumes"] += 1
        self._all_subscribed.wait()

    def record_disconnected(self) -> None:
        """Record that this user is not connected, or not subscribed, at the end of the run."""
        self.metrics.record_problem("disconnected_at_end", f"{self.name} is not restored when the run ends")
        self.recorder.end_all(require_own=False)

    def verify(self) -> None:
        """Check what can be checked once no message is published or outstanding."""

    # ------------------------------------------------------------ called by the connection

    def on_command(self, command: Mapping[str, Any]) -> None:
        """Record a command that is about to be sent."""
        self.recorder.on_command(command)

    def on_reply(self, command: Mapping[str, Any], reply: Mapping[str, Any]) -> None:
        """Record a reply, and do what the client state says about it."""
        self.recorder.on_reply(command, reply)
        self._update_state(reply)

    def on_push(self, push: Mapping[str, Any]) -> None:
        """Record a push, and do what the client state says about it."""
        self.recorder.on_push(push)
        if push["type"] == "message":
            if (message_id := push.get("message")) is not None:
                self._client_state.advance(push["channel"], message_id)
        else:
            self._update_state(push)

    def on_closed(self, code: int) -> None:
        """Record that the connection ended, and when to connect again."""
        if not self._closing:
            self.metrics.counts[f"closes.{code}"] += 1
            self.metrics.record_problem("disconnects", f"{self.name}: closed with {code}")
        self._apply(self._client_state.on_closed(code))
        self._closed.set()

    def on_failure(self, error: BaseException) -> None:
        """Record that what arrived could not be processed."""
        self.scenario_run.record_crash(self.name, error)

    # ------------------------------------------------------------ private

    def _create_token(self) -> None:
        if self.options.secret:
            self.token = tokens.create_token(self.options.secret, self.name)

    def _request(self, command: Mapping[str, Any]) -> Mapping[str, Any]:
        if self.connection is None:
            raise Disconnected("not connected")
        with self.scenario_run.timed(command["type"]):
            return self.connection.request(command)

    def _connect_with_retries(self, kind: str) -> None:
        """Connect until it succeeds, timed as *kind*; stop this user if the client state says so."""
        while True:
            if self._stop_reason is not None:
                self._stop(self._stop_reason)
            self.clock.sleep(max(0.0, self._retry_at - self.clock.now()))
            self._closing = False
            self._closed.clear()
            try:
                with self.scenario_run.timed(kind):
                    self._connect_once()
                return
            except UpgradeRejected as rejected:
                self.metrics.counts[f"rejected.{rejected.status}"] += 1
            except CommandRejected as rejected:
                self.metrics.record_error(rejected.code, f"{self.name}: {rejected}")
            except (Disconnected, OSError) as error:
                self.metrics.record_problem("unreachable", f"{self.name}: {error}")

    def _connect_once(self) -> None:
        self._client_state.begin()
        try:
            self.connection = Connection(self.options.url, self._codec, self)
        except UpgradeRejected as rejected:
            self._apply(
                self._client_state.on_handshake_rejected(
                    rejected.status, retry_after_seconds=rejected.retry_after
                )
            )
            raise
        except OSError:
            self._apply(self._client_state.on_connection_lost())
            raise
        # Made now, so that it has the channels that were added in the meantime.
        wanted = [name for name in self._client_state.channels if name not in self._refused_channels]
        command = map_of(self._client_state.connect_command(self.token, channels=wanted))
        try:
            self.connection.id = self.connection.request(command)["connection"]
        except BaseException:
            self._closing = True
            self.connection.abort()
            self.connection = None
            raise

    def _apply(self, decision: Decision) -> None:
        """Store what to do after the end of a connection or attempt."""
        match decision:
            case Retry():
                self._retry_at = self.clock.now() + decision.after_seconds
                if decision.fetch_token:
                    self._create_token()
            case Stop():
                self._stop_reason = decision.reason

    def _update_state(self, message: Mapping[str, Any]) -> None:
        """Pass a reply or push to the client state, and do what it says; messages are already recorded."""
        if message["type"] not in STATE_MESSAGES or self.connection is None:
            return
        effects = self._client_state.on_message(server_message_of(message))
        if message["type"] in {"subscribed", "unsubscribed"}:
            self._end_retry(message["channel"])
        for retry in effects.retries:
            self._schedule_retry(retry)
        with suppress(Disconnected):
            if effects.reply is not None:
                self.connection.write(map_of(effects.reply))
            if effects.fetch_token:
                self._create_token()
                self.connection.send(map_of(self._client_state.refresh_command(self.token or "")))
        # A decision is that of `on_closed`, which follows: what was rejected is aborted.

    def _schedule_retry(self, retry: RetrySubscription) -> None:
        self.metrics.counts["subscription_retries"] += 1
        self._refused_channels.add(retry.channel)
        self._all_subscribed.clear()
        self.clock.later(retry.after_seconds, self._retry_subscription, retry.channel)

    def _retry_subscription(self, channel: str) -> None:
        """Subscribe to *channel* again; without a connection, let the next `connect` do it."""
        if channel not in self._refused_channels:
            return
        if self._client_state.state is ConnectionState.CONNECTING:
            # Its `connect` may be on the way without the channel.
            self.clock.later(CONNECTING_SECONDS, self._retry_subscription, channel)
            return
        if self._client_state.state is not ConnectionState.CONNECTED:
            self._end_retry(channel)
            return
        options = self._subscribe_options.get(channel, {})
        try:
            self._request({**map_of(self._client_state.subscribe_command(channel)), **options})
        except CommandRejected as rejected:
            self.metrics.record_error(rejected.code, f"{self.name}: {rejected}")
            if not rejected.is_transient:
                self._end_retry(channel)
        except Disconnected:
            pass  # the next connect restores the channel

    def _end_retry(self, channel: str) -> None:
        self._refused_channels.discard(channel)
        if not self._refused_channels:
            self._all_subscribed.set()

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
