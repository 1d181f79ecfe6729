"""The link: one WebSocket from the end of its handshake to the end of its socket.

The common case, one whole unfragmented data frame in one read, goes straight to the receiver. Everything else
RFC 6455 has (fragments, control frames, closing, errors) is left to the sans-I/O core of `websockets`, which
exists only while it is needed: at a frame boundary, outside of a fragmented message, it holds nothing that a
new one would not.
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
from collections.abc import Callable
from typing import Any, Protocol, cast

from uvicorn.server import ServerState
from websockets.frames import Frame, Opcode
from websockets.protocol import Protocol as Core
from websockets.protocol import Side
from websockets.protocol import State as CoreState

from gateway.clock import Clock, monotonic
from gateway.link.farewell import part
from gateway.link.guard import Guard
from gateway.link.options import LinkOptions
from gateway.link.plain import available, close_reason, frame_size, is_binary, is_plain, is_utf8, unmasked
from gateway.link.stall import Stall
from protocol.errors import CloseCode


class Receiver(Protocol):
    """Who a link hands its messages to."""

    def received(self, payload: bytes, *, binary: bool) -> None:
        """Take one whole message; text has been checked to be UTF-8."""

    def drained(self) -> None:
        """The socket takes more after `writable` was False."""

    def lost(self, code: int) -> None:
        """The peer closed with *code*, or the socket broke (1006): once, and nothing comes after it."""


class Stage(enum.IntEnum):
    """How far a link has come."""

    OPEN = 1
    CLOSING = 2
    """We or the peer sent a Close; nothing is delivered any more."""
    CLOSED = 3


class Link(asyncio.Protocol):
    """One connection: whole messages in, raw frames out, always a Close frame at the end."""

    __slots__ = (
        "_buffer",
        "_clock",
        "_core",
        "_deadline",
        "_fragments",
        "_guard",
        "_loop",
        "_options",
        "_paused",
        "_receiver",
        "_resuming",
        "_server_state",
        "_stage",
        "_stall",
        "_transport",
        "_unheard",
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
        options: LinkOptions,
        peer: str,
        clock: Clock = monotonic,
    ) -> None:
        """Take over *transport* after the handshake; `attach` makes it begin."""
        self._transport = transport
        self._loop = loop
        self._server_state = server_state
        self._options = options
        self._clock = clock
        self._receiver: Receiver | None = None
        self._core: Core | None = None
        self._guard: Guard | None = None
        self._buffer = b""
        self._fragments: list[bytes] | None = None
        self._deadline: asyncio.TimerHandle | None = None
        self._stall: Stall | None = None
        self._stage = Stage.OPEN
        self._paused = False
        self._resuming = False
        self._unheard = 0
        self.writable = True
        self.write: Callable[[bytes], None] = transport.write
        """Sends whole frames at once; drops them once the link is no longer open.

        The transport's own method while it is: a Python frame on every delivery would cost 0.1 µs.
        """
        self.peer = peer
        """The address of the client, behind trusted proxies its own."""

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

    @property
    def is_open(self) -> bool:
        """Whether frames may still be written."""
        return self._stage is Stage.OPEN

    def buffered(self) -> int:
        """Return the bytes that wait in the transport, beyond the kernel's buffer."""
        return 0 if self._stage is Stage.CLOSED else self._transport.get_write_buffer_size()

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

    def close(self, code: int, reason: str = "") -> None:
        """Send a Close frame behind what was written, wait for the peer's, then close the socket.

        The receiver hears nothing more. A peer that does not answer within the close timeout is aborted.
        """
        if self._stage is not Stage.OPEN:
            return
        self._receiver = None
        core = self._needed_core()
        if core.state is CoreState.OPEN:
            core.send_close(code, close_reason(reason))
        self._start_closing()

    def abort(self) -> None:
        """End the socket at once, without a Close frame: for peers that take nothing."""
        if self._stage is not Stage.CLOSED:
            self._transport.abort()

    def shutdown(self) -> None:
        """Close because the server stops; never raises (uvicorn calls it on every connection)."""
        receiver = self._receiver
        self.close(CloseCode.DRAIN, "drain")
        if receiver is not None:
            receiver.lost(CloseCode.DRAIN)

    # ------------------------------------------------------------ for the transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin on *transport*, set up for frames."""
        self._transport = cast("asyncio.Transport", transport)
        # uvloop's default low-water mark is 16 bytes: always name both.
        self._transport.set_write_buffer_limits(self._options.high_water, self._options.low_water)
        # uvicorn's type names its own protocol classes; all it calls is `shutdown`.
        self._server_state.connections.add(cast("Any", self))

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
            receiver.received(payload, binary=binary)
        else:
            self._fail(CloseCode.INVALID_DATA, "text that is not UTF-8")

    def pause_writing(self) -> None:
        """Note that the socket is full, and watch whether it takes anything at all."""
        self.writable = False
        self._stall = Stall(self._transport, self._loop, self._clock, self._options.stall_timeout)

    def resume_writing(self) -> None:
        """Note that the socket takes more."""
        self.writable = True
        self._cancel_stall()
        if self._receiver is not None:
            self._receiver.drained()

    def eof_received(self) -> None:
        """Let the transport close: half-open WebSockets have no use."""

    def connection_lost(self, exc: Exception | None) -> None:
        """End everything; the receiver hears 1006 unless a Close came before."""
        self._lose(1006)
        self._let_go()

    # ------------------------------------------------------------ everything but the common case

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

    def _handle_frame(self, raw: bytes) -> None:
        if self._core is None and self._receiver is not None and is_plain(raw, self._options.message_size):
            self._deliver(self._receiver, unmasked(raw), binary=is_binary(raw))
            return
        opcode, final = raw[0] & 0x0F, bool(raw[0] & 0x80)
        if self._stage is Stage.CLOSING and opcode != Opcode.CLOSE and frame_size(raw, 0) == len(raw):
            return  # nobody hears it, our Close is our last word, and it may be one of very many
        if opcode >= Opcode.CLOSE or not final or opcode == Opcode.CONT:
            self._guard = self._guard or Guard(self._clock)
            too_much = self._guard.control() if opcode >= Opcode.CLOSE else self._guard.fragment(last=final)
            if too_much is not None:
                self._fail(CloseCode.PROTOCOL_VIOLATION, too_much)
                return
        if opcode >= Opcode.CLOSE and self._fragments is not None:
            self._interrupt(raw)
        else:
            self._consult(raw)

    def _interrupt(self, raw: bytes) -> None:
        """Handle a control frame between the fragments of a message, with a core that knows of no message.

        The one that does would count what a ping carries as part of the message, and call it too big; and a
        Close a fault, though a peer may close within a message (Autobahn 7.1.5).
        """
        message = self._core, self._fragments
        self._core = self._fragments = None
        self._consult(raw)
        if self._stage is Stage.OPEN:
            self._core, self._fragments = message
        else:
            _release(message[0])

    def _consult(self, raw: bytes) -> None:
        """Let the core say what *raw* is; forget the core where it has nothing to remember."""
        core = self._needed_core()
        core.receive_data(raw)
        events = core.events_received()
        self._send_of_core(core)
        for event in events:
            if isinstance(event, Frame):
                self._handle_event(event)
        if self._core is core and core.parser_exc is not None:
            self._lose(_code_sent(core))
            self._part()
        elif core.state is CoreState.OPEN and self._fragments is None:
            self._drop_core()

    def _handle_event(self, event: Frame) -> None:
        if event.opcode is Opcode.CLOSE:
            self._handle_close()
        elif self._stage is Stage.OPEN and event.opcode in (Opcode.TEXT, Opcode.BINARY, Opcode.CONT):
            self._handle_data(event)

    def _handle_data(self, event: Frame) -> None:
        if event.opcode is not Opcode.CONT:
            self._fragments = [b"\x82" if event.opcode is Opcode.BINARY else b"\x81"]
        fragments = self._fragments
        if fragments is None:
            return  # the core has already failed such a continuation
        fragments.append(bytes(event.data))
        if not event.fin:
            return
        self._fragments = None
        binary, payload = fragments[0] == b"\x82", b"".join(fragments[1:])
        if self._receiver is not None:
            self._deliver(self._receiver, payload, binary=binary)

    def _handle_close(self) -> None:
        """Finish: the core has answered the peer's Close, or the peer has answered ours."""
        core = self._needed_core()
        self._lose(core.close_rcvd.code if core.close_rcvd is not None else 1005)
        self._finish()

    # ------------------------------------------------------------ the end

    def _needed_core(self) -> Core:
        if self._core is None:
            self._core = Core(Side.SERVER, state=CoreState.OPEN, max_size=self._options.message_size)
        return self._core

    def _drop_core(self) -> None:
        core, self._core, self._fragments = self._core, None, None
        _release(core)

    def _is_over(self) -> bool:
        return self._stage is Stage.CLOSED or self._transport.is_closing()

    def _send_of_core(self, core: Core) -> None:
        for data in core.data_to_send():
            if data:
                self._transport.write(data)
        if self._transport.get_write_buffer_size() > self._options.high_water + self._options.control_buffer:
            self._transport.abort()

    def _fail(self, code: int, reason: str) -> None:
        """Close for what the peer did; it is told, and not listened to any more."""
        core = self._needed_core()
        core.fail(code, close_reason(reason))
        self._send_of_core(core)
        self._lose(code)
        self._part()

    def _start_closing(self) -> None:
        core = self._needed_core()
        self._stage = Stage.CLOSING
        self.write = _drop
        self._send_of_core(core)
        self._fragments = None
        if self._paused:
            self.resume()
        self._set_reading()
        self._cancel_deadline()
        self._deadline = self._loop.call_later(self._options.close_timeout, self.abort)

    def _finish(self) -> None:
        """Close the socket once what was written is out, and at the latest after the close timeout."""
        if self._stage is Stage.CLOSED:
            return
        self._stage = Stage.CLOSING
        self.write = _drop
        self._buffer = b""
        self._cancel_deadline()
        self._transport.close()
        if self._transport.get_write_buffer_size():
            self._deadline = self._loop.call_later(self._options.close_timeout, self.abort)

    def _part(self) -> None:
        """Leave the socket to its end: the peer is told what it did and not listened to any more."""
        if self._stage is not Stage.CLOSED:
            self._let_go()
            part(self._transport, self._server_state, timeout=self._options.close_timeout)

    def _let_go(self) -> None:
        self._stage = Stage.CLOSED
        self.write = _drop
        self._server_state.connections.discard(cast("Any", self))
        self._cancel_deadline()
        self._cancel_stall()
        self._buffer = b""
        self._drop_core()
        self._guard = None

    def _lose(self, code: int) -> None:
        receiver, self._receiver = self._receiver, None
        self._stage = max(self._stage, Stage.CLOSING)
        self.write = _drop
        if receiver is not None:
            receiver.lost(code)

    def _cancel_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _cancel_stall(self) -> None:
        if self._stall is not None:
            self._stall.over()
            self._stall = None

    def __repr__(self) -> str:
        return f"<Link {self.peer} {self._stage.name.lower()}>"


def _drop(_: bytes) -> None:
    """Write nothing: a Close was the last frame."""


def _release(core: Core | None) -> None:
    """Leave *core* to be freed at once, without a collection."""
    if core is not None:
        # The generator that parses refers to the core, and holds the last message; so does its exception.
        core.parser = cast("Any", None)
        core.parser_exc = None


def _code_sent(core: Core) -> int:
    return core.close_sent.code if core.close_sent is not None else 1006
