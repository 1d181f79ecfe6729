"""Links over real sockets: whatever way the bytes come, the same messages come out of them."""

import asyncio
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from uvicorn.server import ServerState

from gateway.transport.websocket.options import WebSocketOptions
from gateway.transport.websocket.transport import WebSocketTransport
from tests.e2e.wire import BINARY, CLOSE, CONT, PING, PONG, TEXT, Closed, Frame, Raw, close_frame, frame

SMALL = WebSocketOptions(message_size=1_000, close_timeout=0.2)
Message = tuple[bytes, bool]


@dataclass
class Recorder:
    """A receiver that remembers what it was told; acts on a message where a test wants it to."""

    messages: list[Message] = field(default_factory=list)
    ends: list[int] = field(default_factory=list)
    drains: int = 0
    heard: asyncio.Event = field(default_factory=asyncio.Event)

    def on_message(self, payload: bytes, *, binary: bool) -> None:
        self.messages.append((payload, binary))
        self.heard.set()

    def on_drained(self) -> None:
        self.drains += 1
        self.heard.set()

    def on_closed(self, code: int) -> None:
        self.ends.append(code)
        self.heard.set()

    async def until(self, count: int) -> None:
        """Wait for *count* messages or the end."""
        async with asyncio.timeout(10):
            while len(self.messages) < count and not self.ends:
                self.heard.clear()
                await self.heard.wait()


@dataclass
class Wired:
    link: WebSocketTransport
    peer: Raw
    state: ServerState
    transport: asyncio.Transport


def _socket_pair(buffer: int) -> tuple[socket.socket, socket.socket]:
    """Two ends of a TCP connection, for which the kernel keeps about *buffer* bytes where that is given."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        theirs = socket.socket()
        for one, option in ((listener, socket.SO_SNDBUF), (theirs, socket.SO_RCVBUF)):
            if buffer:
                one.setsockopt(socket.SOL_SOCKET, option, buffer)
        theirs.connect(listener.getsockname())
        ours, _ = listener.accept()
    for one in (ours, theirs):
        one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        one.settimeout(0)
    return ours, theirs


@asynccontextmanager
async def wired(options: WebSocketOptions = SMALL, *, buffer: int = 0) -> AsyncIterator[Wired]:
    """Yield a link and the other end of its socket; whatever the test does, both are gone afterwards."""
    ours, theirs = _socket_pair(buffer)
    loop, state = asyncio.get_running_loop(), ServerState()
    transport, _ = await loop.connect_accepted_socket(asyncio.Protocol, ours)
    link = WebSocketTransport(transport, loop=loop, server_state=state, options=options, peer="test")
    transport.set_protocol(link)
    link.connection_made(transport)
    with Raw(theirs) as peer:
        yield Wired(link, peer, state, transport)
        transport.abort()
    async with asyncio.timeout(10):
        while state.connections:  # noqa: ASYNC110 (uvicorn's own way to see that all is over)
            await asyncio.sleep(0)


@asynccontextmanager
async def attached(
    options: WebSocketOptions = SMALL, *, buffer: int = 0
) -> AsyncIterator[tuple[Wired, Recorder]]:
    async with wired(options, buffer=buffer) as wire:
        recorder = Recorder()
        wire.link.attach(recorder)
        yield wire, recorder


async def turns(count: int = 5) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


# ---------------------------------------------------------------- the same in, the same out


@dataclass(frozen=True)
class Case:
    """Bytes of a client, and what they are."""

    data: bytes
    messages: Sequence[Message] = ()
    frames: Sequence[Frame] = ()
    """What the client gets before a Close, if there is one."""
    code: int | None = None
    """Of the Close that the client gets; None while the link stays open."""


def text(payload: bytes) -> Message:
    return payload, False


def binary(payload: bytes) -> Message:
    return payload, True


def pong(payload: bytes = b"") -> Frame:
    return Frame(fin=True, opcode=PONG, payload=payload)


HELLO = frame(TEXT, b"hello")
SNOWMAN = "☃".encode()
CASES = {
    "text": Case(HELLO, [text(b"hello")]),
    "binary": Case(frame(BINARY, b"\x00\xff"), [binary(b"\x00\xff")]),
    "empty text": Case(frame(TEXT), [text(b"")]),
    "empty binary": Case(frame(BINARY), [binary(b"")]),
    "125 bytes": Case(frame(TEXT, b"x" * 125), [text(b"x" * 125)]),
    "126 bytes": Case(frame(TEXT, b"x" * 126), [text(b"x" * 126)]),
    "as much as is allowed": Case(frame(BINARY, b"x" * 1_000), [binary(b"x" * 1_000)]),
    "one byte more": Case(frame(BINARY, b"x" * 1_001), code=1009),
    "much more": Case(frame(BINARY, b"x" * 70_000), code=1009),
    "announced only": Case(frame(TEXT, length=1_000), code=None),
    "announced only, far too much": Case(frame(TEXT, length=70_000), code=1009),
    "not ASCII": Case(frame(TEXT, SNOWMAN), [text(SNOWMAN)]),
    "no UTF-8": Case(HELLO + frame(TEXT, SNOWMAN[:-1]), [text(b"hello")], code=1007),
    "binary need not be UTF-8": Case(frame(BINARY, SNOWMAN[:-1]), [binary(SNOWMAN[:-1])]),
    "several": Case(HELLO * 3 + frame(BINARY, b"!"), [text(b"hello")] * 3 + [binary(b"!")]),
    "fragments": Case(
        frame(TEXT, SNOWMAN[:1], fin=False) + frame(CONT, SNOWMAN[1:2], fin=False) + frame(CONT, SNOWMAN[2:]),
        [text(SNOWMAN)],
    ),
    "empty fragments": Case(
        frame(BINARY, fin=False) + frame(CONT, fin=False) + frame(CONT) + HELLO, [binary(b""), text(b"hello")]
    ),
    "fragments that are no UTF-8": Case(
        frame(TEXT, SNOWMAN[:1], fin=False) + frame(CONT, b"x") + HELLO, code=1007
    ),
    "fragments beyond the limit": Case(
        frame(TEXT, b"x" * 600, fin=False) + frame(CONT, b"x" * 401), code=1009
    ),
    "too many fragments": Case(frame(TEXT, fin=False) + frame(CONT, fin=False) * 64 + HELLO, code=4002),
    "ping": Case(frame(PING, b"?") + HELLO, [text(b"hello")], [pong(b"?")]),
    "ping between fragments": Case(
        frame(TEXT, b"a", fin=False) + frame(PING, b"1") + frame(CONT, b"b") + HELLO,
        [text(b"ab"), text(b"hello")],
        [pong(b"1")],
    ),
    "ping within a message as large as is allowed": Case(
        HELLO
        + frame(BINARY, fin=False)
        + frame(CONT, b"x" * 1_000, fin=False)
        + frame(PING, b"1")
        + frame(PONG, b"2")
        + frame(CONT)
        + HELLO,
        [text(b"hello"), binary(b"x" * 1_000), text(b"hello")],
        [pong(b"1")],
    ),
    "a control frame in fragments within a message": Case(
        frame(TEXT, b"a", fin=False) + frame(PING, b"1", fin=False) + frame(CONT, b"b") + HELLO, code=1002
    ),
    "unasked pong": Case(frame(PONG, b"!") + HELLO, [text(b"hello")]),
    "too many pings": Case(frame(PING) * 21 + HELLO, frames=[pong()] * 20, code=4002),
    "close": Case(HELLO + close_frame(1001) + HELLO, [text(b"hello")], code=1001),
    "close without a code": Case(frame(CLOSE), code=1005),
    "close within a message": Case(
        frame(TEXT, b"a", fin=False) + close_frame(1000) + frame(CONT, b"b"), code=1000
    ),
    "not masked": Case(HELLO + frame(TEXT, b"hello", masked=False), [text(b"hello")], code=1002),
    "a reserved bit": Case(frame(TEXT, b"hello", rsv=4) + HELLO, code=1002),
    "a length longer than it need be": Case(
        bytes([0x81, 0xFE, 0, 2]) + b"\0\0\0\0hi" + HELLO, [text(b"hi"), text(b"hello")]
    ),
    "a length that is negative": Case(bytes([0x82, 0xFF]) + b"\xff" * 8 + b"\0\0\0\0", code=1009),
}
ARRIVALS = {
    "at once": lambda data: [data],
    "in bytes": lambda data: [data[i : i + 1] for i in range(len(data))],
    "in threes": lambda data: [data[i : i + 3] for i in range(0, len(data), 3)],
    "in halves": lambda data: [data[: len(data) // 2], data[len(data) // 2 :]],
    "all but the last byte first": lambda data: [data[:-1], data[-1:]],
}


@pytest.mark.parametrize("arrival", ARRIVALS)
@pytest.mark.parametrize("name", CASES)
async def test_what_comes_of_bytes(name: str, arrival: str) -> None:
    case = CASES[name]
    async with attached() as (wire, recorder):
        for chunk in ARRIVALS[arrival](case.data[:2_000]):
            if not await wire.peer.send_as_taken(chunk):
                break
            await turns(2)
        if case.code is None:
            await recorder.until(len(case.messages))
            await turns()
            assert recorder.ends == []
            assert [await wire.peer.frame() for _ in case.frames] == list(case.frames)
        else:
            frames, said = await wire.peer.until_close()
            assert frames == list(case.frames)
            assert said.code == case.code
            assert recorder.ends == [case.code]
            assert await wire.peer.ended() == b""
        assert recorder.messages == list(case.messages)
        assert wire.link.is_open is (case.code is None)


@pytest.mark.parametrize("size", [1, 10, 125, 126, 200])
async def test_any_limit_is_kept(size: int) -> None:
    async with attached(WebSocketOptions(message_size=size)) as (wire, recorder):
        await wire.peer.send(frame(BINARY, b"x" * size) + frame(BINARY, b"x" * (size + 1)))
        assert (await wire.peer.until_close())[1].code == 1009
        assert recorder.messages == [binary(b"x" * size)]


SIZES = st.sampled_from([0, 1, 2, 7, 125, 126, 127, 999, 1_000])
PAYLOADS = SIZES.flatmap(lambda size: st.sampled_from([b"x" * size, ("é" * (size // 2)).encode()]))


@st.composite
def _messages(draw: st.DrawFn) -> tuple[Message, bytes]:
    """One message, and frames that carry it."""
    payload, is_binary = draw(PAYLOADS), draw(st.booleans())
    cuts = sorted(draw(st.lists(st.integers(0, len(payload)), max_size=3)))
    parts = [payload[start:end] for start, end in zip([0, *cuts], [*cuts, None], strict=True)]
    frames = [
        frame(CONT if number else BINARY if is_binary else TEXT, part, fin=number == len(parts) - 1)
        for number, part in enumerate(parts)
    ]
    controls = draw(
        st.lists(st.tuples(st.integers(0, len(frames)), st.sampled_from([PING, PONG])), max_size=2)
    )
    for place, opcode in controls:
        frames.insert(place, frame(opcode, b"c"))
    return (payload, is_binary), b"".join(frames)


@given(st.lists(_messages(), max_size=8), st.data())
@settings(deadline=None, max_examples=150)
async def test_the_same_bytes_are_the_same_messages_however_they_are_split(
    messages: list[tuple[Message, bytes]], choose: st.DataObject
) -> None:
    data = b"".join(raw for _, raw in messages) + close_frame(1000)
    cuts = sorted(choose.draw(st.lists(st.integers(1, len(data) - 1), max_size=12, unique=True)))
    options = WebSocketOptions(message_size=1_000, read_slice=choose.draw(st.sampled_from([1, 100, 8_192])))
    async with attached(options) as (wire, recorder):
        for start, end in zip([0, *cuts], [*cuts, None], strict=True):
            wire.link.data_received(data[start:end])
            await turns(choose.draw(st.integers(0, 3)))
        frames, said = await wire.peer.until_close()
        pings = sum(raw.count(frame(PING, b"c")) for _, raw in messages)
        assert frames == [pong(b"c")] * pings
        assert said == Closed(1000, "")
        assert recorder.messages == [message for message, _ in messages]
        assert recorder.ends == [1000]


# ---------------------------------------------------------------- for the session


async def test_what_came_before_somebody_listens_is_not_lost() -> None:
    async with wired() as wire:
        await wire.peer.send(HELLO + frame(PING) + HELLO[:3])
        await turns()
        await wire.peer.send(HELLO[3:] + frame(BINARY, b"!"))
        await turns()
        recorder = Recorder()
        wire.link.attach(recorder)
        await recorder.until(3)
        assert recorder.messages == [text(b"hello"), text(b"hello"), binary(b"!")]


async def test_a_pause_holds_in_the_middle_of_what_came_at_once() -> None:
    class Hesitant(Recorder):
        def on_message(self, payload: bytes, *, binary: bool) -> None:
            super().on_message(payload, binary=binary)
            wire.link.pause()

    async with wired() as wire:
        recorder = Hesitant()
        wire.link.attach(recorder)
        await wire.peer.send(HELLO * 3 + frame(PING) + frame(TEXT, b"last"))
        for count in (1, 2, 3, 4):
            await recorder.until(count)
            await turns()
            assert len(recorder.messages) == count
            wire.link.resume()
        assert (await wire.peer.frame()).opcode == PONG
        assert recorder.messages[-1] == text(b"last")


async def test_nothing_is_heard_after_a_close() -> None:
    class Stern(Recorder):
        def on_message(self, payload: bytes, *, binary: bool) -> None:
            super().on_message(payload, binary=binary)
            wire.link.write(b"\x81\x03one")
            wire.link.close(4002, "that was wrong")
            wire.link.write(b"\x81\x05never")
            wire.link.close(4003, "never")

    async with wired() as wire:
        recorder = Stern()
        wire.link.attach(recorder)
        await wire.peer.send(HELLO * 3 + frame(PING) + frame(TEXT, b"\xff"))
        frames, said = await wire.peer.until_close()
        assert frames == [Frame(fin=True, opcode=TEXT, payload=b"one")]
        assert said == (4002, "that was wrong")
        await wire.peer.send(HELLO + frame(PING) + close_frame(4002) + HELLO)
        assert await wire.peer.ended() == b""
        assert recorder.messages == [text(b"hello")]
        assert recorder.ends == [], "who closes needs not be told"


async def test_a_reason_is_cut_where_a_character_ends() -> None:
    async with attached() as (wire, _):
        wire.link.close(4005, "☃" * 100)
        assert (await wire.peer.until_close())[1] == (4005, "☃" * 41)


async def test_a_peer_that_does_not_answer_a_close_is_aborted() -> None:
    async with attached() as (wire, recorder):
        wire.link.close(4005)
        assert (await wire.peer.until_close())[1].code == 4005
        assert await wire.peer.ended() == b""
        assert recorder.ends == []
        assert not wire.state.connections


async def test_a_peer_that_goes_on_after_a_close_is_not_read_to_its_end() -> None:
    patient = WebSocketOptions(message_size=1_000, close_timeout=60.0)
    async with attached(patient) as (wire, _):
        wire.link.close(4005)
        assert (await wire.peer.until_close())[1].code == 4005
        for _ in range(patient.message_size // len(HELLO) + 2):
            await wire.peer.send(HELLO)
            await turns(1)
        assert await wire.peer.ended() == b"", "without an answer, and before the close timeout"


async def test_a_peer_that_does_not_go_after_a_fault_is_aborted() -> None:
    async with attached() as (wire, recorder):
        await wire.peer.send(frame(TEXT, b"\xff"))
        assert (await wire.peer.until_close())[1].code == 1007
        for _ in range(1_000):
            if not await wire.peer.send_as_taken(HELLO * 1_000):
                break
            await asyncio.sleep(0.01)
        assert not wire.state.connections
        assert recorder.messages == []


async def test_a_peer_that_vanishes_is_told_of_once() -> None:
    async with attached() as (wire, recorder):
        await wire.peer.send(HELLO + HELLO[:4])
        await recorder.until(1)
        wire.peer.close()
        await recorder.until(2)
        assert recorder.ends == [1006]
        wire.link.close(4005)
        wire.link.abort()
        wire.link.shutdown()
        wire.link.write(HELLO)
        assert wire.link.buffered() == 0
        assert recorder.ends == [1006]


async def test_a_shutdown_is_a_drain_and_can_be_repeated() -> None:
    async with attached() as (wire, recorder):
        wire.link.shutdown()
        wire.link.shutdown()
        assert recorder.ends == [4000]
        assert await wire.peer.closed() == (4000, "drain")


@pytest.mark.parametrize("moment", ["unattached", "in a message", "closing", "while writing"])
async def test_a_shutdown_never_raises(moment: str) -> None:
    async with wired(buffer=4_096) as wire:
        if moment != "unattached":
            wire.link.attach(Recorder())
        if moment == "in a message":
            await wire.peer.send(frame(TEXT, b"a", fin=False))
        if moment == "closing":
            wire.link.close(4005)
        if moment == "while writing":
            wire.link.write(b"\x82\x7e\xff\xff" + b"x" * 65_535)
            await wire.peer.send(close_frame(1000))
        await turns()
        wire.link.shutdown()
        await wire.peer.until_close()


# ---------------------------------------------------------------- slow and hostile peers


FULL = WebSocketOptions(high_water=16_384, low_water=4_096, stall_timeout=0.3, control_buffer=4_096)
BULK = b"\x82\x7e\x10\x00" + b"x" * 4_096


def fill(link: WebSocketTransport) -> int:
    """Write until the link takes no more; return the bytes."""
    count = 0
    while link.writable:
        link.write(BULK)
        count += len(BULK)
    return count


async def test_a_full_socket_says_so_and_says_when_it_is_not() -> None:
    async with attached(FULL, buffer=4_096) as (wire, recorder):
        size = fill(wire.link)
        assert wire.link.buffered() > FULL.high_water
        await wire.peer.take(size)
        async with asyncio.timeout(10):
            while not recorder.drains:
                await recorder.heard.wait()
        assert wire.link.writable
        assert wire.link.buffered() <= FULL.low_water


async def test_a_peer_that_takes_nothing_is_aborted() -> None:
    async with attached(FULL, buffer=4_096) as (wire, recorder):
        fill(wire.link)
        await recorder.until(1)
        assert recorder.ends == [1006]


async def test_a_peer_that_takes_little_is_not() -> None:
    async with attached(FULL, buffer=4_096) as (wire, recorder):
        fill(wire.link)
        loop, taken = asyncio.get_running_loop(), 0
        # A kernel tells of a few thousand bytes at once; each time is in time.
        while not wire.link.writable and not recorder.ends:
            await asyncio.sleep(FULL.stall_timeout / 16)
            taken += len(await loop.sock_recv(wire.peer.socket, 1_000))
        assert recorder.ends == []
        assert taken > 16_000, "for longer than a peer that takes nothing is given"


async def test_answers_to_pings_that_nobody_reads_are_bounded() -> None:
    async with attached(FULL, buffer=4_096) as (wire, recorder):
        fill(wire.link)
        for _ in range(200):
            if recorder.ends or not await wire.peer.send_as_taken(frame(PING, b"x" * 125)):
                break
            await turns(2)
            assert wire.link.buffered() <= FULL.high_water + FULL.control_buffer + 8_192
        await recorder.until(1)
        assert recorder.ends in ([1006], [4002])


@pytest.mark.parametrize(
    "options",
    [WebSocketOptions(read_frames=1_000_000), WebSocketOptions(read_slice=1_000_000)],
    ids=["bytes", "frames"],
)
async def test_who_sends_much_does_not_keep_others_waiting(options: WebSocketOptions) -> None:
    """Much is handled in slices: what another peer sends meanwhile is heard before the last of them."""
    order: list[str] = []

    class Busy(Recorder):
        def on_message(self, payload: bytes, *, binary: bool) -> None:
            super().on_message(payload, binary=binary)
            if order[-1:] != ["much"]:
                order.append("much")

    class Brief(Recorder):
        def on_message(self, payload: bytes, *, binary: bool) -> None:
            super().on_message(payload, binary=binary)
            order.append("little")

    async with wired(options) as much, wired(options) as little:
        busy, brief = Busy(), Brief()
        much.link.attach(busy)
        little.link.attach(brief)
        much.link.data_received(HELLO * 10_000)
        await little.peer.send(HELLO)
        await brief.until(1)
        assert len(busy.messages) < 10_000
        await busy.until(10_000)
        assert order == ["much", "little", "much"]
