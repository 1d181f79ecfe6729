import pytest

from gateway.delivery.encoding import data_frame
from gateway.transport.memory import MemoryTransport
from protocol.codec import CODECS, JSON, MSGPACK, Codec
from protocol.messages import Ping, PongReply


class Receiver:
    """A session as a link knows it."""

    def __init__(self) -> None:
        self.heard: list[object] = []

    def on_message(self, payload: bytes, *, binary: bool) -> None:
        self.heard.append((payload, binary))

    def on_drained(self) -> None:
        self.heard.append("drained")

    def on_closed(self, code: int) -> None:
        self.heard.append(code)


def attached(codec: Codec = JSON, *, capacity: int | None = None) -> tuple[MemoryTransport, Receiver]:
    link, receiver = MemoryTransport(codec, capacity=capacity), Receiver()
    link.attach(receiver)
    return link, receiver


def pong(number: int, codec: Codec = JSON) -> bytes:
    return data_frame(codec.encode(PongReply(number)), binary=codec.binary)


@pytest.mark.parametrize("codec", CODECS.values(), ids=CODECS)
def test_what_was_written_is_read_as_the_client_would(codec: Codec) -> None:
    link, _ = attached(codec)
    link.write(pong(1, codec) + pong(2, codec))
    assert link.read() == [PongReply(1), PongReply(2)]
    link.write(pong(3, codec))
    assert link.read() == [PongReply(3)]
    assert link.read() == []
    assert (link.messages, len(link.writes)) == ([PongReply(1), PongReply(2), PongReply(3)], 2)


@pytest.mark.parametrize(("codec", "wrong"), [(JSON, "binary"), (MSGPACK, "text")])
def test_a_frame_of_the_wrong_kind_is_found(codec: Codec, wrong: str) -> None:
    link, _ = attached(codec)
    link.write(data_frame(b"{}", binary=not codec.binary))
    with pytest.raises(ValueError, match=f"got a {wrong} frame"):
        link.read()


@pytest.mark.parametrize("codec", CODECS.values(), ids=CODECS)
def test_what_the_client_says_reaches_the_receiver(codec: Codec) -> None:
    link, receiver = attached(codec)
    link.send(Ping(1))
    link.send_bytes(b"?")
    link.send_bytes(b"?", binary=not codec.binary)
    said = codec.encode_command(Ping(1))
    assert receiver.heard == [(said, codec.binary), (b"?", codec.binary), (b"?", not codec.binary)]


def test_it_takes_as_much_as_its_capacity() -> None:
    link, receiver = attached(capacity=50)
    link.write(b"x" * 49)
    assert link.writable
    link.write(b"x" * 100)
    assert [link.writable] == [False]
    assert len(link.writes) == 2, "what is written to a full socket waits there"
    link.drain()
    assert (link.writable, receiver.heard) == (True, ["drained"])
    link.fill()
    assert not link.writable


def test_it_is_paused_and_resumed() -> None:
    link, _ = attached()
    link.pause()
    paused = link.paused
    link.resume()
    assert (paused, link.paused) == (True, False)


def test_nothing_is_written_or_heard_after_the_close() -> None:
    link, receiver = attached()
    assert repr(link) == "<MemoryLink open 0 writes>"
    link.close(4005, "bye")
    link.close(4011)
    link.write(pong(1))
    link.send(Ping(1))
    link.drain()
    link.lose()
    assert (link.closed, link.is_open, link.writes, receiver.heard) == ((4005, "bye"), False, [], [])
    assert repr(link) == "<MemoryLink closed (4005, 'bye') 0 writes>"


@pytest.mark.parametrize(("how", "code"), [("lose", 1006), ("abort", 1006)])
def test_a_loss_is_heard_once(how: str, code: int) -> None:
    link, receiver = attached()
    getattr(link, how)()
    getattr(link, how)()
    assert (receiver.heard, link.is_open, link.closed) == ([code], False, None)
    assert link.aborted == (how == "abort")
