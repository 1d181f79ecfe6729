"""A link without a socket: for tests, ours and those of projects that embed the gateway."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from protocol.codec import JSON, Codec
from protocol.messages import ClientMessage, ServerMessage

if TYPE_CHECKING:
    from gateway.transport.websocket.socket import Receiver

_OPCODES = {0x81: False, 0x82: True}


def payloads(data: bytes) -> Iterator[tuple[bool, bytes]]:
    """Yield what each server frame in *data* carries, and whether it is binary.

    `ValueError` for anything but whole data frames.
    """
    start = 0
    while start < len(data):
        first, length = data[start : start + 2].ljust(2, b"\0")
        begin = start + 2
        if length >= 126:
            begin += 2 if length == 126 else 8
            length = int.from_bytes(data[start + 2 : begin], "big")
        if first not in _OPCODES or begin + length > len(data):
            raise ValueError(f"no whole data frame at byte {start} of {len(data)}")
        yield _OPCODES[first], data[begin : begin + length]
        start = begin + length


class MemoryTransport:
    """The link of a session whose client is a test: it keeps what was written, and takes as much as it may.

    With a *capacity*, it is no longer `writable` once as many bytes were written since it last drained.
    """

    def __init__(self, codec: Codec = JSON, *, capacity: int | None = None, peer: str = "127.0.0.1") -> None:
        """Speak *codec* to whoever is attached."""
        self.codec = codec
        self.capacity = capacity
        self.peer = peer
        self.writable = True
        self.paused = False
        self.closed: tuple[int, str] | None = None
        """Code and reason of the Close frame that was sent."""
        self.aborted = False
        self.writes: list[bytes] = []
        """Everything that was written, one item for each call."""
        self._receiver: Receiver | None = None
        self._open = True
        self._read = 0
        self._taken = 0

    # ------------------------------------------------------------ for the session

    @property
    def is_open(self) -> bool:
        """Whether frames may still be written."""
        return self._open

    def attach(self, receiver: Receiver) -> None:
        """Hand every message to *receiver* from now on."""
        self._receiver = receiver

    def write(self, data: bytes) -> None:
        """Keep *data*; dropped when the link is no longer open."""
        if self._open:
            self.writes.append(data)
            self._taken += len(data)
            if self.capacity is not None and self._taken >= self.capacity:
                self.writable = False

    def pause(self) -> None:
        """Stop reading."""
        self.paused = True

    def resume(self) -> None:
        """Read again."""
        self.paused = False

    def close(self, code: int, reason: str = "") -> None:
        """Keep *code* and *reason*; the receiver hears nothing more."""
        if self._open:
            self._open = False
            self._receiver = None
            self.closed = (code, reason)

    def abort(self) -> None:
        """End at once, without a Close frame."""
        self.aborted = True
        self.lose()

    # ------------------------------------------------------------ for the client

    @property
    def messages(self) -> list[ServerMessage]:
        """Everything that was written, decoded; `ValueError` where a frame is not of the codec's kind."""
        return [message for data in self.writes for message in self._decoded(data)]

    def read(self) -> list[ServerMessage]:
        """Return what was written since the last call, decoded."""
        fresh, self._read = self.writes[self._read :], len(self.writes)
        return [message for data in fresh for message in self._decoded(data)]

    def send(self, command: ClientMessage) -> None:
        """Hand *command* to the receiver, as the codec spells it."""
        self.send_bytes(self.codec.encode_command(command))

    def send_bytes(self, payload: bytes, *, binary: bool | None = None) -> None:
        """Hand *payload* to the receiver as one message, of the codec's kind unless *binary* says so."""
        if self._receiver is not None:
            self._receiver.on_message(payload, binary=self.codec.binary if binary is None else binary)

    def fill(self) -> None:
        """Take nothing more until `drain`."""
        self.writable = False

    def drain(self) -> None:
        """Take more, as much again as the capacity says."""
        self._taken = 0
        self.writable = True
        if self._receiver is not None:
            self._receiver.on_drained()

    def lose(self, code: int = 1006) -> None:
        """End as a socket does that breaks (1006), or whose peer closed with *code*."""
        receiver, self._receiver, self._open = self._receiver, None, False
        if receiver is not None:
            receiver.on_closed(code)

    def _decoded(self, data: bytes) -> Iterator[ServerMessage]:
        for binary, payload in payloads(data):
            if binary is not self.codec.binary:
                raise ValueError(f"{self.codec.subprotocol} got a {'binary' if binary else 'text'} frame")
            yield self.codec.decode_server_message(payload)

    def __repr__(self) -> str:
        state = "open" if self._open else f"closed {self.closed}"
        return f"<MemoryLink {state} {len(self.writes)} writes>"
