"""What is no whole plain message: fragments, control frames, closing, errors.

RFC 6455 as the sans-I/O core of `websockets` knows it.
"""

from __future__ import annotations

from typing import Any, NamedTuple, cast

from websockets.frames import Frame, Opcode
from websockets.protocol import Protocol as Engine
from websockets.protocol import Side, State

from gateway.transport.websocket.frame_parser import close_reason


class FrameOutcome(NamedTuple):
    """What comes of one frame."""

    answer: bytes = b""
    """Frames to send back."""
    payload: bytes | None = None
    """A message that is whole now."""
    binary: bool = False
    closed: int | None = None
    """What the peer's Close said; it has been answered, or is the answer."""
    failed: int | None = None
    """What the peer is told in the Close among `answer`, for what it did wrong."""


class Rfc6455Engine:
    """One link's, for as long as there is something to remember for the next frame."""

    __slots__ = ("_binary", "_engine", "_fragments", "_message_size")

    def __init__(self, message_size: int) -> None:
        """Refuse messages of more than *message_size* bytes."""
        self._message_size = message_size
        self._engine = Engine(Side.SERVER, state=State.OPEN, max_size=message_size)
        self._fragments: list[bytes] | None = None
        self._binary = False

    @property
    def busy(self) -> bool:
        """Whether a message or a closing is under way: without, a new one would know as much."""
        return self._fragments is not None or self._engine.state is not State.OPEN

    def take(self, raw: bytes) -> FrameOutcome:
        """Take *raw*, one whole frame or the beginning of one that is too large."""
        if self._fragments is not None and raw[0] & 0x0F >= Opcode.CLOSE:
            return self._interrupted(raw)
        engine = self._engine
        engine.receive_data(raw)
        events = engine.events_received()
        heard = FrameOutcome(self._unsent())
        for event in events:
            if not isinstance(event, Frame):
                continue
            if event.opcode is Opcode.CLOSE:
                rcvd = engine.close_rcvd
                heard = heard._replace(closed=1005 if rcvd is None else rcvd.code)
            elif event.opcode in (Opcode.TEXT, Opcode.BINARY, Opcode.CONT):
                heard = self._joined(event, heard)
        if engine.parser_exc is not None:
            sent = engine.close_sent
            heard = heard._replace(failed=1006 if sent is None else sent.code)
        return heard

    def close(self, code: int, reason: str) -> bytes:
        """Return the Close frame to send, if none was before; a message that comes in fragments is lost."""
        if self._engine.state is State.OPEN:
            self._engine.send_close(code, close_reason(reason))
        self._fragments = None
        return self._unsent()

    def fail(self, code: int, reason: str) -> bytes:
        """Return the Close frame that tells the peer what it did wrong."""
        self._engine.fail(code, close_reason(reason))
        return self._unsent()

    def forget(self) -> None:
        """Let go of everything, so that it is freed at once, without a collection."""
        # The generator that parses refers to the engine, and holds the last message; so does its exception.
        self._engine.parser = cast("Any", None)
        self._engine.parser_exc = None
        self._fragments = None

    def _interrupted(self, raw: bytes) -> FrameOutcome:
        """Take a control frame between the fragments of a message, with an engine that knows of no message.

        The one that does would count what a ping carries as part of the message, and call it too large; and a
        Close a fault, though a peer may close within a message (Autobahn 7.1.5).
        """
        core = Rfc6455Engine(self._message_size)
        heard = core.take(raw)
        if core.busy:  # this is the end of the message, too
            self.forget()
            self._engine = core._engine
        else:
            core.forget()
        return heard

    def _joined(self, event: Frame, heard: FrameOutcome) -> FrameOutcome:
        if event.opcode is not Opcode.CONT:
            self._fragments, self._binary = [], event.opcode is Opcode.BINARY
        fragments = self._fragments
        if fragments is None:
            return heard  # the engine has already failed such a continuation
        fragments.append(bytes(event.data))
        if not event.fin:
            return heard
        self._fragments = None
        return heard._replace(payload=b"".join(fragments), binary=self._binary)

    def _unsent(self) -> bytes:
        return b"".join(self._engine.data_to_send())
