"""Receive the messages of some channels, across reconnects. Only I/O is here: `protocol.client` decides."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Container, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final, NoReturn

from websockets.datastructures import Headers
from websockets.exceptions import ConnectionClosed, InvalidStatus, WebSocketException
from websockets.sync.client import ClientConnection, connect
from websockets.typing import Subprotocol

from gateway import __version__
from gateway.cli.api_client import Refused, Unreachable, describe_refusal, is_local
from gateway.transport.tcp_progress import received_bytes
from protocol.client import NOT_RECOVERED, ClientState, Decision, Dropped, Effects, Reset, Retry, Stop
from protocol.codec import JsonCodec
from protocol.errors import BadRequest
from protocol.messages import (
    ClientInfo,
    ClientMessage,
    Connected,
    Error,
    Message,
    ServerMessage,
    Unsubscribed,
)

CLOSE_TIMEOUT_SECONDS = 1.0
"""How long a gateway may take to answer a Close frame of ours."""

_CODEC: Final = JsonCodec()


@dataclass(frozen=True, slots=True)
class TokenSource:
    """Where the tokens of a `ChannelListener` come from."""

    get_token: Callable[[], str | None] = lambda: None
    """Returns a token, None to connect without one; called before every connect."""
    can_fetch_token: bool = False
    """Whether `get_token` returns a new token each time."""
    get_channel_token: Callable[[str], str | None] = lambda _: None
    """Returns a new token for a channel, None for a channel that wants none; called at first, and when the
    gateway says that a channel token has expired."""


class ChannelListener:
    """A client that hands every message of *channels* to *on_message*, and remarks for people to *on_note*.

    Args:
        url: The WebSocket's.
        channels: What to subscribe to.
        rewind: How many of the last messages to begin with.
        tokens: Where tokens come from.
        on_message: Called with every message, in the order of its channel.
        on_note: Called with a line about what happened to the connection or to a channel.
        sleep, random, silence_limit: For tests; the last one returns what `ClientState` says.
    """

    def __init__(
        self,
        url: str,
        channels: Sequence[str],
        *,
        tokens: TokenSource,
        on_message: Callable[[Message], None],
        on_note: Callable[[str], None],
        rewind: int | None = None,
        sleep: Callable[[float], None] = time.sleep,
        random: Callable[[], float] = random.random,
        silence_limit: Callable[[ClientState], float] = lambda state: state.silence_limit_seconds,
    ) -> None:
        self._url = url
        self._channels = frozenset(channels)
        self._tokens = tokens
        self._on_message = on_message
        self._on_note = on_note
        self._sleep = sleep
        self._silence_limit = silence_limit
        self._state = ClientState(
            channels,
            random=random,
            rewind=rewind,
            can_fetch_token=tokens.can_fetch_token,
            info=ClientInfo("fanway listen", __version__),
        )
        for channel in channels:
            token = tokens.get_channel_token(channel)
            self._state.add(channel, token=token, rewind=rewind, can_fetch_token=token is not None)

    def __repr__(self) -> str:
        return f"<ChannelListener {self._url} {self._state}>"

    def run(self) -> NoReturn:
        """Listen until that is of no use any more.

        Raises:
            Refused: The gateway refused the connection or a channel for good, or ended the last subscription.
            Unreachable: The first attempt failed; later ones are repeated until one succeeds.
        """
        has_connected = False
        while True:
            try:
                connect_command = self._state.connect_command(self._tokens.get_token())
                with self._open() as connection:
                    has_connected = True
                    decision = self._converse(connection, connect_command)
            except Unreachable as error:
                if not has_connected:
                    raise
                self._on_note(str(error))
                decision = self._state.on_connection_lost()
            if isinstance(decision, Stop):
                raise Refused(decision.reason)
            self._on_note(f"connecting again in {decision.after_seconds:.1f} s")
            self._sleep(decision.after_seconds)

    def _open(self) -> ClientConnection:
        try:
            return connect(
                self._url,
                subprotocols=[Subprotocol(_CODEC.subprotocol)],
                compression=None,
                max_size=None,
                close_timeout=CLOSE_TIMEOUT_SECONDS,
                ping_interval=None,  # its answer would wait behind whatever the gateway sends
                proxy=None if is_local(self._url) else True,
            )
        except InvalidStatus as error:
            response = error.response
            reason = describe_refusal(response.status_code, response.body)
            decision = self._state.on_handshake_rejected(
                response.status_code, retry_after_seconds=_retry_after(response.headers), reason=reason
            )
            if isinstance(decision, Stop):
                raise Refused(reason) from None
            raise Unreachable(self._url, reason) from None
        except (OSError, WebSocketException) as error:
            raise Unreachable(self._url, error) from None

    def _converse(self, connection: ClientConnection, connect_command: ClientMessage) -> Decision:
        """Handle everything that arrives on *connection*; return what to do after its end."""
        try:
            _send(connection, connect_command)
            while (received := self._receive(connection)) is not None:
                decision = self._handle(connection, received)
                if decision is not None:
                    return decision
            self._on_note("nothing came from the gateway for too long")
            return self._state.on_connection_lost()
        except ConnectionClosed as error:
            close = error.rcvd
            if close is None:
                return self._state.on_connection_lost()
            return self._state.on_closed(close.code, close.reason)

    def _receive(self, connection: ClientConnection) -> bytes | None:
        """Return the next message; None if no byte of one comes for too long."""
        size = -1
        while size < (size := received_bytes(connection.socket)):
            with suppress(TimeoutError):
                return connection.recv(self._silence_limit(self._state), decode=False)
        return None

    def _handle(self, connection: ClientConnection, received: bytes) -> Decision | None:
        """Handle one frame; return how to go on where this connection is of no more use."""
        try:
            message = _CODEC.decode_server_message(received)
        except BadRequest:
            # A newer gateway may send types that this version does not know.
            return None
        effects = self._state.on_message(message)
        self._report(message, effects)
        if effects.reply is not None:
            _send(connection, effects.reply)
        if effects.fetch_token and (token := self._tokens.get_token()) is not None:
            _send(connection, self._state.refresh_command(token))
        return self._retry_subscriptions(connection, effects) or effects.decision

    def _retry_subscriptions(self, connection: ClientConnection, effects: Effects) -> Retry | None:
        """Subscribe again where only a channel token had expired; return how to go on for other reasons."""
        later = [retry for retry in effects.retries if not retry.fetch_token or retry.after_seconds]
        for retry in effects.retries:
            if retry.fetch_token:
                self._state.set_channel_token(retry.channel, self._tokens.get_channel_token(retry.channel))
            if retry not in later:
                _send(connection, self._state.subscribe_command(retry.channel))
        if not later:
            return None
        # A new connection restores every channel in one round trip, and no timer is needed beside recv.
        self._state.on_connection_lost()
        return Retry(max(retry.after_seconds for retry in later))

    def _report(self, message: ServerMessage, effects: Effects) -> None:
        for line in notes(message, effects, self._channels):
            self._on_note(line)
        for dropped in effects.dropped:
            if dropped.channel in self._channels:
                self._on_dropped(dropped, by_push=isinstance(message, Unsubscribed))
        for each in effects.messages:
            if each.channel in self._channels:
                self._on_message(each)

    def _on_dropped(self, dropped: Dropped, *, by_push: bool) -> None:
        """Raise `Refused` where a channel could not be subscribed to, or where it was the last one."""
        if not by_push:
            raise Refused(": ".join(filter(None, (dropped.channel, dropped.code, dropped.reason))))
        reason = dropped.reason or dropped.code or "no reason"
        line = f"{dropped.channel}: unsubscribed by the server ({reason})"
        if not self._channels & self._state.channels.keys():
            raise Refused(line)
        self._on_note(line)


def notes(message: ServerMessage, effects: Effects, channels: Container[str]) -> list[str]:
    """Return what to say to people about *message* and its *effects* on *channels*."""
    lines = []
    if isinstance(message, Connected):
        lines.append(f"listening as connection {message.connection} on node {message.node}")
    if isinstance(message, Error) and isinstance(effects.decision, Retry):
        lines.append(f"{message.code}: {message.message}")
    lines += [_missing(reset) for reset in effects.resets if reset.channel in channels]
    lines += [
        f"{retry.channel}: {retry.error.code}: {retry.error.message}"
        for retry in effects.retries
        if retry.after_seconds or not retry.fetch_token
    ]
    return lines


def _missing(reset: Reset) -> str:
    if reset.reason == NOT_RECOVERED:
        return f"{reset.channel}: messages may be missing here (history no longer reaches back)"
    return f"{reset.channel}: messages are missing here ({reset.reason})"


def _retry_after(headers: Headers) -> float | None:
    """Return the header Retry-After in seconds; None where it is absent or a date."""
    with suppress(KeyError, ValueError):
        return float(headers["Retry-After"])
    return None


def _send(connection: ClientConnection, command: ClientMessage) -> None:
    connection.send(_CODEC.encode_command(command), text=True)


def as_line(message: Message) -> str:
    """Return *message* as one line of JSON."""
    return _CODEC.encode(message).decode()
