"""WebSocket transports over real sockets: the same messages are delivered however the bytes are split."""

import asyncio
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.clock import Clock, FakeClock, monotonic
from gateway.transport.http.open_connections import OpenConnections
from gateway.transport.websocket.options import WebSocketOptions
from gateway.transport.websocket.transport import WebSocketTransport
from protocol import limits
from tests.e2e.clients import (
    BINARY,
    CLOSE,
    CONT,
    PING,
    PONG,
    TEXT,
    Closed,
    Frame,
    RawConnection,
    client_frame,
    close_frame,
)

SMALL = WebSocketOptions(message_size=1_000, close_timeout=0.2)
Message = tuple[bytes, bool]


@dataclass
class Recorder:
    """A receiver that records its calls."""

    messages: list[Message] = field(default_factory=list)
    close_codes: list[int] = field(default_factory=list)
    full_count: int = 0
    drain_count: int = 0
    called: asyncio.Event = field(default_factory=asyncio.Event)

    def on_message(self, payload: bytes, *, binary: bool) -> None:
        self.messages.append((payload, binary))
        self.called.set()

    def on_full(self) -> None:
        self.full_count += 1

    def on_drained(self) -> None:
        self.drain_count += 1
        self.called.set()

    def on_closed(self, code: int) -> None:
        self.close_codes.append(code)
        self.called.set()

    async def until(self, count: int) -> None:
        """Wait for *count* messages, or until the connection is closed."""
        async with asyncio.timeout(10):
            while len(self.messages) < count and not self.close_codes:
                self.called.clear()
                await self.called.wait()


@dataclass
class Connection:
    """A transport under test, and the client at the other end of its socket."""

    websocket: WebSocketTransport
    client: RawConnection
    server_state: OpenConnections


def _socket_pair(buffer: int) -> tuple[socket.socket, socket.socket]:
    """Return both sides of a TCP connection whose kernel buffers have about *buffer* bytes (0: default)."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = socket.socket()
        for one, option in ((listener, socket.SO_SNDBUF), (client, socket.SO_RCVBUF)):
            if buffer:
                one.setsockopt(socket.SOL_SOCKET, option, buffer)
        client.connect(listener.getsockname())
        server, _ = listener.accept()
    for one in (server, client):
        one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        one.settimeout(0)
    return server, client


@asynccontextmanager
async def connected(
    options: WebSocketOptions = SMALL, *, buffer: int = 0, clock: Clock = monotonic
) -> AsyncIterator[Connection]:
    """Yield a transport without a receiver, and its client; both sockets are closed afterwards."""
    server, client = _socket_pair(buffer)
    loop, state = asyncio.get_running_loop(), OpenConnections()
    transport, _ = await loop.connect_accepted_socket(asyncio.Protocol, server)
    state.opened(transport, "test")
    websocket = WebSocketTransport(
        transport, loop=loop, server_state=state, options=options, peer="test", clock=clock
    )
    transport.set_protocol(websocket)
    websocket.connection_made(transport)
    with RawConnection(client) as raw:
        yield Connection(websocket, raw, state)
        transport.abort()
    async with asyncio.timeout(10):
        while state.connections:  # noqa: ASYNC110 (uvicorn, too, polls this set)
            await asyncio.sleep(0)


@asynccontextmanager
async def attached(
    options: WebSocketOptions = SMALL, *, buffer: int = 0, clock: Clock = monotonic
) -> AsyncIterator[tuple[Connection, Recorder]]:
    async with connected(options, buffer=buffer, clock=clock) as connection:
        recorder = Recorder()
        connection.websocket.attach(recorder)
        yield connection, recorder


async def run_loop(count: int = 5) -> None:
    """Let the event loop run *count* turns."""
    for _ in range(count):
        await asyncio.sleep(0)


# ---------------------------------------------------------------- bytes to messages


@dataclass(frozen=True)
class Case:
    """Bytes that a client sends, and what must follow."""

    data: bytes
    messages: Sequence[Message] = ()
    frames: Sequence[Frame] = ()
    """The frames that the client receives before a Close."""
    code: int | None = None
    """The code of the Close that the client receives; None where the connection stays open."""


def text(payload: bytes) -> Message:
    return payload, False


def binary(payload: bytes) -> Message:
    return payload, True


def pong(payload: bytes = b"") -> Frame:
    return Frame(fin=True, opcode=PONG, payload=payload)


HELLO = client_frame(TEXT, b"hello")
SNOWMAN = "☃".encode()
CASES = {
    "text": Case(HELLO, [text(b"hello")]),
    "binary": Case(client_frame(BINARY, b"\x00\xff"), [binary(b"\x00\xff")]),
    "empty text": Case(client_frame(TEXT), [text(b"")]),
    "empty binary": Case(client_frame(BINARY), [binary(b"")]),
    "125 bytes": Case(client_frame(TEXT, b"x" * 125), [text(b"x" * 125)]),
    "126 bytes": Case(client_frame(TEXT, b"x" * 126), [text(b"x" * 126)]),
    "exactly the size limit": Case(client_frame(BINARY, b"x" * 1_000), [binary(b"x" * 1_000)]),
    "one byte above the size limit": Case(client_frame(BINARY, b"x" * 1_001), code=1009),
    "far above the size limit": Case(client_frame(BINARY, b"x" * 70_000), code=1009),
    "only a header, within the size limit": Case(client_frame(TEXT, length=1_000), code=None),
    "only a header, far above the size limit": Case(client_frame(TEXT, length=70_000), code=1009),
    "text that is not ASCII": Case(client_frame(TEXT, SNOWMAN), [text(SNOWMAN)]),
    "text that is not UTF-8": Case(HELLO + client_frame(TEXT, SNOWMAN[:-1]), [text(b"hello")], code=1007),
    "binary need not be UTF-8": Case(client_frame(BINARY, SNOWMAN[:-1]), [binary(SNOWMAN[:-1])]),
    "several frames": Case(HELLO * 3 + client_frame(BINARY, b"!"), [text(b"hello")] * 3 + [binary(b"!")]),
    "fragments": Case(
        client_frame(TEXT, SNOWMAN[:1], fin=False)
        + client_frame(CONT, SNOWMAN[1:2], fin=False)
        + client_frame(CONT, SNOWMAN[2:]),
        [text(SNOWMAN)],
    ),
    "empty fragments": Case(
        client_frame(BINARY, fin=False) + client_frame(CONT, fin=False) + client_frame(CONT) + HELLO,
        [binary(b""), text(b"hello")],
    ),
    "fragments of text that is not UTF-8": Case(
        client_frame(TEXT, SNOWMAN[:1], fin=False) + client_frame(CONT, b"x") + HELLO, code=1007
    ),
    "fragments above the size limit": Case(
        client_frame(TEXT, b"x" * 600, fin=False) + client_frame(CONT, b"x" * 401), code=1009
    ),
    "many small fragments": Case(
        client_frame(TEXT, fin=False) + client_frame(CONT, b"x", fin=False) * 200 + client_frame(CONT),
        [text(b"x" * 200)],
    ),
    "ping": Case(client_frame(PING, b"?") + HELLO, [text(b"hello")], [pong(b"?")]),
    "ping between fragments": Case(
        client_frame(TEXT, b"a", fin=False) + client_frame(PING, b"1") + client_frame(CONT, b"b") + HELLO,
        [text(b"ab"), text(b"hello")],
        [pong(b"1")],
    ),
    "ping and pong within a fragmented message of exactly the size limit": Case(
        HELLO
        + client_frame(BINARY, fin=False)
        + client_frame(CONT, b"x" * 1_000, fin=False)
        + client_frame(PING, b"1")
        + client_frame(PONG, b"2")
        + client_frame(CONT)
        + HELLO,
        [text(b"hello"), binary(b"x" * 1_000), text(b"hello")],
        [pong(b"1")],
    ),
    "a fragmented control frame within a message": Case(
        client_frame(TEXT, b"a", fin=False)
        + client_frame(PING, b"1", fin=False)
        + client_frame(CONT, b"b")
        + HELLO,
        code=1002,
    ),
    "pong without a ping": Case(client_frame(PONG, b"!") + HELLO, [text(b"hello")]),
    "too many pings": Case(client_frame(PING) * 21 + HELLO, frames=[pong()] * 20, code=4002),
    "close": Case(HELLO + close_frame(1001) + HELLO, [text(b"hello")], code=1001),
    "close without a code": Case(client_frame(CLOSE), code=1005),
    "close within a message": Case(
        client_frame(TEXT, b"a", fin=False) + close_frame(1000) + client_frame(CONT, b"b"), code=1000
    ),
    "a frame without a mask": Case(
        HELLO + client_frame(TEXT, b"hello", masked=False), [text(b"hello")], code=1002
    ),
    "a reserved bit": Case(client_frame(TEXT, b"hello", rsv=4) + HELLO, code=1002),
    "a length in more bytes than needed": Case(
        bytes([0x81, 0xFE, 0, 2]) + b"\0\0\0\0hi" + HELLO, [text(b"hi"), text(b"hello")]
    ),
    "a negative length": Case(bytes([0x82, 0xFF]) + b"\xff" * 8 + b"\0\0\0\0", code=1009),
}
SPLITS = {
    "one read": lambda data: [data],
    "single bytes": lambda data: [data[i : i + 1] for i in range(len(data))],
    "three bytes each": lambda data: [data[i : i + 3] for i in range(0, len(data), 3)],
    "two halves": lambda data: [data[: len(data) // 2], data[len(data) // 2 :]],
    "last byte apart": lambda data: [data[:-1], data[-1:]],
}


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("name", CASES)
async def test_bytes_of_a_client_become_messages_answers_and_close_codes(name: str, split: str) -> None:
    case = CASES[name]
    async with attached() as (connection, recorder):
        for chunk in SPLITS[split](case.data[:2_000]):
            if not await connection.client.try_send(chunk):
                break
            await run_loop(2)
        if case.code is None:
            await recorder.until(len(case.messages))
            await run_loop()
            assert recorder.close_codes == []
            assert [await connection.client.read_frame() for _ in case.frames] == list(case.frames)
        else:
            frames, close = await connection.client.read_until_close()
            assert frames == list(case.frames)
            assert close.code == case.code
            assert recorder.close_codes == [case.code]
            assert await connection.client.read_to_end() == b""
        assert recorder.messages == list(case.messages)
        assert connection.websocket.is_open is (case.code is None)


@pytest.mark.parametrize("size", [1, 10, 125, 126, 200])
async def test_a_message_above_the_configured_size_closes_with_1009(size: int) -> None:
    async with attached(WebSocketOptions(message_size=size)) as (connection, recorder):
        await connection.client.send(
            client_frame(BINARY, b"x" * size) + client_frame(BINARY, b"x" * (size + 1))
        )
        assert (await connection.client.read_until_close())[1].code == 1009
        assert recorder.messages == [binary(b"x" * size)]


SIZES = st.sampled_from([0, 1, 2, 7, 125, 126, 127, 999, 1_000])
PAYLOADS = SIZES.flatmap(lambda size: st.sampled_from([b"x" * size, ("é" * (size // 2)).encode()]))


@st.composite
def _messages(draw: st.DrawFn) -> tuple[Message, bytes]:
    """Draw one message and the bytes of frames that carry it."""
    payload, is_binary = draw(PAYLOADS), draw(st.booleans())
    cuts = sorted(draw(st.lists(st.integers(0, len(payload)), max_size=3)))
    parts = [payload[start:end] for start, end in zip([0, *cuts], [*cuts, None], strict=True)]
    frames = [
        client_frame(CONT if number else BINARY if is_binary else TEXT, part, fin=number == len(parts) - 1)
        for number, part in enumerate(parts)
    ]
    controls = draw(
        st.lists(st.tuples(st.integers(0, len(frames)), st.sampled_from([PING, PONG])), max_size=2)
    )
    for index, opcode in controls:
        frames.insert(index, client_frame(opcode, b"c"))
    return (payload, is_binary), b"".join(frames)


@given(st.lists(_messages(), max_size=8), st.data())
@settings(deadline=None, max_examples=150)
async def test_the_same_messages_are_delivered_however_the_bytes_are_split(
    messages: list[tuple[Message, bytes]], data_source: st.DataObject
) -> None:
    data = b"".join(raw for _, raw in messages) + close_frame(1000)
    cuts = sorted(data_source.draw(st.lists(st.integers(1, len(data) - 1), max_size=12, unique=True)))
    options = WebSocketOptions(
        message_size=1_000, read_slice=data_source.draw(st.sampled_from([1, 100, 8_192]))
    )
    async with attached(options) as (connection, recorder):
        for start, end in zip([0, *cuts], [*cuts, None], strict=True):
            connection.websocket.data_received(data[start:end])
            await run_loop(data_source.draw(st.integers(0, 3)))
        frames, close = await connection.client.read_until_close()
        pings = sum(raw.count(client_frame(PING, b"c")) for _, raw in messages)
        assert frames == [pong(b"c")] * pings
        assert close == Closed(1000, "")
        assert recorder.messages == [message for message, _ in messages]
        assert recorder.close_codes == [1000]


# ---------------------------------------------------------------- what a session calls


async def sends_more_fragments_than_a_burst(connection: Connection) -> None:
    """Send the beginning of a message, and wait until the rest of it is delayed."""
    fragments = client_frame(CONT, fin=False) * (int(limits.FRAGMENT_BURST) + 100)
    await connection.client.send(client_frame(TEXT, b"x", fin=False) + fragments)
    async with asyncio.timeout(10):
        while not connection.server_state.fragments_delayed:  # noqa: ASYNC110 (nothing notifies of it)
            await asyncio.sleep(0)


async def test_fragments_beyond_the_burst_are_handled_later_and_arrive() -> None:
    clock = FakeClock()
    async with attached(clock=clock) as (connection, recorder):
        await sends_more_fragments_than_a_burst(connection)
        await connection.client.send(client_frame(CONT, b"y") + HELLO)
        assert recorder.messages == []
        clock.advance(1)
        await recorder.until(2)
        assert recorder.messages == [text(b"xy"), text(b"hello")]
        assert recorder.close_codes == []


async def test_a_close_between_delayed_fragments_ends_the_connection() -> None:
    async with attached(clock=FakeClock()) as (connection, recorder):
        await sends_more_fragments_than_a_burst(connection)
        connection.websocket.close(4000, "drain")
        assert (await connection.client.read_until_close())[1].code == 4000
        assert recorder.messages == []


async def test_messages_read_before_attach_are_delivered_after_it() -> None:
    async with connected() as connection:
        await connection.client.send(HELLO + client_frame(PING) + HELLO[:3])
        await run_loop()
        await connection.client.send(HELLO[3:] + client_frame(BINARY, b"!"))
        await run_loop()
        recorder = Recorder()
        connection.websocket.attach(recorder)
        await recorder.until(3)
        assert recorder.messages == [text(b"hello"), text(b"hello"), binary(b"!")]


async def test_pause_takes_effect_between_two_frames_of_one_read() -> None:
    class PausingRecorder(Recorder):
        def on_message(self, payload: bytes, *, binary: bool) -> None:
            super().on_message(payload, binary=binary)
            connection.websocket.pause()

    async with connected() as connection:
        recorder = PausingRecorder()
        connection.websocket.attach(recorder)
        await connection.client.send(HELLO * 3 + client_frame(PING) + client_frame(TEXT, b"last"))
        for count in (1, 2, 3, 4):
            await recorder.until(count)
            await run_loop()
            assert len(recorder.messages) == count
            connection.websocket.resume()
        assert (await connection.client.read_frame()).opcode == PONG
        assert recorder.messages[-1] == text(b"last")


async def test_after_close_nothing_is_written_and_the_receiver_is_not_called() -> None:
    class ClosingRecorder(Recorder):
        def on_message(self, payload: bytes, *, binary: bool) -> None:
            super().on_message(payload, binary=binary)
            connection.websocket.write(b"\x81\x03one")
            connection.websocket.close(4002, "that was wrong")
            connection.websocket.write(b"\x81\x05never")
            connection.websocket.close(4003, "never")

    async with connected() as connection:
        recorder = ClosingRecorder()
        connection.websocket.attach(recorder)
        await connection.client.send(HELLO * 3 + client_frame(PING) + client_frame(TEXT, b"\xff"))
        frames, close = await connection.client.read_until_close()
        assert frames == [Frame(fin=True, opcode=TEXT, payload=b"one")]
        assert close == (4002, "that was wrong")
        await connection.client.send(HELLO + client_frame(PING) + close_frame(4002) + HELLO)
        assert await connection.client.read_to_end() == b""
        assert recorder.messages == [text(b"hello")]
        assert recorder.close_codes == [], "the session that closes gets no on_closed"


async def test_a_long_close_reason_is_cut_at_the_end_of_a_character() -> None:
    async with attached() as (connection, _):
        connection.websocket.close(4005, "☃" * 100)
        assert (await connection.client.read_until_close())[1] == (4005, "☃" * 41)


async def test_a_client_that_does_not_answer_a_close_is_aborted() -> None:
    async with attached() as (connection, recorder):
        connection.websocket.close(4005)
        assert (await connection.client.read_until_close())[1].code == 4005
        assert await connection.client.read_to_end() == b""
        assert recorder.close_codes == []
        assert not connection.server_state.connections


async def test_a_client_that_keeps_sending_after_a_close_is_disconnected_after_one_message_size() -> None:
    options = WebSocketOptions(message_size=1_000, close_timeout=60.0)
    async with attached(options) as (connection, _):
        connection.websocket.close(4005)
        assert (await connection.client.read_until_close())[1].code == 4005
        for _ in range(options.message_size // len(HELLO) + 2):
            await connection.client.send(HELLO)
            await run_loop(1)
        assert await connection.client.read_to_end() == b"", "without an answer, and before the close timeout"


async def test_a_client_that_stays_connected_after_a_violation_is_aborted() -> None:
    async with attached() as (connection, recorder):
        await connection.client.send(client_frame(TEXT, b"\xff"))
        assert (await connection.client.read_until_close())[1].code == 1007
        for _ in range(1_000):
            if not await connection.client.try_send(HELLO * 1_000):
                break
            await asyncio.sleep(0.01)
        assert not connection.server_state.connections
        assert recorder.messages == []


async def test_a_lost_connection_is_reported_once_with_1006() -> None:
    async with attached() as (connection, recorder):
        await connection.client.send(HELLO + HELLO[:4])
        await recorder.until(1)
        connection.client.close()
        await recorder.until(2)
        assert recorder.close_codes == [1006]
        connection.websocket.close(4005)
        connection.websocket.abort()
        connection.websocket.shutdown()
        connection.websocket.write(HELLO)
        assert connection.websocket.buffered() == 0
        assert recorder.close_codes == [1006]


async def test_shutdown_closes_with_drain_and_can_be_repeated() -> None:
    async with attached() as (connection, recorder):
        connection.websocket.shutdown()
        connection.websocket.shutdown()
        assert recorder.close_codes == [4000]
        assert await connection.client.expect_close() == (4000, "drain")


@pytest.mark.parametrize("moment", ["unattached", "in a message", "closing", "while writing"])
async def test_shutdown_never_raises(moment: str) -> None:
    async with connected(buffer=4_096) as connection:
        if moment != "unattached":
            connection.websocket.attach(Recorder())
        if moment == "in a message":
            await connection.client.send(client_frame(TEXT, b"a", fin=False))
        if moment == "closing":
            connection.websocket.close(4005)
        if moment == "while writing":
            connection.websocket.write(b"\x82\x7e\xff\xff" + b"x" * 65_535)
            await connection.client.send(close_frame(1000))
        await run_loop()
        connection.websocket.shutdown()
        await connection.client.read_until_close()


# ---------------------------------------------------------------- slow and hostile clients


FULL = WebSocketOptions(high_water=16_384, low_water=4_096, stall_timeout=0.3, control_buffer=4_096)
BULK = b"\x82\x7e\x10\x00" + b"x" * 4_096


def fill(websocket: WebSocketTransport) -> int:
    """Write until the transport is not writable any more; return the number of bytes."""
    count = 0
    while websocket.writable:
        websocket.write(BULK)
        count += len(BULK)
    return count


async def test_writable_is_false_while_the_socket_is_full_and_on_drained_is_called_after_it() -> None:
    async with attached(FULL, buffer=4_096) as (connection, recorder):
        size = fill(connection.websocket)
        assert connection.websocket.buffered() > FULL.high_water
        assert recorder.full_count == 1
        await connection.client.read_exactly(size)
        async with asyncio.timeout(10):
            while not recorder.drain_count:
                await recorder.called.wait()
        assert connection.websocket.writable
        assert connection.websocket.buffered() <= FULL.low_water


async def test_a_client_that_reads_nothing_is_aborted() -> None:
    async with attached(FULL, buffer=4_096) as (connection, recorder):
        fill(connection.websocket)
        await recorder.until(1)
        assert recorder.close_codes == [1006]


async def test_a_client_that_reads_slowly_is_not_aborted() -> None:
    async with attached(FULL, buffer=4_096) as (connection, recorder):
        fill(connection.websocket)
        loop, taken = asyncio.get_running_loop(), 0
        # The kernel acknowledges a few thousand bytes at once; each acknowledgement is within the timeout.
        while not connection.websocket.writable and not recorder.close_codes:
            await asyncio.sleep(FULL.stall_timeout / 16)
            taken += len(await loop.sock_recv(connection.client.socket, 1_000))
        assert recorder.close_codes == []
        assert taken > 16_000, "it read for longer than the stall timeout"


async def test_unread_answers_to_pings_are_bounded() -> None:
    async with attached(FULL, buffer=4_096) as (connection, recorder):
        fill(connection.websocket)
        for _ in range(200):
            if recorder.close_codes or not await connection.client.try_send(client_frame(PING, b"x" * 125)):
                break
            await run_loop(2)
            assert connection.websocket.buffered() <= FULL.high_water + FULL.control_buffer + 8_192
        await recorder.until(1)
        assert recorder.close_codes in ([1006], [4002])


@pytest.mark.parametrize(
    "options",
    [WebSocketOptions(read_frames=1_000_000), WebSocketOptions(read_slice=1_000_000)],
    ids=["bytes", "frames"],
)
async def test_a_client_that_sends_much_does_not_delay_the_messages_of_another(
    options: WebSocketOptions,
) -> None:
    """Many frames are handled in slices: a message of another client is delivered between two of them."""
    order: list[str] = []

    class BusyRecorder(Recorder):
        def on_message(self, payload: bytes, *, binary: bool) -> None:
            super().on_message(payload, binary=binary)
            if order[-1:] != ["much"]:
                order.append("much")

    class QuickRecorder(Recorder):
        def on_message(self, payload: bytes, *, binary: bool) -> None:
            super().on_message(payload, binary=binary)
            order.append("little")

    async with connected(options) as much, connected(options) as little:
        busy, quick = BusyRecorder(), QuickRecorder()
        much.websocket.attach(busy)
        little.websocket.attach(quick)
        much.websocket.data_received(HELLO * 10_000)
        await little.client.send(HELLO)
        await quick.until(1)
        assert len(busy.messages) < 10_000
        await busy.until(10_000)
        assert order == ["much", "little", "much"]
