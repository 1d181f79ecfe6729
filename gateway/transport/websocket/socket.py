"""The socket of a link: what is written to it, whether it takes that, and every way in which it ends."""

from __future__ import annotations

import asyncio
import enum
from collections.abc import Callable
from typing import Any, Protocol, cast

from uvicorn.server import ServerState

from gateway.clock import Clock, monotonic
from gateway.transport.http.lingering_close import close_lingering
from gateway.transport.stall_detector import StallDetector
from gateway.transport.websocket.options import WebSocketOptions
from gateway.transport.websocket.rfc6455 import Rfc6455Engine
from protocol.errors import CloseCode


class Receiver(Protocol):
    """Who a link hands its messages to."""

    def on_message(self, payload: bytes, *, binary: bool) -> None:
        """Take one whole message; text has been checked to be UTF-8."""

    def on_drained(self) -> None:
        """The socket takes more after `writable` was False."""

    def on_closed(self, code: int) -> None:
        """The peer closed with *code*, or the socket broke (1006): once, and nothing comes after it."""


class Stage(enum.IntEnum):
    """How far a link has come."""

    OPEN = 1
    CLOSING = 2
    """We or the peer sent a Close; nothing is delivered any more."""
    CLOSED = 3


class Socket(asyncio.Protocol):
    """One connection, but for what it reads: raw frames out, always a Close frame at the end."""

    __slots__ = (
        "_clock",
        "_core",
        "_deadline",
        "_loop",
        "_options",
        "_receiver",
        "_server_state",
        "_stage",
        "_stall",
        "_transport",
        "peer",
        "writable",
        "write",
    )

    def __init__(
        self,
        transport: asyncio.Transport,
        *,
        loop: asyncio.AbstractEventLoop,
        server_state: ServerState,
        options: WebSocketOptions,
        peer: str,
        clock: Clock = monotonic,
    ) -> None:
        """Take over *transport* after the handshake."""
        self._transport = transport
        self._loop = loop
        self._server_state = server_state
        self._options = options
        self._clock = clock
        self._receiver: Receiver | None = None
        self._core: Rfc6455Engine | None = None
        self._deadline: asyncio.TimerHandle | None = None
        self._stall: StallDetector | None = None
        self._stage = Stage.OPEN
        self.writable = True
        self.write: Callable[[bytes], None] = transport.write
        """Sends whole frames at once; drops them once the link is no longer open.

        The transport's own method while it is: a Python frame on every delivery would cost 0.1 µs.
        """
        self.peer = peer
        """The address of the client, behind trusted proxies its own."""

    # ------------------------------------------------------------ for the session

    @property
    def is_open(self) -> bool:
        """Whether frames may still be written."""
        return self._stage is Stage.OPEN

    def buffered(self) -> int:
        """Return the bytes that wait in the transport, beyond the kernel's buffer."""
        return 0 if self._stage is Stage.CLOSED else self._transport.get_write_buffer_size()

    def close(self, code: int, reason: str = "") -> None:
        """Send a Close frame behind what was written, wait for the peer's, then close the socket.

        The receiver hears nothing more. A peer that does not answer within the close timeout is aborted.
        """
        if self._stage is not Stage.OPEN:
            return
        self._receiver = None
        self._stage = Stage.CLOSING
        self.write = _drop
        self._answer(self._needed_core().close(code, reason))
        self._read_on()
        self._cancel_deadline()
        self._deadline = self._loop.call_later(self._options.close_timeout, self.abort)

    def abort(self) -> None:
        """End the socket at once, without a Close frame: for peers that take nothing."""
        if self._stage is not Stage.CLOSED:
            self._transport.abort()

    def shutdown(self) -> None:
        """Close because the server stops; never raises (uvicorn calls it on every connection)."""
        receiver = self._receiver
        self.close(CloseCode.DRAIN, "drain")
        if receiver is not None:
            receiver.on_closed(CloseCode.DRAIN)

    # ------------------------------------------------------------ for the transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin on *transport*, set up for frames."""
        self._transport = cast("asyncio.Transport", transport)
        # uvloop's default low-water mark is 16 bytes: always name both.
        self._transport.set_write_buffer_limits(self._options.high_water, self._options.low_water)
        # uvicorn's type names its own protocol classes; all it calls is `shutdown`.
        self._server_state.connections.add(cast("Any", self))

    def pause_writing(self) -> None:
        """Note that the socket is full, and watch whether it takes anything at all."""
        self.writable = False
        self._stall = StallDetector(self._transport, self._loop, self._clock, self._options.stall_timeout)

    def resume_writing(self) -> None:
        """Note that the socket takes more."""
        self.writable = True
        self._cancel_stall()
        if self._receiver is not None:
            self._receiver.on_drained()

    def eof_received(self) -> None:
        """Let the transport close: half-open WebSockets have no use."""

    def connection_lost(self, exc: Exception | None) -> None:
        """End everything; the receiver hears 1006 unless a Close came before."""
        self._lose(1006)
        self._let_go()

    # ------------------------------------------------------------ for what reads

    def _read_on(self) -> None:
        """Read whatever the peer still sends: its Close is awaited."""

    def _forget_unread(self) -> None:
        """Keep nothing of what was read."""

    def _needed_core(self) -> Rfc6455Engine:
        if self._core is None:
            self._core = Rfc6455Engine(self._options.message_size)
        return self._core

    def _drop_core(self) -> None:
        core, self._core = self._core, None
        if core is not None:
            core.forget()

    def _is_over(self) -> bool:
        return self._stage is Stage.CLOSED or self._transport.is_closing()

    def _answer(self, frames: bytes) -> None:
        """Send what RFC 6455 wants sent; abort a peer that makes us say very much and reads nothing."""
        if frames:
            self._transport.write(frames)
        if self._transport.get_write_buffer_size() > self._options.high_water + self._options.control_buffer:
            self._transport.abort()

    # ------------------------------------------------------------ the end

    def _fail(self, code: int, reason: str) -> None:
        """Close for what the peer did; it is told, and not listened to any more."""
        self._answer(self._needed_core().fail(code, reason))
        self._lose(code)
        self._part()

    def _finish(self) -> None:
        """Close the socket once what was written is out, and at the latest after the close timeout."""
        if self._stage is Stage.CLOSED:
            return
        self._stage = Stage.CLOSING
        self.write = _drop
        self._forget_unread()
        self._cancel_deadline()
        self._transport.close()
        if self._transport.get_write_buffer_size():
            self._deadline = self._loop.call_later(self._options.close_timeout, self.abort)

    def _part(self) -> None:
        """Leave the socket to its end: the peer is told what it did and not listened to any more."""
        if self._stage is not Stage.CLOSED:
            self._let_go()
            close_lingering(self._transport, self._server_state, timeout=self._options.close_timeout)

    def _let_go(self) -> None:
        self._stage = Stage.CLOSED
        self.write = _drop
        self._server_state.connections.discard(cast("Any", self))
        self._cancel_deadline()
        self._cancel_stall()
        self._forget_unread()
        self._drop_core()

    def _lose(self, code: int) -> None:
        receiver, self._receiver = self._receiver, None
        self._stage = max(self._stage, Stage.CLOSING)
        self.write = _drop
        if receiver is not None:
            receiver.on_closed(code)

    def _cancel_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _cancel_stall(self) -> None:
        if self._stall is not None:
            self._stall.over()
            self._stall = None

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.peer} {self._stage.name.lower()}>"


def _drop(_: bytes) -> None:
    """Write nothing: a Close was the last frame."""
