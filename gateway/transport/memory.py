"""A transport without a socket: for tests, ours and those of projects that embed the gateway."""

from __future__ import annotations

from collections.abc import Iterator

from gateway.transport.receiver import Receiver
from gateway.transport.tcp_progress import UNKNOWN, TcpProgress
from protocol.codec import JSON, Codec
from protocol.messages import ClientMessage, ServerMessage

_OPCODES = {0x81: False, 0x82: True}


def decode_data_frames(data: bytes) -> Iterator[tuple[bool, bytes]]:
    """Yield each server frame in *data* as `(binary, payload)`.

    Raises:
        ValueError: for anything but complete, unmasked, unfragmented data frames.
    """
    start = 0
    while start < len(data):
        first, length = data[start : start + 2].ljust(2, b"\0")
        begin = start + 2
        if length >= 126:
            begin += 2 if length == 126 else 8
            length = int.from_bytes(data[start + 2 : begin], "big")
        if first not in _OPCODES or begin + length > len(data):
            raise ValueError(f"no complete data frame at byte {start} of {len(data)}")
        yield _OPCODES[first], data[begin : begin + length]
        start = begin + length


class MemoryTransport:
    """The transport of a session whose client is a test: the transport records what the session writes.

    With a *capacity*, `writable` is False once as many bytes were written since the last `drain`.
    """

    def __init__(self, codec: Codec = JSON, *, capacity: int | None = None, peer: str = "127.0.0.1") -> None:
        """Encode commands and decode frames with *codec*; *peer* is the address of the client."""
        self.codec = codec
        self.capacity = capacity
        self.peer = peer
        self.writable = True
        self.paused = False
        self.closed: tuple[int, str] | None = None
        """Code and reason of the Close frame that was sent."""
        self.aborted = False
        self.writes: list[bytes] = []
        """Everything that was written, one item for each call of `write`."""
        self.tcp_progress = UNKNOWN
        """What `progress` returns."""
        self._receiver: Receiver | None = None
        self._open = True
        self._read_count = 0
        self._written_since_drain = 0

    # ------------------------------------------------------------ called by the session

    @property
    def is_open(self) -> bool:
        """Whether frames may still be written."""
        return self._open

    def attach(self, receiver: Receiver) -> None:
        """Deliver every message to *receiver* from now on."""
        self._receiver = receiver

    def protect(self) -> None:
        """Do nothing: there is no listener that closes connections."""

    def write(self, data: bytes) -> None:
        """Record *data*; *data* is discarded when the transport is not open any more."""
        if self._open:
            self.writes.append(data)
            self._written_since_drain += len(data)
            if self.capacity is not None and self._written_since_drain >= self.capacity:
                self.fill()

    def buffered(self) -> int:
        """Return the bytes that were written since the last `drain`, if the capacity is used up; else 0."""
        return 0 if self.writable else self._written_since_drain

    def progress(self) -> TcpProgress:
        """Return `tcp_progress`, which the test sets."""
        return self.tcp_progress

    def pause(self) -> None:
        """Stop reading."""
        self.paused = True

    def resume(self) -> None:
        """Read again."""
        self.paused = False

    def close(self, code: int, reason: str = "") -> None:
        """Record *code* and *reason*; the receiver is not called any more."""
        if self._open:
            self._open = False
            self._receiver = None
            self.closed = (code, reason)

    def abort(self) -> None:
        """Close at once, without a Close frame; the receiver gets 1006."""
        self.aborted = True
        self.disconnect()

    # ------------------------------------------------------------ called by the test, as the client

    @property
    def messages(self) -> list[ServerMessage]:
        """Everything that was written, decoded; `ValueError` for a frame that is not of the codec's kind."""
        return [message for data in self.writes for message in self._decode(data)]

    def read(self) -> list[ServerMessage]:
        """Return what was written since the last call, decoded."""
        new, self._read_count = self.writes[self._read_count :], len(self.writes)
        return [message for data in new for message in self._decode(data)]

    def send(self, command: ClientMessage) -> None:
        """Deliver *command*, encoded, to the receiver."""
        self.send_bytes(self.codec.encode_command(command))

    def send_bytes(self, payload: bytes, *, binary: bool | None = None) -> None:
        """Deliver *payload* to the receiver as one message, of the codec's kind unless *binary* is given."""
        if self._receiver is not None:
            self._receiver.on_message(payload, binary=self.codec.binary if binary is None else binary)

    def fill(self) -> None:
        """Make `writable` False until `drain`, and report it to the receiver."""
        self.writable = False
        if self._receiver is not None:
            self._receiver.on_full()

    def drain(self) -> None:
        """Make `writable` True, and report it to the receiver; the capacity starts anew."""
        self._written_since_drain = 0
        self.writable = True
        if self._receiver is not None:
            self._receiver.on_drained()

    def disconnect(self, code: int = 1006) -> None:
        """Close as a socket does that broke (1006), or whose peer sent a Close with *code*."""
        receiver, self._receiver, self._open = self._receiver, None, False
        if receiver is not None:
            receiver.on_closed(code)

    def _decode(self, data: bytes) -> Iterator[ServerMessage]:
        for binary, payload in decode_data_frames(data):
            if binary is not self.codec.binary:
                raise ValueError(f"{self.codec.subprotocol} got a {'binary' if binary else 'text'} frame")
            yield self.codec.decode_server_message(payload)

    def __repr__(self) -> str:
        state = "open" if self._open else f"closed {self.closed}"
        return f"<MemoryTransport {state} {len(self.writes)} writes>"
