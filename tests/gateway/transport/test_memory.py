"""The transport without a socket, as tests use it."""

import pytest

from gateway.delivery.encoding import data_frame
from gateway.transport.memory import MemoryTransport
from protocol.codec import CODECS, JSON, MSGPACK, Codec
from protocol.messages import Ping, PongReply


class Recorder:
    """A receiver that records every call."""

    def __init__(self) -> None:
        self.calls: list[object] = []

    def on_message(self, payload: bytes, *, binary: bool) -> None:
        self.calls.append((payload, binary))

    def on_full(self) -> None:
        """Do nothing."""

    def on_drained(self) -> None:
        self.calls.append("drained")

    def on_closed(self, code: int) -> None:
        self.calls.append(code)


def attached(codec: Codec = JSON, *, capacity: int | None = None) -> tuple[MemoryTransport, Recorder]:
    transport, recorder = MemoryTransport(codec, capacity=capacity), Recorder()
    transport.attach(recorder)
    return transport, recorder


def pong(number: int, codec: Codec = JSON) -> bytes:
    return data_frame(codec.encode(PongReply(number)), binary=codec.binary)


@pytest.mark.parametrize("codec", CODECS.values(), ids=CODECS)
def test_read_returns_the_new_messages_and_messages_returns_all(codec: Codec) -> None:
    transport, _ = attached(codec)
    transport.write(pong(1, codec) + pong(2, codec))
    assert transport.read() == [PongReply(1), PongReply(2)]
    transport.write(pong(3, codec))
    assert transport.read() == [PongReply(3)]
    assert transport.read() == []
    assert transport.messages == [PongReply(1), PongReply(2), PongReply(3)]
    assert len(transport.writes) == 2


@pytest.mark.parametrize(("codec", "wrong"), [(JSON, "binary"), (MSGPACK, "text")])
def test_read_raises_for_a_frame_that_the_codec_does_not_use(codec: Codec, wrong: str) -> None:
    transport, _ = attached(codec)
    transport.write(data_frame(b"{}", binary=not codec.binary))
    with pytest.raises(ValueError, match=f"got a {wrong} frame"):
        transport.read()


@pytest.mark.parametrize("codec", CODECS.values(), ids=CODECS)
def test_what_the_client_sends_is_delivered_to_the_receiver(codec: Codec) -> None:
    transport, recorder = attached(codec)
    transport.send(Ping(1))
    transport.send_bytes(b"?")
    transport.send_bytes(b"?", binary=not codec.binary)
    ping = codec.encode_command(Ping(1))
    assert recorder.calls == [(ping, codec.binary), (b"?", codec.binary), (b"?", not codec.binary)]


def test_writable_is_false_once_the_capacity_is_written_and_true_after_a_drain() -> None:
    transport, recorder = attached(capacity=50)
    transport.write(b"x" * 49)
    assert transport.writable
    transport.write(b"x" * 100)
    assert [transport.writable] == [False]
    assert len(transport.writes) == 2, "what is written to a full socket is buffered there"
    transport.drain()
    assert (transport.writable, recorder.calls) == (True, ["drained"])
    transport.fill()
    assert not transport.writable


def test_pause_and_resume_set_paused() -> None:
    transport, _ = attached()
    transport.pause()
    paused = transport.paused
    transport.resume()
    assert (paused, transport.paused) == (True, False)


def test_after_a_close_nothing_is_written_and_the_receiver_is_not_called() -> None:
    transport, recorder = attached()
    assert repr(transport) == "<MemoryTransport open 0 writes>"
    transport.close(4005, "bye")
    transport.close(4011)
    transport.write(pong(1))
    transport.send(Ping(1))
    transport.drain()
    transport.disconnect()
    assert (transport.closed, transport.is_open) == ((4005, "bye"), False)
    assert (transport.writes, recorder.calls) == ([], [])
    assert repr(transport) == "<MemoryTransport closed (4005, 'bye') 0 writes>"


@pytest.mark.parametrize(("method", "code"), [("disconnect", 1006), ("abort", 1006)])
def test_a_lost_connection_is_reported_once(method: str, code: int) -> None:
    transport, recorder = attached()
    getattr(transport, method)()
    getattr(transport, method)()
    assert (recorder.calls, transport.is_open, transport.closed) == ([code], False, None)
    assert transport.aborted == (method == "abort")
