"""RFC 6455 beyond complete data frames: fragments, control frames, the closing handshake, violations.

A thin layer over the sans-I/O protocol of `websockets`.
"""

from __future__ import annotations

from typing import Any, NamedTuple, cast

from websockets.frames import Frame, Opcode
from websockets.protocol import Protocol as SansIoProtocol
from websockets.protocol import Side, State

from gateway.transport.websocket.frame_parser import truncated_reason


class FrameOutcome(NamedTuple):
    """What has to be done after one frame was received."""

    to_send: bytes = b""
    """Frames to write to the socket."""
    payload: bytes | None = None
    """The message that this frame completed."""
    binary: bool = False
    """Whether that message is a binary one."""
    peer_close_code: int | None = None
    """The code of the peer's Close; our Close was sent before, or is in `to_send`."""
    failure_code: int | None = None
    """The code of the Close in `to_send` when the frame violates the RFC or a limit."""


class Rfc6455Engine:
    """The protocol state of one connection.

    It exists only while a fragmented message or the closing handshake is incomplete.
    """

    __slots__ = ("_binary", "_fragments", "_max_message_size", "_protocol")

    def __init__(self, max_message_size: int) -> None:
        """Fail messages of more than *max_message_size* bytes with code 1009."""
        self._max_message_size = max_message_size
        self._protocol = SansIoProtocol(Side.SERVER, state=State.OPEN, max_size=max_message_size)
        self._fragments: bytearray | None = None
        """The payloads of an incomplete message: one buffer, for any number; None outside of one."""
        self._binary = False

    @property
    def has_state(self) -> bool:
        """Whether a message or the closing handshake is incomplete; if not, a new engine is equivalent."""
        return self._fragments is not None or self._protocol.state is not State.OPEN

    @property
    def buffered(self) -> int:
        """Bytes of the fragments of an incomplete message."""
        return len(self._fragments or b"")

    def receive(self, raw: bytes) -> FrameOutcome:
        """Handle *raw*, a complete frame or the beginning of a frame that is too large."""
        if self._fragments is not None and raw[0] & 0x0F >= Opcode.CLOSE:
            return self._receive_control_within_message(raw)
        protocol = self._protocol
        protocol.receive_data(raw)
        events = protocol.events_received()
        outcome = FrameOutcome(self._bytes_to_send())
        for event in events:
            if not isinstance(event, Frame):
                continue
            if event.opcode is Opcode.CLOSE:
                received = protocol.close_rcvd
                outcome = outcome._replace(peer_close_code=1005 if received is None else received.code)
            elif event.opcode in (Opcode.TEXT, Opcode.BINARY, Opcode.CONT):
                outcome = self._add_fragment(event, outcome)
        if protocol.parser_exc is not None:
            sent = protocol.close_sent
            outcome = outcome._replace(failure_code=1006 if sent is None else sent.code)
        return outcome

    def close(self, code: int, reason: str) -> bytes:
        """Return the Close frame to send, empty if one was sent before; discard an incomplete message."""
        if self._protocol.state is State.OPEN:
            self._protocol.send_close(code, truncated_reason(reason))
        self._fragments = None
        return self._bytes_to_send()

    def fail(self, code: int, reason: str) -> bytes:
        """Return the Close frame that tells the peer about its violation."""
        self._protocol.fail(code, truncated_reason(reason))
        return self._bytes_to_send()

    def release(self) -> None:
        """Break reference cycles, so that everything is freed without a garbage collection."""
        # The parser's generator refers to the protocol and holds the last message; so does its exception.
        self._protocol.parser = cast("Any", None)
        self._protocol.parser_exc = None
        self._fragments = None

    def _receive_control_within_message(self, raw: bytes) -> FrameOutcome:
        """Handle a control frame between the fragments of a message, with an engine outside of any message.

        The engine of the message would count a Ping's payload as part of the message and find it too large,
        and would treat a Close as a violation, though a peer may close within a message (Autobahn 7.1.5).
        """
        engine = Rfc6455Engine(self._max_message_size)
        outcome = engine.receive(raw)
        if engine.has_state:  # the connection is closing, which discards the message
            self.release()
            self._protocol = engine._protocol
        else:
            engine.release()
        return outcome

    def _add_fragment(self, frame: Frame, outcome: FrameOutcome) -> FrameOutcome:
        """Return *outcome*, with the message if *frame* completes one."""
        if frame.opcode is not Opcode.CONT:
            self._fragments, self._binary = bytearray(), frame.opcode is Opcode.BINARY
        fragments = self._fragments
        if fragments is None:
            return outcome  # a continuation without a beginning: the protocol has already failed it
        fragments += frame.data
        if not frame.fin:
            return outcome
        self._fragments = None
        return outcome._replace(payload=bytes(fragments), binary=self._binary)

    def _bytes_to_send(self) -> bytes:
        return b"".join(self._protocol.data_to_send())
