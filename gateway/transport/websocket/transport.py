"""One WebSocket connection, from the end of its handshake until its socket is closed.

The common case, one complete unfragmented data frame in one read, goes straight to the receiver. Everything
else in RFC 6455 is handled by an `Rfc6455Engine`, which exists only while it is needed: at a frame boundary,
outside of a fragmented message, an engine holds no state that a new one would not have.
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
from collections.abc import Callable
from typing import Any, cast

from websockets.frames import Opcode

from gateway.clock import Clock, monotonic
from gateway.transport.http.lingering_close import close_lingering
from gateway.transport.http.open_connections import ConnectionStage, OpenConnections
from gateway.transport.receiver import Receiver
from gateway.transport.stall_detector import StallDetector
from gateway.transport.tcp_progress import UNKNOWN, TcpProgress, disable_user_timeout, tcp_progress
from gateway.transport.websocket.frame_parser import (
    announced_frame_size,
    is_binary,
    is_complete_data_frame,
    is_fragment,
    is_utf8,
    processable_size,
    unmasked_payload,
)
from gateway.transport.websocket.options import WebSocketOptions
from gateway.transport.websocket.peer_limits import PeerLimits
from gateway.transport.websocket.rfc6455 import Rfc6455Engine
from protocol.errors import CloseCode


class Stage(enum.IntEnum):
    """The stages of a connection, in order."""

    OPEN = 1
    CLOSING = 2
    """A Close was sent or received; no message is delivered any more."""
    CLOSED = 3
    """The socket is closed, or left to `close_lingering`."""


class WebSocketTransport(asyncio.Protocol):
    """One connection: complete messages in, encoded frames out, and a Close frame at the end."""

    __slots__ = (
        "_buffer",
        "_bytes_after_close",
        "_clock",
        "_close_timer",
        "_continuation_scheduled",
        "_engine",
        "_loop",
        "_options",
        "_paused",
        "_peer_limits",
        "_receiver",
        "_server_state",
        "_stage",
        "_stall_detector",
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
        server_state: OpenConnections,
        options: WebSocketOptions,
        peer: str,
        clock: Clock = monotonic,
    ) -> None:
        """Take over the socket *transport* after the handshake; messages are delivered after `attach`.

        Args:
            transport: asyncio's transport of the connection's socket.
            loop: the running event loop.
            server_state: the open connections of the listener, this one among them.
            options: the bounds of the connection.
            peer: the address of the client, behind trusted proxies the one they report.
            clock: measures stalls and the rate of control frames.
        """
        self._transport = transport
        self._loop = loop
        self._server_state = server_state
        self._options = options
        self._clock = clock
        self._receiver: Receiver | None = None
        self._engine: Rfc6455Engine | None = None
        self._peer_limits: PeerLimits | None = None
        self._close_timer: asyncio.TimerHandle | None = None
        self._stall_detector: StallDetector | None = None
        self._stage = Stage.OPEN
        self._buffer = b""
        """Bytes that were read and not handled yet."""
        self._bytes_after_close = 0
        """Bytes that were read since a Close was sent."""
        self._paused = False
        """Whether the receiver has paused reading."""
        self._continuation_scheduled = False
        """Whether the rest of `_buffer` is handled in the next turn of the event loop."""
        self.writable = True
        """False from when asyncio's write buffer exceeds `high_water` until it is below `low_water`."""
        self.write: Callable[[bytes], None] = transport.write
        """Writes complete frames at once; discards them once the connection is no longer open.

        The socket transport's own method while it is open: an extra Python call per write would cost 0.1 µs.
        """
        self.peer = peer
        """The address of the client, behind trusted proxies the one they report."""

    # ------------------------------------------------------------ called by the session

    @property
    def is_open(self) -> bool:
        """Whether frames may still be written."""
        return self._stage is Stage.OPEN

    @property
    def is_attached(self) -> bool:
        """Whether a receiver gets the messages, or did until the connection ended."""
        return self._receiver is not None or self._stage is not Stage.OPEN

    def attach(self, receiver: Receiver) -> None:
        """Deliver every message to *receiver* from now on, including those read since the handshake."""
        self._receiver = receiver
        if self._buffer:
            self._schedule_continuation()

    def buffered(self) -> int:
        """Return the bytes in asyncio's write buffer, without the bytes in the kernel's."""
        return 0 if self._stage is Stage.CLOSED else self._transport.get_write_buffer_size()

    def progress(self) -> TcpProgress:
        """Return how far the bytes of the connection have got."""
        return UNKNOWN if self._is_closing_socket() else tcp_progress(self._transport)

    def pause(self) -> None:
        """Stop reading; once the kernel's receive window is full, the peer has to stop sending."""
        if not self._paused:
            self._paused = True
            self._update_reading()

    def resume(self) -> None:
        """Read again; what was read already is handled first."""
        if self._paused:
            self._paused = False
            if self._buffer:
                self._schedule_continuation()
            self._update_reading()

    def protect(self) -> None:
        """Never close this connection in favour of another: its client has sent `connect`."""
        if self._stage is Stage.OPEN:
            self._server_state.enter(ConnectionStage.CONNECTED, self._transport)

    def close(self, code: int, reason: str = "") -> None:
        """Send a Close frame after what was written, wait for the peer's, then close the socket.

        The receiver is not called any more. A peer that does not answer within the close timeout is aborted.
        """
        if self._stage is not Stage.OPEN:
            return
        self._receiver = None
        self._stage = Stage.CLOSING
        self.write = _discard
        self._server_state.enter(ConnectionStage.CLOSING, self._transport)
        self._write_control(self._ensure_engine().close(code, reason))
        self.resume()  # the peer's Close is awaited
        self._update_reading()
        self._cancel_close_timer()
        self._close_timer = self._loop.call_later(self._options.close_timeout, self.abort)

    def abort(self) -> None:
        """Close the socket at once, without a Close frame: for peers that accept no data."""
        if self._stage is not Stage.CLOSED:
            self._transport.abort()

    def refuse_incomplete_message(self) -> None:
        """Fail the connection: others need the memory that its incomplete message takes."""
        if self._stage is Stage.OPEN:
            self._fail(CloseCode.RATE_LIMITED, "a message was not completed, and memory is short")
        else:
            self.abort()

    # ------------------------------------------------------------ called by uvicorn

    def shutdown(self) -> None:
        """Close because the server stops; never raises (uvicorn calls it on every connection)."""
        receiver = self._receiver
        self.close(CloseCode.DRAIN, "drain")
        if receiver is not None:
            receiver.on_closed(CloseCode.DRAIN)

    # ------------------------------------------------------------ called by asyncio

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Configure the socket *transport* for frames, and register the connection with uvicorn."""
        self._transport = cast("asyncio.Transport", transport)
        # uvloop's default low-water mark is 16 bytes: always name both.
        self._transport.set_write_buffer_limits(self._options.high_water, self._options.low_water)
        disable_user_timeout(self._transport)
        # uvicorn's type names its own protocol classes; all it calls is `shutdown`.
        self._server_state.connections.add(cast("Any", self))

    def data_received(self, data: bytes) -> None:
        """Deliver *data* if it is one complete data frame, else buffer it and parse it frame by frame."""
        receiver = self._receiver
        if receiver is None or self._buffer or self._engine is not None or self._paused:
            self._buffer_and_handle(data)
            return
        if is_complete_data_frame(data, self._options.message_size):
            self._deliver(receiver, unmasked_payload(data), binary=is_binary(data))
        else:
            self._buffer_and_handle(data)

    def eof_received(self) -> None:
        """Let asyncio close the socket: a half-open WebSocket is of no use."""

    def pause_writing(self) -> None:
        """Note that the write buffer is full, and abort if the peer accepts nothing for the stall timeout."""
        self.writable = False
        self._stall_detector = StallDetector(
            self._transport, self._loop, self._clock, self._options.stall_timeout
        )
        if self._receiver is not None:
            self._receiver.on_full()

    def resume_writing(self) -> None:
        """Note that the socket accepts data again."""
        self.writable = True
        self._cancel_stall_detector()
        if self._receiver is not None:
            self._receiver.on_drained()

    def connection_lost(self, exc: Exception | None) -> None:
        """Release everything; the receiver gets code 1006 unless a Close came before."""
        self._notify_closed(1006)
        self._release()
        self._server_state.closed(self._transport)

    # ------------------------------------------------------------ reading: buffered bytes

    def _buffer_and_handle(self, data: bytes) -> None:
        """Buffer *data*, and handle frames up to the bounds of one turn of the event loop."""
        if self._stage is Stage.CLOSED:
            return
        if self._stage is Stage.CLOSING:
            self._bytes_after_close += len(data)
            if self._bytes_after_close > self._options.message_size:
                # The peer ignores our Close; its own Close is not worth reading an unbounded number of bytes.
                self._close_lingering()
                return
        self._buffer = self._buffer + data if self._buffer else data
        if self._receiver is None and self._stage is Stage.OPEN:
            self._update_reading()  # not attached yet: what is buffered until then is bounded by one read
            return
        if not self._continuation_scheduled:
            self._handle_buffer()

    def _handle_buffer(self) -> None:
        """Handle buffered frames until a bound of this turn is reached; leave the rest for later."""
        buffer, self._buffer = self._buffer, b""
        start = frames = 0
        while start < len(buffer) and not self._paused:
            size = processable_size(buffer, start, self._options.message_size)
            if size == 0:
                break
            if is_fragment(buffer[start]) and (delay := self._fragment_delay()):
                self._buffer = buffer[start:]
                self._count_incoming()
                self._schedule_continuation(delay)
                return
            self._handle_frame(buffer[start : start + size])
            start += size
            frames += 1
            if self._is_closing_socket():
                return
            if start < len(buffer) and (
                start >= self._options.read_slice
                or frames >= self._options.read_frames
                or not self._options.frame_budget.take(self._loop)
            ):
                self._buffer = buffer[start:]
                self._schedule_continuation()
                return
        self._buffer = buffer[start:]
        self._count_incoming()
        self._update_reading()

    def _count_incoming(self) -> None:
        """Count the bytes that wait for the rest of a message, in the memory of all connections."""
        incoming = self._options.incoming
        if incoming is not None:
            incoming.count(self, len(self._buffer) + (self._engine.buffered if self._engine else 0))

    def _schedule_continuation(self, delay: float = 0.0) -> None:
        """Handle the rest of the buffer after *delay* seconds; by default, after other connections."""
        if not self._continuation_scheduled:
            self._continuation_scheduled = True
            self._update_reading()
            if delay:
                self._loop.call_later(delay, self._continue)
            else:
                self._loop.call_soon(self._continue)

    def _fragment_delay(self) -> float:
        """Count a frame of a fragmented message; return the seconds until it may be handled, usually 0."""
        if self._stage is not Stage.OPEN:
            return 0.0
        self._peer_limits = limits = self._peer_limits or PeerLimits(self._clock)
        delay = limits.fragment_delay()
        self._server_state.fragments_delayed += bool(delay)
        return delay

    def _continue(self) -> None:
        self._continuation_scheduled = False
        if self._stage is not Stage.CLOSED:
            self._handle_buffer()

    def _update_reading(self) -> None:
        """Read from the socket unless reading is paused or buffered bytes still have to be handled."""
        if self._is_closing_socket():
            return
        unattached = self._receiver is None and self._stage is Stage.OPEN and bool(self._buffer)
        wanted = not (self._paused or self._continuation_scheduled or unattached)
        # asyncio's own transport raises on a second pause or resume, uvloop's does not.
        with contextlib.suppress(RuntimeError):
            if wanted:
                self._transport.resume_reading()
            else:
                self._transport.pause_reading()

    # ------------------------------------------------------------ reading: frame by frame

    def _handle_frame(self, raw: bytes) -> None:
        if (
            self._engine is None
            and self._receiver is not None
            and is_complete_data_frame(raw, self._options.message_size)
        ):
            self._deliver(self._receiver, unmasked_payload(raw), binary=is_binary(raw))
            return
        opcode = raw[0] & 0x0F
        if (
            self._stage is Stage.CLOSING
            and opcode != Opcode.CLOSE
            and announced_frame_size(raw, 0) == len(raw)
        ):
            return  # after our Close only the peer's Close matters, and there may be very many other frames
        if opcode >= Opcode.CLOSE:
            self._peer_limits = limits = self._peer_limits or PeerLimits(self._clock)
            violation = limits.count_control_frame()
            if violation is not None:
                self._fail(CloseCode.PROTOCOL_VIOLATION, violation)
                return
        self._handle_with_engine(raw)

    def _handle_with_engine(self, raw: bytes) -> None:
        """Pass *raw* to the engine and act on the outcome; drop an engine that holds no state afterwards."""
        engine = self._ensure_engine()
        outcome = engine.receive(raw)
        self._write_control(outcome.to_send)
        if outcome.failure_code is not None:
            self._notify_closed(outcome.failure_code)
            self._close_lingering()
        elif outcome.peer_close_code is not None:
            self._notify_closed(outcome.peer_close_code)
            self._close_socket()
        elif outcome.payload is not None and self._receiver is not None:
            self._deliver(self._receiver, outcome.payload, binary=outcome.binary)
        if self._engine is engine and not engine.has_state:
            self._drop_engine()

    def _deliver(self, receiver: Receiver, payload: bytes, *, binary: bool) -> None:
        if binary or is_utf8(payload):
            receiver.on_message(payload, binary=binary)
        else:
            self._fail(CloseCode.INVALID_DATA, "text that is not UTF-8")

    def _ensure_engine(self) -> Rfc6455Engine:
        if self._engine is None:
            self._engine = Rfc6455Engine(self._options.message_size)
        return self._engine

    def _drop_engine(self) -> None:
        engine, self._engine = self._engine, None
        if engine is not None:
            engine.release()

    # ------------------------------------------------------------ closing

    def _write_control(self, frames: bytes) -> None:
        """Write control *frames*; abort a peer that causes many answers (Pongs) and reads none of them."""
        if frames:
            self._transport.write(frames)
        if self._transport.get_write_buffer_size() > self._options.high_water + self._options.control_buffer:
            self._transport.abort()

    def _fail(self, code: int, reason: str) -> None:
        """Fail the connection (RFC 6455 section 7.1.7): send a Close with *reason*, handle no more frames."""
        self._write_control(self._ensure_engine().fail(code, reason))
        self._notify_closed(code)
        self._close_lingering()

    def _close_socket(self) -> None:
        """Close the socket once everything is written, and at the latest after the close timeout."""
        if self._stage is Stage.CLOSED:
            return
        self._stage = Stage.CLOSING
        self.write = _discard
        self._buffer = b""
        self._cancel_close_timer()
        self._server_state.enter(ConnectionStage.CLOSING, self._transport)
        self._transport.close()
        if self._transport.get_write_buffer_size():
            self._close_timer = self._loop.call_later(self._options.close_timeout, self.abort)

    def _close_lingering(self) -> None:
        """Leave the socket to `close_lingering`: the peer can read our Close, its data is discarded."""
        if self._stage is not Stage.CLOSED:
            self._release()
            close_lingering(self._transport, self._server_state, timeout=self._options.close_timeout)

    def _notify_closed(self, code: int) -> None:
        """Report *code* to the receiver, if there still is one, and detach it."""
        receiver, self._receiver = self._receiver, None
        self._stage = max(self._stage, Stage.CLOSING)
        self.write = _discard
        if receiver is not None:
            receiver.on_closed(code)

    def _release(self) -> None:
        """Become `CLOSED`: leave uvicorn's set, cancel timers, free buffers."""
        self._stage = Stage.CLOSED
        self.write = _discard
        self._server_state.connections.discard(cast("Any", self))
        self._cancel_close_timer()
        self._cancel_stall_detector()
        self._buffer = b""
        self._drop_engine()
        if self._options.incoming is not None:
            self._options.incoming.count(self, 0)

    def _is_closing_socket(self) -> bool:
        return self._stage is Stage.CLOSED or self._transport.is_closing()

    def _cancel_close_timer(self) -> None:
        if self._close_timer is not None:
            self._close_timer.cancel()
            self._close_timer = None

    def _cancel_stall_detector(self) -> None:
        if self._stall_detector is not None:
            self._stall_detector.cancel()
            self._stall_detector = None

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.peer} {self._stage.name.lower()}>"


def _discard(_: bytes) -> None:
    """Write nothing: the Close was the last frame."""
