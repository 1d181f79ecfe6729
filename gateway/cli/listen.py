"""Receive the messages of some channels, across reconnects. Only I/O is here: `protocol.client` decides."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Container, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass
from typing import Final, NoReturn, Protocol

from websockets.datastructures import Headers
from websockets.exceptions import ConnectionClosed, InvalidStatus, WebSocketException
from websockets.sync.client import connect
from websockets.typing import Subprotocol

from gateway import __version__
from gateway.cli.api_client import Refused, Unreachable, describe_refusal, is_local
from gateway.transport.tcp_progress import received_bytes
from protocol.client import (
    ABNORMAL_CLOSURE,
    NOT_RECOVERED,
    ClientState,
    ConnectionState,
    Decision,
    Dropped,
    Effects,
    Reset,
    Retry,
    Stop,
)
from protocol.codec import JsonCodec
from protocol.errors import BadRequest
from protocol.messages import (
    ClientInfo,
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


@dataclass(frozen=True, slots=True)
class Clock:
    """How time passes for a `ChannelListener`, in seconds."""

    now: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep


SYSTEM_CLOCK: Final = Clock()


class LinkEnded(Exception):
    """The connection ended; *code* is 1006 if there was no Close frame."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(code, reason)
        self.code = code
        self.reason = reason


class HandshakeRejected(Exception):
    """The handshake was answered with HTTP *status*; *retry_after* is in seconds."""

    def __init__(self, status: int, retry_after: float | None, reason: str) -> None:
        super().__init__(reason)
        self.status = status
        self.retry_after = retry_after
        self.reason = reason


class Link(Protocol):
    """One connection. Every method but `close` may raise `LinkEnded`."""

    def send(self, message: bytes) -> None:
        """Send a message."""

    def receive(self, seconds: float) -> bytes | None:
        """Return the next message; None if there is none within *seconds*."""

    def received_bytes(self) -> int:
        """Return how many bytes have arrived so far, whole messages or not."""

    def close(self) -> None:
        """Close the connection."""


class ChannelListener:
    """A client that hands every message of *channels* to *on_message*, and remarks for people to *on_note*.

    Args:
        url: The WebSocket's.
        channels: What to subscribe to.
        rewind: How many of the last messages to begin with.
        tokens: Where tokens come from.
        on_message: Called with every message, in the order of its channel.
        on_note: Called with a line about what happened to the connection or to a channel.
        clock, random, open_link, silence_limit: For tests; the last one returns what `ClientState` says.
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
        clock: Clock = SYSTEM_CLOCK,
        random: Callable[[], float] = random.random,
        open_link: Callable[[str], Link] | None = None,
        silence_limit: Callable[[ClientState], float] = lambda state: state.silence_limit_seconds,
    ) -> None:
        self._url = url
        self._channels = frozenset(channels)
        self._tokens = tokens
        self._on_message = on_message
        self._on_note = on_note
        self._sleep = clock.sleep
        self._now = clock.now
        self._open_link = open_link or WebSocketLink
        self._rejected: Decision | None = None
        """What to do after the handshake that was rejected last."""
        self._due: dict[str, float] = {}
        """When to subscribe again, by channel: refused for the moment, and in no `connect` before that."""
        self._without_token: set[str] = set()
        """Those of them that need another channel token first."""
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
                self._state.begin()
                token = self._tokens.get_token()
                with closing(self._open()) as link:
                    has_connected = True
                    decision = self._converse(link, token)
            except Unreachable as error:
                if not has_connected:
                    raise
                self._on_note(str(error))
                decision = self._rejected or self._state.on_connection_lost()
            if isinstance(decision, Stop):
                raise Refused(decision.reason)
            self._on_note(f"connecting again in {decision.after_seconds:.1f} s")
            self._sleep(decision.after_seconds)

    def _open(self) -> Link:
        self._rejected = None
        try:
            return self._open_link(self._url)
        except HandshakeRejected as error:
            self._rejected = self._state.on_handshake_rejected(
                error.status, retry_after_seconds=error.retry_after, reason=error.reason
            )
            if isinstance(self._rejected, Stop):
                raise Refused(error.reason) from None
            raise Unreachable(self._url, error.reason) from None

    def _converse(self, link: Link, token: str | None) -> Decision:
        """Handle everything that arrives on *link*; return what to do after its end."""
        now = self._now()
        wanted = [channel for channel in self._state.channels if self._due.get(channel, now) <= now]
        command = self._state.connect_command(token, channels=wanted)
        try:
            link.send(_CODEC.encode_command(command))
            while (received := self._receive(link)) is not None:
                decision = self._handle(link, received)
                if decision is not None:
                    return decision
            self._on_note("nothing came from the gateway for too long")
            return self._state.on_connection_lost()
        except LinkEnded as error:
            return self._state.on_closed(error.code, error.reason)

    def _receive(self, link: Link) -> bytes | None:
        """Return the next message; None if no byte of one comes for too long."""
        limit = self._silence_limit(self._state)
        heard, size = self._now(), link.received_bytes()
        while True:
            self._subscribe_due(link)
            deadlines = [heard + limit, *(self._due.values() if self._connected else ())]
            received = link.receive(max(0.0, min(deadlines) - self._now()))
            if received is not None:
                return received
            if size < (size := link.received_bytes()):
                heard = self._now()
            elif self._now() >= heard + limit:
                return None

    @property
    def _connected(self) -> bool:
        return self._state.state is ConnectionState.CONNECTED

    def _handle(self, link: Link, received: bytes) -> Decision | None:
        """Handle one frame; return how to go on where this connection is of no more use."""
        try:
            message = _CODEC.decode_server_message(received)
        except BadRequest:
            # A newer gateway may send types that this version does not know.
            return None
        effects = self._state.on_message(message)
        self._report(message, effects)
        if effects.reply is not None:
            link.send(_CODEC.encode_command(effects.reply))
        if effects.fetch_token and (token := self._tokens.get_token()) is not None:
            link.send(_CODEC.encode_command(self._state.refresh_command(token)))
        for retry in effects.retries:
            self._due[retry.channel] = self._now() + retry.after_seconds
            if retry.fetch_token:
                self._without_token.add(retry.channel)
        self._subscribe_due(link)
        return effects.decision

    def _subscribe_due(self, link: Link) -> None:
        """Subscribe again where the delay after a refusal has passed."""
        now = self._now()
        for channel in [channel for channel, due in self._due.items() if due <= now and self._connected]:
            del self._due[channel]
            if channel in self._without_token:
                self._without_token.remove(channel)
                self._state.set_channel_token(channel, self._tokens.get_channel_token(channel))
            link.send(_CODEC.encode_command(self._state.subscribe_command(channel)))

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


class WebSocketLink:
    """A WebSocket of the library `websockets`: raises `HandshakeRejected` or `Unreachable`."""

    def __init__(self, url: str) -> None:
        self._closing = ExitStack()
        try:
            opening = connect(
                url,
                subprotocols=[Subprotocol(_CODEC.subprotocol)],
                compression=None,
                max_size=None,
                close_timeout=CLOSE_TIMEOUT_SECONDS,
                ping_interval=None,  # its answer would wait behind whatever the gateway sends
                proxy=None if is_local(url) else True,
            )
            self._connection = self._closing.enter_context(opening)
        except InvalidStatus as error:
            status, headers = error.response.status_code, error.response.headers
            reason = describe_refusal(status, error.response.body)
            raise HandshakeRejected(status, _retry_after(headers), reason) from None
        except (OSError, WebSocketException) as error:
            raise Unreachable(url, error) from None

    def send(self, message: bytes) -> None:
        with _ends():
            self._connection.send(message, text=True)

    def receive(self, seconds: float) -> bytes | None:
        with _ends(), suppress(TimeoutError):
            return self._connection.recv(seconds, decode=False)
        return None

    def received_bytes(self) -> int:
        return received_bytes(self._connection.socket)

    def close(self) -> None:
        self._closing.close()


@contextmanager
def _ends() -> Iterator[None]:
    try:
        yield
    except ConnectionClosed as error:
        close = error.rcvd
        raise LinkEnded(*((ABNORMAL_CLOSURE, "") if close is None else (close.code, close.reason))) from None


def _retry_after(headers: Headers) -> float | None:
    """Return the header Retry-After in seconds; None where it is absent or a date."""
    with suppress(KeyError, ValueError):
        return float(headers["Retry-After"])
    return None


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


def as_line(message: Message) -> str:
    """Return *message* as one line of JSON."""
    return _CODEC.encode(message).decode()
