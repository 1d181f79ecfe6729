"""One logical connection: opens transports, keeps one alive, decides when to try again."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import orjson

from fanway_client._protocol.client import (
    ABNORMAL_CLOSURE,
    ClientState,
    ConnectionState,
    Decision,
    Effects,
    Retry,
)
from fanway_client._protocol.commands import map_of
from fanway_client._protocol.errors import (
    CLOSE_ON_ERROR,
    CLOSES,
    OTHER_CLOSE,
    Backoff,
    BadRequest,
    ErrorCode,
    Reaction,
)
from fanway_client._protocol.messages import Connected
from fanway_client._protocol.server_messages import server_message_of
from fanway_client.environment import Environment, PlatformEvent, Timer, Timers
from fanway_client.errors import CONNECTION_LOST, NOT_CONNECTED, FanwayError, UnauthorizedError
from fanway_client.log import LOGGER, endpoint, redacted
from fanway_client.tokens import TokenReason, TokenSource
from fanway_client.transport import HandshakeRejected, Link, Transport

State = Literal["idle", "connecting", "connected", "waiting", "suspended", "stopped"]

ANSWER_SECONDS = 10.0
"""For the socket and `connect` together; beside the heartbeat, for any message of the gateway."""
PROBE_SECONDS = 2.5
"""In which a `ping` is answered on a connection that is alive."""
LATE_SECONDS = 2.0
"""A timer that is later than this was held back: the machine slept, or the loop was blocked."""
SUSPEND_SECONDS = 120.0
"""Without a connection, after which `waiting` becomes `suspended`."""

KNOWN_CODES = frozenset(map(str, ErrorCode))
NORMAL_CLOSURE = 1000
PROTOCOL_VIOLATION = 4002
UNAUTHORIZED = 4003

Map = dict[str, Any]
OnReply = Callable[[Map], None]
OnError = Callable[[FanwayError], None]


@dataclass(frozen=True, slots=True)
class StateChange:
    """The connection is in another state."""

    state: State
    previous: State
    attempt: int
    """Attempts that failed since `connected`."""
    code: int | None = None
    """The close code, if a connection ended; 1006 if it broke."""
    reason: str = ""
    """For people."""
    delay: float | None = None
    """Seconds until the next attempt, for `waiting` and `suspended`."""


class Owner(Protocol):
    """Who knows the channels and the publishes."""

    def subs(self) -> Sequence[str]:
        """Return the channels that the next `connect` restores."""

    def on_connected(self, received: Map, effects: Effects) -> None:
        """The gateway accepted `connect` by *received*, of which the state machine made *effects*."""

    def on_push(self, push: Map) -> None:
        """A push arrived that does not concern the connection."""

    def on_disconnected(self) -> None:
        """A connection ended; every command without a reply failed with `connection_lost`."""

    def on_state(self, change: StateChange) -> None:
        """The state changed."""

    def on_error(self, error: Exception) -> None:
        """Something went wrong that no call reports."""


class Connection:
    """Connects, reconnects, and sends commands; what follows each end is decided by `ClientState`."""

    def __init__(
        self,
        environment: Environment,
        timers: Timers,
        machine: ClientState,
        owner: Owner,
        *,
        urls: Sequence[str],
        transport: Transport,
        tokens: TokenSource,
    ) -> None:
        self._environment = environment
        self._timers = timers
        self._machine = machine
        self._owner = owner
        self._urls = urls
        self._transport = transport
        self._tokens = tokens
        self.connects = 0
        """How many times `connected` has arrived."""
        self.sent = 0
        self.received = 0
        """How many messages were sent and received, on all connections."""
        self._suspended = False
        self._attempt_number = 0
        """Counts attempts, so that what belongs to an earlier one has no effect."""
        self._endpoint = 0
        self._link: Link | None = None
        self._replies: dict[int, tuple[OnReply, OnError]] = {}
        self._connect_id = 0
        self._timer: Timer | None = None
        self._probe_timer: Timer | None = None
        self._last_heard = 0.0
        self._lost_at: float | None = None
        self._not_before = 0.0
        """When the server allows the next attempt; waking up does not come before it."""
        self._token_reason: TokenReason | None = None
        self._hidden = False
        self._announced: float | None = None

    @property
    def state(self) -> State:
        """Where the client is."""
        waiting = self._machine.state is ConnectionState.WAITING
        return "suspended" if self._suspended and waiting else self._machine.state.value

    @property
    def attempt(self) -> int:
        """How many attempts failed, or connections ended, since `connected`."""
        return self._machine.attempt

    @property
    def connected(self) -> bool:
        """Whether commands can be sent."""
        return self._machine.state is ConnectionState.CONNECTED

    @property
    def info(self) -> Connected | None:
        """The reply to `connect`, while connected."""
        return self._machine.connected

    # ------------------------------------------------------------ what the application asks for

    def connect(self) -> None:
        """Begin the first attempt, or the next one at once; nothing while connecting or connected."""
        if self._machine.state not in {ConnectionState.CONNECTING, ConnectionState.CONNECTED}:
            self._begin()

    def stop(self, reason: str = "the application closed it", code: int = NORMAL_CLOSURE) -> None:
        """End the connection for good."""
        if self._machine.state is ConnectionState.STOPPED:
            return
        previous = self.state
        self._drop()
        self._machine.stop(reason)
        self._changed(previous, code=code, reason=reason)

    def request(self, command: Mapping[str, Any], on_reply: OnReply, on_error: OnError) -> None:
        """Send *command*, and call back with its reply, its error, or the end of the connection."""
        if not self.connected:
            return on_error(FanwayError(NOT_CONNECTED, "there is no connection"))
        id = command.get("id") or self._machine.next_id()
        self._replies[id] = (on_reply, on_error)
        self._send({**command, "id": id})
        return None

    def on_platform_event(self, event: PlatformEvent) -> None:
        """React to news of the platform: see `PlatformEvent`."""
        if event == "hide":
            return self._hide()
        if event != "offline":
            self._hidden = False
        if self.connected:
            if self._tokens.expired:
                self._refresh()
            self._probe()
        elif event != "offline" and self._machine.state is ConnectionState.WAITING:
            delay = self._not_before - self._environment.now()
            if delay <= 0:
                self._begin()
            else:
                self._schedule_attempt(delay)
        return None

    # ------------------------------------------------------------ attempts

    def _begin(self) -> None:
        previous = self.state
        self._cancel_timer()
        self._attempt_number += 1
        if self._lost_at is None:
            self._lost_at = self._environment.now()
        self._suspended = False
        reason = self._token_reason or self._tokens.needed()
        self._machine.begin(fresh_token=reason is not None)
        self._changed(previous)
        if reason is None:
            self._open()
        else:
            self._fetch_token(reason, lambda _: self._open())

    def _fetch_token(self, reason: TokenReason, then: Callable[[str], None]) -> None:
        """Fetch a token, and call *then* if this attempt still goes on."""
        number = self._attempt_number
        open_states = {ConnectionState.CONNECTING, ConnectionState.CONNECTED}

        def current() -> bool:
            return number == self._attempt_number and self._machine.state in open_states

        def on_token(token: str) -> None:
            if current():
                self._token_reason = None
                then(token)

        def on_error(error: Exception) -> None:
            if current():
                self._on_token_error(error)

        self._tokens.fetch(reason, on_token, on_error)

    def _on_token_error(self, error: Exception) -> None:
        if isinstance(error, UnauthorizedError):
            return self.stop(str(error) or "get_token raised UnauthorizedError", UNAUTHORIZED)
        self._owner.on_error(error)
        # A connection goes on until its token expires; the gateway ends it then.
        if self._machine.state is ConnectionState.CONNECTING:
            self._lost("get_token failed")
        return None

    def _open(self) -> None:
        self._announced = None
        self._start_timer(ANSWER_SECONDS, lambda: self._lost("no answer to connect in time"))
        url = self._urls[self._endpoint % len(self._urls)]
        LOGGER.debug("opening %s", endpoint(url))
        self._link = self._transport.connect(url, self)

    def on_open(self) -> None:
        """Send `connect`: the socket is open."""
        command = self._machine.connect_command(self._tokens.current, channels=self._owner.subs())
        self._connect_id = command.id
        self._send({"subs": {}, **map_of(command)})

    # ------------------------------------------------------------ what arrives

    def on_data(self, data: str | bytes) -> None:
        """Handle one message of the gateway."""
        self._last_heard = self._environment.now()
        if self._probe_timer is not None:
            self._probe_timer.cancel()
            self._probe_timer = None
        try:
            received = orjson.loads(data)
            self.received += 1
            if LOGGER.isEnabledFor(logging.DEBUG):
                LOGGER.debug("received %s", redacted(received))
            self._receive(received)
        except Exception as error:  # noqa: BLE001 (a message that is not of the protocol can fail anywhere)
            self._owner.on_error(error)
            self._lost("a message could not be decoded")

    def _receive(self, received: Map) -> None:
        id = received.get("id")
        if id is not None and id == self._connect_id and self._machine.state is ConnectionState.CONNECTING:
            return self._on_connect_reply(received)
        waiting = self._replies.pop(id, None) if id is not None else None
        if waiting is None:
            return self._on_push(received)
        on_reply, on_error = waiting
        if received["type"] == "error":
            return on_error(error_of(received))
        return on_reply(received)

    def _on_push(self, push: Map) -> None:
        match push["type"]:
            case "ping":
                self._send({"type": "pong"})
            case "expiring":
                self._refresh()
            case "reconnect":
                self._announced = push["after_ms"] / 1000
                self._machine.on_message(server_message_of(push))
            case "error":
                if push.get("id") is None:
                    self._owner.on_error(error_of(push))
            case _ if self.connected:
                self._owner.on_push(push)

    def _on_connect_reply(self, received: Map) -> None:
        if received["type"] == "error":
            return self._on_connect_rejected(received)
        reply = server_message_of(_with_known_codes(received))
        if not isinstance(reply, Connected):
            raise BadRequest(f"expected connected, not {reply.type}")
        previous = self.state
        effects = self._machine.on_message(reply)
        self._lost_at = None
        self.connects += 1
        self._tokens.expires_in(reply.expires_in)
        self._watch_silence()
        self._changed(previous)
        self._owner.on_connected(received, effects)
        return None

    def _on_connect_rejected(self, received: Map) -> None:
        error = error_of(received)
        known = known_code(error.code)
        otherwise = ABNORMAL_CLOSURE if error.retryable else PROTOCOL_VIOLATION
        code = int(CLOSE_ON_ERROR.get(known, otherwise))

        def decide() -> Decision:
            decision = self._machine.on_message(server_message_of({**received, "code": known})).decision
            return decision or self._machine.on_connection_lost()

        self._end(decide, code, str(error), retry_after=error.retry_after or 0.0)

    def _refresh(self) -> None:
        """Fetch another token and go on with it."""
        if not self._tokens.can_fetch:
            return

        def on_error(error: FanwayError) -> None:
            if error.code != CONNECTION_LOST:
                self._owner.on_error(error)

        self._fetch_token(
            "expiring",
            lambda token: self.request(
                {"type": "refresh", "token": token},
                lambda reply: self._tokens.expires_in(reply.get("expires_in")),
                on_error,
            ),
        )

    # ------------------------------------------------------------ signs of life

    def _watch_silence(self) -> None:
        if self.info is None:
            return
        limit = self.info.heartbeat + ANSWER_SECONDS
        now = self._environment.now()
        wait = max(0.0, self._last_heard + limit - now)
        due = now + wait

        def check() -> None:
            now = self._environment.now()
            if now < self._last_heard + limit:
                self._watch_silence()
            elif now < due + LATE_SECONDS:
                self._lost("the gateway is silent")
            else:
                # The timer was held back, and so may the messages be: ask before giving up.
                self._probe()
                self._start_timer(PROBE_SECONDS * 2, self._watch_silence)

        self._start_timer(wait, check)

    def _probe(self) -> None:
        """Send a `ping`; the connection is lost if nothing arrives in time."""
        if not self.connected or self._probe_timer is not None:
            return
        self.request({"type": "ping"}, lambda _: None, lambda _: None)

        def give_up() -> None:
            self._probe_timer = None
            self._lost("no answer to a ping")

        self._probe_timer = self._timers.call_later(PROBE_SECONDS, give_up)

    def _hide(self) -> None:
        """Close the socket, and wait for `wake`."""
        self._hidden = True
        if self._machine.state in {ConnectionState.CONNECTED, ConnectionState.CONNECTING}:
            self._end(self._machine.on_connection_lost, NORMAL_CLOSURE, "in the background", delay=0.0)

    # ------------------------------------------------------------ ends

    def on_close(self, code: int, reason: str, rejected: HandshakeRejected | None = None) -> None:
        """Decide what follows: the connection ended, or could not be opened."""
        self._link = None
        if rejected is None:
            return self._end(lambda: self._machine.on_closed(code, reason), code, reason)
        after = rejected.retry_after
        return self._end(
            lambda: self._machine.on_handshake_rejected(rejected.status, retry_after_seconds=after),
            code,
            reason,
            retry_after=after or 0.0,
        )

    def _lost(self, reason: str) -> None:
        self._end(self._machine.on_connection_lost, ABNORMAL_CLOSURE, reason)

    def _end(
        self,
        decide: Callable[[], Decision],
        code: int,
        reason: str,
        *,
        retry_after: float = 0.0,
        delay: float | None = None,
    ) -> None:
        """Forget the connection, and do what *decide* returns.

        Args:
            decide: Moves the state machine.
            code: The close code, for the application.
            reason: For people.
            retry_after: Seconds that the gateway asked to wait.
            delay: Replaces the delay of the decision.
        """
        previous = self.state
        announced = self._announced
        self._drop()
        decision = decide()
        if not isinstance(decision, Retry):
            return self._changed(previous, code=code, reason=reason)
        close = CLOSES.get(code, OTHER_CLOSE)
        if decision.fetch_token:
            refused = close.reaction is Reaction.STOP_UNTIL_NEW_TOKEN
            self._token_reason = "unauthorized" if refused else "expired"
        now = self._environment.now()
        told = announced if close.backoff is Backoff.ANNOUNCED else None
        self._not_before = now + max(retry_after, told or 0.0)
        self._endpoint += delay is None
        if self._lost_at is None:
            self._lost_at = now
        self._suspended = now - self._lost_at >= SUSPEND_SECONDS
        wait = decision.after_seconds if delay is None else delay
        self._changed(previous, code=code, reason=reason, delay=wait)
        return self._schedule_attempt(wait)

    def _schedule_attempt(self, delay: float) -> None:
        def begin() -> None:
            # Without a network, `online` starts the attempt.
            if self._environment.online():
                self._begin()

        if not self._hidden:
            self._start_timer(delay, begin)

    def _drop(self) -> None:
        """Close the socket, and forget what belongs to it."""
        self._attempt_number += 1
        self._cancel_timer()
        if self._probe_timer is not None:
            self._probe_timer.cancel()
            self._probe_timer = None
        link, self._link = self._link, None
        if link is not None:
            link.close()
        replies, self._replies = self._replies, {}
        error = FanwayError(CONNECTION_LOST, "the connection ended before the reply")
        for _, on_error in replies.values():
            on_error(error)
        if self.connected:
            self._owner.on_disconnected()

    def _send(self, message: Mapping[str, Any]) -> None:
        if self._link is not None:
            self.sent += 1
            if LOGGER.isEnabledFor(logging.DEBUG):
                LOGGER.debug("sent %s", redacted(dict(message)))
            self._link.send(orjson.dumps(message).decode())

    def _start_timer(self, seconds: float, callback: Callable[[], None]) -> None:
        self._cancel_timer()
        self._timer = self._timers.call_later(seconds, callback)

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _changed(
        self, previous: State, *, code: int | None = None, reason: str = "", delay: float | None = None
    ) -> None:
        state = self.state
        if state != previous:
            LOGGER.debug("state %s (code %s, reason %r, next attempt in %s s)", state, code, reason, delay)
            self._owner.on_state(StateChange(state, previous, self._machine.attempt, code, reason, delay))


def known_code(code: str) -> ErrorCode:
    """Return *code*, or `internal` if this version does not know it (docs/protocol.md#errors)."""
    return ErrorCode(code) if code in KNOWN_CODES else ErrorCode.INTERNAL


def _with_known_codes(connected: Map) -> Map:
    """Return the reply without codes that this version does not know."""
    subs = {
        channel: {**answer, "code": known_code(answer["code"])} if answer["type"] == "error" else answer
        for channel, answer in connected.get("subs", {}).items()
    }
    return {**connected, "subs": subs}


def error_of(reply: Map) -> FanwayError:
    """Return the `error` reply as an exception."""
    retry_after = reply.get("retry_after_ms")
    return FanwayError(
        reply["code"],
        reply["message"],
        retry_after=None if retry_after is None else retry_after / 1000,
        reason=reply.get("reason"),
    )
