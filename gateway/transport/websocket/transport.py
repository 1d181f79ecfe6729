"""The link: one WebSocket from the end of its handshake to the end of its socket.

The common case, one whole unfragmented data frame in one read, goes straight to the receiver. Everything else
RFC 6455 has is left to a `Core`, which exists only while it is needed: at a frame boundary, outside of a
fragmented message, it holds nothing that a new one would not.
"""

from __future__ import annotations

import asyncio
import contextlib

from uvicorn.server import ServerState
from websockets.frames import Opcode

from gateway.clock import Clock, monotonic
from gateway.transport.websocket.frame_parser import (
    available,
    frame_size,
    is_binary,
    is_plain,
    is_utf8,
    unmasked,
)
from gateway.transport.websocket.options import WebSocketOptions
from gateway.transport.websocket.peer_limits import PeerLimits
from gateway.transport.websocket.socket import Receiver, Socket, Stage
from protocol.errors import CloseCode


class WebSocketTransport(Socket):
    """One connection: whole messages in, raw frames out, always a Close frame at the end."""

    __slots__ = ("_buffer", "_guard", "_paused", "_resuming", "_unheard")

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
        """Take over *transport* after the handshake; `attach` makes it begin."""
        super().__init__(
            transport, loop=loop, server_state=server_state, options=options, peer=peer, clock=clock
        )
        self._guard: PeerLimits | None = None
        self._buffer = b""
        self._paused = False
        self._resuming = False
        self._unheard = 0

    # ------------------------------------------------------------ for the session

    def attach(self, receiver: Receiver) -> None:
        """Hand every message to *receiver* from now on, those included that arrived since the handshake."""
        self._receiver = receiver
        if self._buffer:
            self._continue_soon()

    @property
    def is_attached(self) -> bool:
        """Whether somebody receives its messages, or did until it ended."""
        return self._receiver is not None or self._stage is not Stage.OPEN

    def pause(self) -> None:
        """Stop reading; the kernel's window then stops the peer."""
        if not self._paused:
            self._paused = True
            self._set_reading()

    def resume(self) -> None:
        """Read again, what is already here first."""
        if self._paused:
            self._paused = False
            if self._buffer:
                self._continue_soon()
            self._set_reading()

    # ------------------------------------------------------------ the common case

    def data_received(self, data: bytes) -> None:
        """Deliver *data* if it is one whole plain message, else take it apart."""
        receiver = self._receiver
        if receiver is None or self._buffer or self._core is not None or self._paused:
            self._take_apart(data)
            return
        if is_plain(data, self._options.message_size):
            self._deliver(receiver, unmasked(data), binary=is_binary(data))
        else:
            self._take_apart(data)

    def _deliver(self, receiver: Receiver, payload: bytes, *, binary: bool) -> None:
        if binary or is_utf8(payload):
            receiver.on_message(payload, binary=binary)
        else:
            self._fail(CloseCode.INVALID_DATA, "text that is not UTF-8")

    # ------------------------------------------------------------ a slice at a time

    def _take_apart(self, data: bytes) -> None:
        """Handle at most a slice of what is here, then let others have their turn."""
        if self._stage is Stage.CLOSED:
            return
        if self._stage is Stage.CLOSING:
            self._unheard += len(data)
            if self._unheard > self._options.message_size:
                self._part()  # it goes on as if it had not been told: its Close is not worth reading all that
                return
        self._buffer = self._buffer + data if self._buffer else data
        if self._receiver is None and self._stage is Stage.OPEN:
            self._set_reading()  # not attached yet: what comes before that is bounded by one read
            return
        if not self._resuming:
            self._handle_slice()

    def _handle_slice(self) -> None:
        buffer, self._buffer = self._buffer, b""
        start = frames = 0
        while start < len(buffer) and not self._paused:
            size = available(buffer, start, self._options.message_size)
            if size == 0:
                break
            self._handle_frame(buffer[start : start + size])
            start += size
            frames += 1
            if self._is_over():
                return
            if start < len(buffer) and (
                start >= self._options.read_slice or frames >= self._options.read_frames
            ):
                self._buffer = buffer[start:]
                self._continue_soon()
                return
        self._buffer = buffer[start:]
        self._set_reading()

    def _continue_soon(self) -> None:
        if not self._resuming:
            self._resuming = True
            self._set_reading()
            self._loop.call_soon(self._continue)

    def _continue(self) -> None:
        self._resuming = False
        if self._stage is not Stage.CLOSED:
            self._handle_slice()

    def _set_reading(self) -> None:
        """Read from the socket unless somebody paused it or there is still work here."""
        if self._is_over():
            return
        waiting = self._receiver is None and self._stage is Stage.OPEN and bool(self._buffer)
        wanted = not (self._paused or self._resuming or waiting)
        with contextlib.suppress(
            RuntimeError
        ):  # asyncio's own transport minds a second pause, uvloop's does not
            if wanted:
                self._transport.resume_reading()
            else:
                self._transport.pause_reading()

    def _read_on(self) -> None:
        if self._paused:
            self.resume()
        self._set_reading()

    def _forget_unread(self) -> None:
        self._buffer = b""

    # ------------------------------------------------------------ frame by frame

    def _handle_frame(self, raw: bytes) -> None:
        if self._core is None and self._receiver is not None and is_plain(raw, self._options.message_size):
            self._deliver(self._receiver, unmasked(raw), binary=is_binary(raw))
            return
        opcode, final = raw[0] & 0x0F, bool(raw[0] & 0x80)
        if self._stage is Stage.CLOSING and opcode != Opcode.CLOSE and frame_size(raw, 0) == len(raw):
            return  # nobody hears it, our Close is our last word, and it may be one of very many
        if opcode >= Opcode.CLOSE or not final or opcode == Opcode.CONT:
            self._guard = self._guard or PeerLimits(self._clock)
            too_much = self._guard.control() if opcode >= Opcode.CLOSE else self._guard.fragment(last=final)
            if too_much is not None:
                self._fail(CloseCode.PROTOCOL_VIOLATION, too_much)
                return
        self._consult(raw)

    def _consult(self, raw: bytes) -> None:
        """Do what the core says of *raw*; forget the core where it has nothing to remember."""
        core = self._needed_core()
        heard = core.take(raw)
        self._answer(heard.answer)
        if heard.failed is not None:
            self._lose(heard.failed)
            self._part()
        elif heard.closed is not None:
            self._lose(heard.closed)
            self._finish()
        elif heard.payload is not None and self._receiver is not None:
            self._deliver(self._receiver, heard.payload, binary=heard.binary)
        if self._core is core and not core.busy:
            self._drop_core()
