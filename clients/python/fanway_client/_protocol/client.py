"""The state of one client: what to send, which positions to keep, when to reconnect. No I/O, no clock.

How to use it: the caller opens sockets, encodes, decodes and sleeps; `ClientState` decides.

    state = ClientState(["news"], random=random.random)
    while True:
        command = state.connect_command(token)    # begins an attempt; call it before opening the socket
        ...                                       # open the socket, send the command; if that fails:
                                                  #   decision = state.on_handshake_rejected(status, ...) or
                                                  #   decision = state.on_connection_lost()
        for message in received:
            effects = state.on_message(message)   # a ServerMessage of protocol.messages
            ...                                   # send effects.reply, handle effects.messages and the rest;
                                                  #   if effects.decision is set: close the socket
        decision = state.on_closed(code, reason)  # or state.on_connection_lost() without a Close frame
        match decision:
            case Stop(): ...                      # give up; connect_command() would begin again
            case Retry(): ...                     # sleep decision.after_seconds;
                                                  #   fetch a token if decision.fetch_token

A client that handles raw maps converts what it receives with `protocol.server_messages.server_message_of` and
what it sends with `protocol.commands.map_of`. For `message` pushes, which are many, it may call
`state.advance(channel, message_id)` instead of `on_message`; positions are strings for that reason. Messages
without an effect on the state (`join`, `published`, `pong`, ...) may be passed in or not.

The rules are in docs/protocol.md#close-codes, docs/protocol.md#positions-and-recovery and
docs/protocol.md#a-client-in-one-algorithm. docs/vectors/closes.json holds them for other languages.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, ClassVar, Final

from fanway_client._protocol.errors import (
    CLOSE_ON_ERROR,
    CLOSES,
    OTHER_CLOSE,
    TRANSIENT_ERRORS,
    Backoff,
    Close,
    ErrorCode,
    Reaction,
)
from fanway_client._protocol.messages import (
    ClientInfo,
    ClientMessage,
    Connect,
    Connected,
    Error,
    Expiring,
    Gap,
    Message,
    Pong,
    Reconnect,
    Refresh,
    Resume,
    ServerMessage,
    ServerPing,
    Subscribe,
    Subscribed,
    Unsubscribed,
)
from fanway_client._protocol.position import MessageId

ABNORMAL_CLOSURE = 1006
"""The code of a connection that ended without a Close frame (RFC 6455 section 7.4.1)."""

NOT_RECOVERED = "not_recovered"
"""The reason of a `Reset` if history no longer reaches back to the client's position."""

SILENCE_GRACE_SECONDS = 10.0
"""How much longer than its heartbeat a connection may be silent (docs/protocol.md#heartbeats)."""

MAX_DOUBLINGS = 32
"""Attempts after which the bound of the backoff no longer doubles; keeps 2**n a small float."""


# ---------------------------------------------------------------- states


class ConnectionState(StrEnum):
    """Where the client is between two connections; the words of the client libraries.

    A library with a clock adds `suspended`: `waiting` for so long that a user interface should say so (two
    minutes in Ably's libraries).
    """

    IDLE = "idle"
    """No connection was asked for yet."""
    CONNECTING = "connecting"
    """The socket is being opened, or `connect` has no reply yet."""
    CONNECTED = "connected"
    """`connected` has arrived."""
    WAITING = "waiting"
    """The next attempt begins after the delay of the last `Retry`."""
    STOPPED = "stopped"
    """The client does not reconnect by itself."""


class Input(StrEnum):
    """What moves a client from one state to the next."""

    CONNECT = "connect"
    """The caller begins an attempt."""
    CONNECTED = "connected"
    """The server accepted `connect`."""
    RETRY = "retry"
    """The connection, or the attempt, ended in a `Retry`."""
    STOP = "stop"
    """The connection, or the attempt, ended in a `Stop`."""


TRANSITIONS: Final[dict[tuple[ConnectionState, Input], ConnectionState]] = {
    (ConnectionState.IDLE, Input.CONNECT): ConnectionState.CONNECTING,
    (ConnectionState.WAITING, Input.CONNECT): ConnectionState.CONNECTING,
    (ConnectionState.STOPPED, Input.CONNECT): ConnectionState.CONNECTING,
    (ConnectionState.CONNECTING, Input.CONNECTED): ConnectionState.CONNECTED,
    (ConnectionState.CONNECTED, Input.CONNECTED): ConnectionState.CONNECTED,
    (ConnectionState.CONNECTING, Input.RETRY): ConnectionState.WAITING,
    (ConnectionState.CONNECTED, Input.RETRY): ConnectionState.WAITING,
    (ConnectionState.CONNECTING, Input.STOP): ConnectionState.STOPPED,
    (ConnectionState.CONNECTED, Input.STOP): ConnectionState.STOPPED,
    (ConnectionState.IDLE, Input.STOP): ConnectionState.STOPPED,
    (ConnectionState.WAITING, Input.STOP): ConnectionState.STOPPED,
}
"""Every legal move. Any other is a mistake of the caller: `IllegalTransition`."""

_CHANNEL_TOKEN_ERRORS = frozenset({ErrorCode.TOKEN_EXPIRED, ErrorCode.UNAUTHORIZED})
"""Errors of a `subscribe` after which another channel token may be accepted."""

_OPEN = frozenset({ConnectionState.CONNECTING, ConnectionState.CONNECTED})


class IllegalTransition(RuntimeError):
    """The caller did what the state does not allow, such as `connect` on a connection that is open."""

    def __init__(self, state: ConnectionState, event: Input) -> None:
        super().__init__(f"a client that is {state} cannot {event}")


# ---------------------------------------------------------------- decisions and effects


@dataclass(frozen=True, slots=True)
class Retry:
    """Connect again and resume."""

    after_seconds: float
    fetch_token: bool = False
    """Whether a new token must be fetched first; the present one has expired."""


@dataclass(frozen=True, slots=True)
class Stop:
    """Do not connect again by itself."""

    reason: str
    """For people."""
    until_new_token: bool = False
    """Whether another token lifts the stop; otherwise only the application can say so."""


Decision = Retry | Stop
"""What follows the end of a connection."""


@dataclass(frozen=True, slots=True)
class Reset:
    """Messages of *channel* are missing: load again whatever the application derives from them."""

    channel: str
    reason: str
    """`NOT_RECOVERED`, or the `reason` of a gap: `overflow`, `trimmed`, `reset`."""


@dataclass(frozen=True, slots=True)
class Dropped:
    """*channel* is no longer subscribed, and no later `connect` restores it.

    If *code* is `token_expired`, the channel was added without `can_fetch_token`: with another channel token,
    `add` the channel again from *position*, and send its `subscribe_command`.
    """

    channel: str
    code: str
    """Why, for programs; empty if the server named no code."""
    reason: str
    """Why, for people."""
    position: str | None
    """The position up to which messages were received."""


@dataclass(frozen=True, slots=True)
class RetrySubscription:
    """*channel* is not subscribed for the moment: send its `subscribe_command` after a delay."""

    channel: str
    after_seconds: float
    error: Error
    fetch_token: bool = False
    """Whether another channel token must be fetched first, and passed to `set_channel_token`."""


@dataclass(frozen=True, slots=True)
class Effects:
    """What the caller does because of one server message."""

    messages: tuple[Message, ...] = ()
    """To hand to the application, in this order. Store positions only after that, if they are stored."""
    resets: tuple[Reset, ...] = ()
    dropped: tuple[Dropped, ...] = ()
    retries: tuple[RetrySubscription, ...] = ()
    reply: ClientMessage | None = None
    """To send at once."""
    fetch_token: bool = False
    """Fetch a token and send `refresh_command` with it: the present one is about to expire."""
    decision: Decision | None = None
    """Close the connection, and act on this decision: the connection was rejected."""


NO_EFFECTS: Final = Effects()


# ---------------------------------------------------------------- backoff


@dataclass(frozen=True, slots=True)
class BackoffBounds:
    """The longest wait before each attempt; the wait itself is random below it (full jitter).

    https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/ compares the variants.
    """

    first_seconds: float = 0.5
    longest_seconds: float = 30.0

    def bound(self, backoff: Backoff, attempt: int) -> float:
        """Return the bound in seconds before attempt number *attempt*; 0 is the first after `connected`."""
        if backoff is Backoff.LONG:
            return self.longest_seconds
        return min(self.longest_seconds, self.first_seconds * 2.0 ** min(attempt, MAX_DOUBLINGS))


DEFAULT_BACKOFF: Final = BackoffBounds()


# ---------------------------------------------------------------- the machine


@dataclass(slots=True)
class Channel:
    """What a client keeps of one channel across connections."""

    position: str | None = None
    """The id to resume from, as the server sent it; opaque. None: nothing to resume."""
    token: str | None = None
    """The channel token, if the channel wants one."""
    can_fetch_token: bool = False
    """Whether the caller can fetch another channel token."""
    rewind: int | None = None
    """How many of the last messages to begin with, as long as there is no position."""
    subscribed: bool = False
    """Whether this connection is subscribed to the channel now."""
    attempts: int = 0
    """Subscriptions rejected in a row."""

    def resume(self) -> Resume:
        """Return the options that subscribe to the channel from where it was left."""
        if self.position is None:
            return Resume(token=self.token, rewind=self.rewind)
        return Resume(MessageId.parse(self.position), self.token)


class ClientState:
    """One client across all of its connections: its state, its channels and their positions.

    Args:
        channels: What to subscribe to at the first connect; see also `add`.
        random: Returns a float in [0, 1), for the jitter.
        rewind: How many of the last messages each of *channels* begins with.
        can_fetch_token: Whether the caller can fetch a new token; without it, an expired token is a `Stop`.
        info: Name and version of the client, for the operators.
        backoff: The bounds of the delays.
    """

    def __init__(
        self,
        channels: Iterable[str] = (),
        *,
        random: Callable[[], float],
        rewind: int | None = None,
        can_fetch_token: bool = False,
        info: ClientInfo | None = None,
        backoff: BackoffBounds = DEFAULT_BACKOFF,
    ) -> None:
        self.state = ConnectionState.IDLE
        self.channels = {channel: Channel(rewind=rewind) for channel in channels}
        """What `connect_command` restores: the caller's channels, and those that the server added."""
        self.connected: Connected | None = None
        """The reply to `connect` while connected: the connection's id, node, heartbeat, limits."""
        self.attempt = 0
        """How many attempts failed, or connections ended, since `connected` last arrived."""
        self._random = random
        self._can_fetch_token = can_fetch_token
        self._info = info
        self._backoff = backoff
        self._announced_seconds: float | None = None
        """The delay of the last `reconnect` push on this connection."""
        self._last_id = 0
        self._connect_id = 0
        self._connect_channels: frozenset[str] = frozenset()
        self._subscribing: dict[int, str] = {}
        """Channels by the id of the `subscribe` that has no reply yet."""
        self._decision: Decision | None = None
        self._begun = False
        """Whether `begin` was called and `connect_command` was not yet."""
        self._fresh_token = True

    def __repr__(self) -> str:
        return f"<ClientState {self.state}, {len(self.channels)} channels, attempt {self.attempt}>"

    # ------------------------------------------------------------ channels

    def add(
        self,
        channel: str,
        *,
        token: str | None = None,
        position: str | None = None,
        rewind: int | None = None,
        can_fetch_token: bool = False,
    ) -> None:
        """Restore *channel* at every later connect; while connected, send its `subscribe_command` as well.

        With *can_fetch_token*, an expired channel token is a `RetrySubscription` with `fetch_token`.
        """
        self.channels[channel] = Channel(position, token, can_fetch_token, rewind)

    def set_channel_token(self, channel: str, token: str | None) -> None:
        """Use *token* whenever *channel* is subscribed from now on; None: the channel wants none."""
        kept = self.channels.get(channel)
        if kept is not None:
            kept.token = token

    def remove(self, channel: str) -> None:
        """Forget *channel*; the caller sends `unsubscribe` if it is connected."""
        self.channels.pop(channel, None)

    def advance(self, channel: str, position: str) -> None:
        """Resume *channel* from *position* from now on; `on_message` does so for messages that have an id."""
        kept = self.channels.get(channel)
        if kept is not None:
            kept.position = position

    @property
    def silence_limit_seconds(self) -> float:
        """After how many seconds without a byte of the gateway the connection is lost: `on_connection_lost`.

        A part of a message counts: on a slow line, a whole one may take longer.
        """
        return SILENCE_GRACE_SECONDS + (0.0 if self.connected is None else self.connected.heartbeat)

    # ------------------------------------------------------------ commands

    def next_id(self) -> int:
        """Return an id for a command of the caller's, unused on this connection."""
        self._last_id += 1
        return self._last_id

    def begin(self, *, fresh_token: bool = True) -> None:
        """Begin an attempt, if a token or a socket comes before the command; else `connect_command` does.

        Args:
            fresh_token: Whether the token of this attempt is fetched for it. One that was fetched earlier
                and is refused may be outdated: if the caller can fetch tokens, the decision is a `Retry`.

        Raises:
            IllegalTransition: The last attempt or connection has not ended.
        """
        self._move(Input.CONNECT)
        self._decision = self._announced_seconds = None
        self._subscribing.clear()
        self._last_id = 0
        self._begun, self._fresh_token = True, fresh_token

    def stop(self, reason: str) -> Decision:
        """End the connection, or the wait for the next one, because the application says so.

        Raises:
            IllegalTransition: It has stopped already.
        """
        return self._stop(reason)

    def connect_command(self, token: str | None = None, *, channels: Iterable[str] | None = None) -> Connect:
        """Return the first command of an attempt, which restores *channels* (all of them by default).

        Raises:
            IllegalTransition: The last attempt or connection has not ended, and no `begin` came before.
        """
        if not self._begun:
            self.begin()
        self._begun = False
        subs = {
            channel: self.channels[channel].resume()
            for channel in (self.channels if channels is None else channels)
        }
        self._connect_id, self._connect_channels = self.next_id(), frozenset(subs)
        return Connect(self._connect_id, token, self._info, subs)

    def subscribe_command(self, channel: str) -> Subscribe:
        """Return the command that subscribes to *channel*, which was added before, from where it was left."""
        options = self.channels[channel].resume()
        id = self.next_id()
        self._subscribing[id] = channel
        return Subscribe(id, channel, options.token, options.since, options.rewind)

    def refresh_command(self, token: str) -> Refresh:
        """Return the command that replaces the token of this connection."""
        return Refresh(self.next_id(), token)

    # ------------------------------------------------------------ what happened

    def on_message(self, message: ServerMessage) -> Effects:
        """Return what the caller does because of *message*; nothing for types that do not concern the state.

        After a `decision`, messages that still arrive on the same connection have no effect.
        """
        handler = self._HANDLERS.get(type(message))
        if handler is None or self.state not in _OPEN:
            return NO_EFFECTS
        return handler(self, message)

    def on_closed(self, code: int, reason: str = "") -> Decision:
        """Return what to do after the server closed with *code* (docs/protocol.md#close-codes).

        If `on_message` has decided already on this connection, the decision is the same.

        Raises:
            IllegalTransition: No attempt was begun.
        """
        if self._decision is not None:
            return self._decision
        close = CLOSES.get(code, OTHER_CLOSE)
        return self._end(close, f"the gateway closed with {code}: {reason or close.reason}")

    def on_connection_lost(self) -> Decision:
        """Return what to do after a connection ended without a Close frame, or could not be opened."""
        return self.on_closed(ABNORMAL_CLOSURE)

    def on_handshake_rejected(
        self, status: int, *, retry_after_seconds: float | None = None, reason: str = ""
    ) -> Decision:
        """Return what to do after the upgrade was answered with HTTP *status* (docs/protocol.md#connecting).

        Args:
            status: 429 and 5xx (a gateway's, or a proxy's) are retried; others need a change by people.
            retry_after_seconds: The header Retry-After; the backoff comes on top of it.
            reason: What the response said, for people.
        """
        if status == 429 or status >= 500:
            return self._retry(Backoff.JITTER, after=retry_after_seconds or 0.0)
        return self._stop(reason or f"the handshake was rejected with HTTP {status}")

    # ------------------------------------------------------------ server messages

    def _on_connected(self, reply: Connected) -> Effects:
        self._move(Input.CONNECTED)
        self.connected, self.attempt = reply, 0
        effects = [self._on_subscription(channel, answer) for channel, answer in reply.subs.items()]
        missing = self._connect_channels - set(reply.subs)
        effects += [
            self._drop(channel, "", "the gateway did not subscribe to it") for channel in sorted(missing)
        ]
        return _merged(effects)

    def _on_subscription(self, channel: str, answer: Subscribed | Error) -> Effects:
        if isinstance(answer, Subscribed):
            return self._on_subscribed(answer)
        return self._on_subscribe_rejected(channel, answer)

    def _on_subscribed(self, answer: Subscribed) -> Effects:
        if answer.id is not None:
            self._subscribing.pop(answer.id, None)
        kept = self.channels.setdefault(answer.channel, Channel())
        missed = kept.position is not None and not answer.recovered
        kept.position = None if answer.position is None else str(answer.position)
        kept.subscribed, kept.attempts = True, 0
        return Effects(
            messages=tuple(answer.messages),
            resets=(Reset(answer.channel, NOT_RECOVERED),) if missed else (),
        )

    def _on_subscribe_rejected(self, channel: str, error: Error) -> Effects:
        kept = self.channels.get(channel)
        if kept is None or error.code is ErrorCode.ALREADY_SUBSCRIBED:
            return NO_EFFECTS
        if error.code in _CHANNEL_TOKEN_ERRORS and kept.can_fetch_token:
            return self._fetch_channel_token(channel, kept, error)
        if error.code not in TRANSIENT_ERRORS:
            return self._drop(channel, error.code, error.message)
        delay = self._jitter(Backoff.JITTER, kept.attempts)
        kept.attempts += 1
        return Effects(retries=(RetrySubscription(channel, max(_retry_after(error), delay), error),))

    def _fetch_channel_token(self, channel: str, kept: Channel, error: Error) -> Effects:
        """Have another token fetched: at once, but with a growing delay if new ones are rejected, too."""
        delay = self._jitter(Backoff.JITTER, kept.attempts) if kept.attempts else 0.0
        kept.token, kept.subscribed = None, False
        kept.attempts += 1
        return Effects(retries=(RetrySubscription(channel, delay, error, fetch_token=True),))

    def _on_error(self, error: Error) -> Effects:
        if error.id is not None and error.id == self._connect_id:
            return Effects(decision=self._on_connect_rejected(error))
        channel = self._subscribing.pop(error.id or 0, None)
        return NO_EFFECTS if channel is None else self._on_subscribe_rejected(channel, error)

    def _on_connect_rejected(self, error: Error) -> Decision:
        """Decide as on the close code that follows this error; docs/protocol.md#errors names it."""
        reason = f"{error.code}: {error.message}"
        if error.code in CLOSE_ON_ERROR:
            return self._end(CLOSES[CLOSE_ON_ERROR[error.code]], reason, _retry_after(error))
        if error.code in TRANSIENT_ERRORS:
            return self._retry(Backoff.JITTER, at_least=_retry_after(error))
        return self._stop(reason)

    def _on_channel_message(self, message: Message) -> Effects:
        if message.channel not in self.channels:
            return NO_EFFECTS
        if message.message is not None:
            self.advance(message.channel, str(message.message))
        return Effects(messages=(message,))

    def _on_gap(self, gap: Gap) -> Effects:
        if gap.channel not in self.channels:
            return NO_EFFECTS
        if gap.position is not None:
            self.advance(gap.channel, str(gap.position))
        return Effects(resets=(Reset(gap.channel, gap.reason),))

    def _on_unsubscribed(self, push: Unsubscribed) -> Effects:
        if push.id is None and push.code in TRANSIENT_ERRORS:
            # A refreshed token names the channel, and the server could not subscribe the client to it.
            self.channels.setdefault(push.channel, Channel())
            error = Error(ErrorCode(push.code), push.reason or "")
            return self._on_subscribe_rejected(push.channel, error)
        if push.channel not in self.channels:
            return NO_EFFECTS
        kept = self.channels[push.channel]
        if push.code == ErrorCode.TOKEN_EXPIRED and kept.can_fetch_token:
            return self._fetch_channel_token(
                push.channel, kept, Error(ErrorCode.TOKEN_EXPIRED, push.reason or "")
            )
        dropped = self._drop(push.channel, push.code or "", push.reason or "")
        return dropped if push.id is None else NO_EFFECTS

    def _on_ping(self, _: ServerPing) -> Effects:
        return Effects(reply=Pong())

    def _on_expiring(self, _: Expiring) -> Effects:
        return Effects(fetch_token=self._can_fetch_token)

    def _on_reconnect(self, push: Reconnect) -> Effects:
        self._announced_seconds = push.after_ms / 1000
        return NO_EFFECTS

    def _drop(self, channel: str, code: str, reason: str) -> Effects:
        kept = self.channels.pop(channel, Channel())
        return Effects(dropped=(Dropped(channel, code, reason, kept.position),))

    # ------------------------------------------------------------ decisions

    def _end(self, close: Close, reason: str, at_least: float = 0.0) -> Decision:
        if close.reaction is Reaction.RECONNECT:
            return self._retry(close.backoff, at_least=at_least)
        outdated = close.reaction is Reaction.STOP_UNTIL_NEW_TOKEN and not self._fresh_token
        if self._can_fetch_token and (outdated or close.reaction is Reaction.REFRESH_TOKEN):
            return self._retry(close.backoff, at_least=at_least, fetch_token=True)
        return self._stop(reason, until_new_token=close.reaction is not Reaction.STOP)

    def _retry(
        self, backoff: Backoff, *, after: float = 0.0, at_least: float = 0.0, fetch_token: bool = False
    ) -> Decision:
        if backoff is Backoff.ANNOUNCED and self._announced_seconds is not None:
            delay = self._announced_seconds
        else:
            delay = self._jitter(backoff, self.attempt)
        self.attempt += 1
        return self._ended(Input.RETRY, Retry(max(at_least, after + delay), fetch_token))

    def _stop(self, reason: str, *, until_new_token: bool = False) -> Decision:
        return self._ended(Input.STOP, Stop(reason, until_new_token))

    def _ended(self, event: Input, decision: Decision) -> Decision:
        self._move(event)
        self._decision = decision
        self._begun = False
        self.connected = None
        for kept in self.channels.values():
            kept.subscribed = False
        return decision

    def _jitter(self, backoff: Backoff, attempt: int) -> float:
        return self._backoff.bound(backoff, attempt) * self._random()

    def _move(self, event: Input) -> None:
        state = TRANSITIONS.get((self.state, event))
        if state is None:
            raise IllegalTransition(self.state, event)
        self.state = state

    _HANDLERS: ClassVar[Mapping[type, Callable[[ClientState, Any], Effects]]] = {
        Connected: _on_connected,
        Subscribed: _on_subscribed,
        Error: _on_error,
        Message: _on_channel_message,
        Gap: _on_gap,
        Unsubscribed: _on_unsubscribed,
        ServerPing: _on_ping,
        Expiring: _on_expiring,
        Reconnect: _on_reconnect,
    }
    """Who handles each type of server message; the other types leave the state as it is."""


def _retry_after(error: Error) -> float:
    return (error.retry_after_ms or 0) / 1000


def _merged(effects: list[Effects]) -> Effects:
    """Return the effects of several channels as one."""
    return Effects(
        messages=tuple(item for each in effects for item in each.messages),
        resets=tuple(item for each in effects for item in each.resets),
        dropped=tuple(item for each in effects for item in each.dropped),
        retries=tuple(item for each in effects for item in each.retries),
    )
