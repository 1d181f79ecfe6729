"""Channels followed across reconnects, as a client ought to: PROTOCOL section 2, the table of close codes."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Final, NoReturn

from websockets.exceptions import ConnectionClosed, InvalidStatus, WebSocketException
from websockets.sync.client import ClientConnection, connect
from websockets.typing import Subprotocol

from gateway import __version__
from gateway.cli.api_client import Refused, Unreachable, is_local, refusal
from protocol.codec import JsonCodec
from protocol.errors import CLOSES, BadRequest, Close, ErrorCode, Reaction
from protocol.messages import (
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
    Subscribed,
    Unsubscribed,
)
from protocol.position import MessageId

FIRST, LONGEST, LONG = 0.5, 30.0, 30.0
"""Seconds: full jitter from `FIRST`, doubling to `LONGEST`; `LONG` and as much again where a code says so."""

_CODEC: Final = JsonCodec()
_UNKNOWN = Close("closed", Reaction.RECONNECT)
_PASSING = {ErrorCode.UNAVAILABLE, ErrorCode.RATE_LIMITED, ErrorCode.INTERNAL}

Token = Callable[[], str | None]
"""Gives a token, None to connect without one."""


@dataclass(frozen=True, slots=True)
class Step:
    """What follows from something that the server said."""

    messages: list[Message] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    answer: ClientMessage | None = None
    again_in: float | None = None
    """Close, and connect again after so many seconds."""


class Following:
    """What a client knows of the channels it follows, from one connection to the next. No I/O."""

    def __init__(
        self,
        channels: Iterable[str],
        *,
        rewind: int | None = None,
        renewable: bool = False,
        random: Callable[[], float] = random.random,
    ) -> None:
        """Follow *channels*, beginning with the last *rewind* messages; a *renewable* token is had again."""
        self._since: dict[str, MessageId | None] = dict.fromkeys(channels)
        self._rewind = rewind
        self._renewable = renewable
        self._random = random
        self._attempt = 0
        self._told = 0.0
        self._commands = 0

    def __repr__(self) -> str:
        return f"<Following {', '.join(self._since)}>"

    def connect(self, token: str | None) -> Connect:
        """Return the command that restores every channel, from where it was left."""
        self._commands = 1
        subs = {
            channel: Resume(since=since, rewind=self._rewind if since is None else None)
            for channel, since in self._since.items()
        }
        return Connect(self._commands, token, ClientInfo("fanway listen", __version__), subs)

    def take(self, event: ServerMessage, token: Token) -> Step:
        """Return what follows from *event*; `Refused` where nothing is left to follow."""
        handler = _HANDLERS.get(type(event))
        if handler is None or getattr(event, "channel", None) not in {None, *self._since}:
            return Step()
        return handler(self, event, token)

    def closed(self, code: int, reason: str) -> float:
        """Return after how many seconds to connect again; `Refused` where that is of no use."""
        close = CLOSES.get(code, _UNKNOWN)
        renewing = close.reaction is Reaction.REFRESH_TOKEN and self._renewable
        if close.reaction is not Reaction.RECONNECT and not renewing:
            raise Refused(f"the gateway closed with {code}: {reason or close.reason}")
        told, self._told = self._told, 0.0
        if close.backoff == "told" and told:
            return told
        return LONG * (1 + self._random()) if close.backoff == "long" else self.lost()

    def lost(self) -> float:
        """Return after how many seconds to try again, once more in vain."""
        most = min(LONGEST, FIRST * 2.0**self._attempt)
        self._attempt = min(self._attempt + 1, 16)
        return most * self._random()

    def on_connected(self, event: Connected, _: Token) -> Step:
        """Take up every channel again."""
        self._attempt = 0
        step = Step(notes=[f"listening as connection {event.connection} on node {event.node}"])
        for channel, since in self._since.items():
            match event.subs.get(channel):
                case Subscribed() as made:
                    self._subscribed(made, since, step)
                case Error() as error:
                    return self._failed(error, f"{channel}: ")
                case None:
                    raise Refused(f"{channel}: the gateway did not subscribe to it")
        return step

    def on_error(self, error: Error, _: Token) -> Step:
        """Try again where that may help."""
        return self._failed(error)

    def on_message(self, message: Message, _: Token) -> Step:
        """Show it, and remember it as the last one."""
        self._passed(message)
        return Step([message])

    def on_gap(self, gap: Gap, _: Token) -> Step:
        """Tell of it, and go on behind it."""
        self._since[gap.channel] = gap.position
        return Step(notes=[f"{gap.channel}: messages are missing here ({gap.reason})"])

    def on_unsubscribed(self, event: Unsubscribed, _: Token) -> Step:
        """Follow the others."""
        del self._since[event.channel]
        line = f"{event.channel}: unsubscribed by the server ({event.reason or event.code or 'no reason'})"
        if not self._since:
            raise Refused(line)
        return Step(notes=[line])

    def on_ping(self, _: ServerPing, __: Token) -> Step:
        """Answer it."""
        return Step(answer=Pong())

    def on_expiring(self, _: Expiring, token: Token) -> Step:
        """Send another token where there is one."""
        fresh = token() if self._renewable else None
        if fresh is None:
            return Step()
        self._commands += 1
        return Step(answer=Refresh(self._commands, fresh))

    def on_reconnect(self, event: Reconnect, _: Token) -> Step:
        """Remember the delay, for when the node closes."""
        self._told = event.after_ms / 1000
        return Step()

    def _subscribed(self, made: Subscribed, since: MessageId | None, step: Step) -> None:
        if since is not None and not made.recovered:
            step.notes.append(
                f"{made.channel}: messages may be missing here (history no longer reaches back)"
            )
        self._since[made.channel] = made.position
        for message in made.messages:
            self._passed(message)
            step.messages.append(message)

    def _passed(self, message: Message) -> None:
        if message.message is not None:
            self._since[message.channel] = message.message

    def _failed(self, error: Error, where: str = "") -> Step:
        line = f"{where}{error.code}: {error.message}"
        if error.code is ErrorCode.TOKEN_EXPIRED and self._renewable:
            return Step(notes=[line], again_in=self.lost())
        if error.code not in _PASSING:
            raise Refused(line)
        return Step(notes=[line], again_in=max((error.retry_after_ms or 0) / 1000, self.lost()))


_HANDLERS: Final[dict[type, Callable[[Following, Any, Token], Step]]] = {
    Connected: Following.on_connected,
    Error: Following.on_error,
    Message: Following.on_message,
    Gap: Following.on_gap,
    Unsubscribed: Following.on_unsubscribed,
    ServerPing: Following.on_ping,
    Expiring: Following.on_expiring,
    Reconnect: Following.on_reconnect,
}


def follow(
    url: str,
    following: Following,
    *,
    token: Token,
    show: Callable[[Message], None],
    tell: Callable[[str], None],
    sleep: Callable[[float], None] = time.sleep,
) -> NoReturn:
    """Give every message to *show* and every remark to *tell*; return never.

    `Refused` when nothing is left to follow, or no reconnect is of use. `Unreachable` where the first attempt
    fails; later ones are repeated until one succeeds.
    """
    reached = False
    while True:
        try:
            with _opened(url) as connection:
                reached = True
                delay = _converse(connection, following, token, show, tell)
        except Unreachable as error:
            if not reached:
                raise
            tell(str(error))
            delay = following.lost()
        tell(f"connecting again in {delay:.1f} s")
        sleep(delay)


def _opened(url: str) -> ClientConnection:
    try:
        return connect(
            url,
            subprotocols=[Subprotocol(_CODEC.subprotocol)],
            compression=None,
            max_size=None,
            close_timeout=1.0,
            proxy=None if is_local(url) else True,
        )
    except InvalidStatus as error:
        line = refusal(error.response.status_code, error.response.body)
        if error.response.status_code in {429, 503}:
            raise Unreachable(url, line) from None
        raise Refused(line) from None
    except (OSError, WebSocketException) as error:
        raise Unreachable(url, error) from None


def _converse(
    connection: ClientConnection,
    following: Following,
    token: Token,
    show: Callable[[Message], None],
    tell: Callable[[str], None],
) -> float:
    """Follow on one connection until it ends; return after how many seconds to open another."""
    try:
        _send(connection, following.connect(token()))
        while True:
            step = _taken(connection.recv(decode=False), following, token)
            for note in step.notes:
                tell(note)
            for message in step.messages:
                show(message)
            if step.again_in is not None:
                return step.again_in
            if step.answer is not None:
                _send(connection, step.answer)
    except ConnectionClosed as error:
        close = error.rcvd
        return following.lost() if close is None else following.closed(close.code, close.reason)


def _taken(received: bytes, following: Following, token: Token) -> Step:
    try:
        event = _CODEC.decode_server_message(received)
    except BadRequest:
        # A newer gateway may say what we do not know yet.
        return Step()
    return following.take(event, token)


def _send(connection: ClientConnection, command: ClientMessage) -> None:
    connection.send(_CODEC.encode_command(command), text=True)


def as_line(message: Message) -> str:
    """Return *message* as one line of JSON."""
    return _CODEC.encode(message).decode()
