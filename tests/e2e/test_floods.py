"""Many hostile or broken clients, while a latency probe publishes and receives.

All messages of the probe must come back; their latency is reported, but not asserted. The growth of the
gateway's memory is asserted: it is bounded whatever clients do.
"""

import asyncio
import socket
import struct
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass

import orjson
import pytest

from protocol.limits import ENCODED_SIZE
from tests.e2e.clients import (
    BINARY,
    CONT,
    JSON,
    MSGPACK,
    PING,
    PONG,
    TEXT,
    Client,
    RawConnection,
    client_frame,
    close_frame,
    upgrade_request,
)
from tests.e2e.gateway import GatewayProcess, gateway_process, publish
from tests.e2e.latency import LatencyProbe, latency_probe, percentile

MB = 1024 * 1024
GROWTH = 64 * MB
CONFIG = """
[listen.public]
header_timeout = "2s"
send_buffer = "64KiB"
[limits]
connect_timeout = "2s"
[outbox]
stall_timeout = "1s"
[channels.loud]
subscribe = "anyone"
publish = "anyone"
"""


@dataclass
class Scene:
    """A gateway with a latency probe connected to it."""

    gateway: GatewayProcess
    probe: LatencyProbe
    largest: int = 0
    """Bytes of the gateway's memory."""

    @property
    def port(self) -> int:
        return self.gateway.public

    def look(self) -> None:
        self.largest = max(self.largest, self.gateway.resident_bytes())

    async def watch(self) -> None:
        while True:
            self.look()
            await asyncio.sleep(0.02)

    async def wait_until_only_the_probe_is_connected(self) -> None:
        async with asyncio.timeout(20):
            while (await self.gateway.metrics())["admission_connections"] > 1:  # noqa: ASYNC110
                await asyncio.sleep(0.05)  # another process does not tell


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    with gateway_process(tmp_path_factory.mktemp("gateway"), CONFIG) as gateway:
        yield gateway


@pytest.fixture(scope="module")
def probe(gateway: GatewayProcess, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LatencyProbe]:
    with latency_probe(gateway.public, tmp_path_factory.mktemp("bystander")) as probe:
        asyncio.run(probe.wait_for_round_trip())
        before = gateway.resident_bytes()
        yield probe
    assert gateway.resident_bytes() - before < 2 * GROWTH, "after all of it"


@pytest.fixture
async def scene(
    gateway: GatewayProcess, probe: LatencyProbe, record_property: Callable[[str, object], None]
) -> AsyncIterator[Scene]:
    """Each flood ends with the probe alone, and receiving its messages."""
    scene, began, before = Scene(gateway, probe), time.monotonic(), gateway.resident_bytes()
    watching = asyncio.ensure_future(scene.watch())
    yield scene
    await scene.wait_until_only_the_probe_is_connected()
    await probe.wait_for_round_trip()
    watching.cancel()
    took, growth = [each.took for each in probe.round_trips(began)], scene.largest - before
    p99 = percentile(took, 0.99)
    record_property("bystander_p99_ms", round(p99 * 1000, 1))
    record_property("memory_growth_mib", round(growth / MB, 1))
    print(f"{len(took)} echoes, p99 {p99 * 1000:.1f} ms; memory +{growth / MB:.1f} MiB")  # noqa: T201
    assert growth < GROWTH


async def attack(
    scene: Scene,
    attackers: int,
    one: Callable[[RawConnection], Awaitable[None]],
    *,
    rounds: int = 1,
    subprotocol: str = JSON,
) -> None:
    """Let *attackers* connect properly, do as *one* does, and come again for as many *rounds*."""
    hello = CONNECT_MSGPACK if subprotocol == MSGPACK else CONNECT

    async def act() -> None:
        for _ in range(rounds):
            with await RawConnection.websocket(scene.port, subprotocol=subprotocol) as raw:
                await raw.send(hello)
                await raw.read_frame()
                await one(raw)

    async with asyncio.TaskGroup() as tasks:
        for _ in range(attackers):
            tasks.create_task(act())


CONNECT = client_frame(TEXT, b'{"type":"connect","id":1}')
CONNECT_MSGPACK = client_frame(BINARY, b"\x82\xa4type\xa7connect\xa2id\x01")


async def send_repeatedly(raw: RawConnection, data: bytes, times: int) -> None:
    """Send *data* again and again, until the gateway has had enough."""
    for _ in range(times):
        if not await raw.try_send(data):
            return


async def send_repeatedly_until_closed(raw: RawConnection, data: bytes, times: int, code: int) -> None:
    """Send *data* again and again while reading; the gateway ends it with *code*."""
    pouring = asyncio.ensure_future(send_repeatedly(raw, data, times))
    assert (await raw.read_until_close())[1].code == code
    await raw.read_to_end()
    await pouring


# ---------------------------------------------------------------- frames


FLOODS: dict[str, tuple[bytes, bytes, int]] = {
    # what comes once, what comes again and again, and how it ends
    "more continuations than a message has bytes": (
        client_frame(TEXT, fin=False),
        client_frame(CONT, b"x" * 64, fin=False) * 2_000,
        1009,
    ),
    "pings": (b"", client_frame(PING, b"x" * 125) * 1_000, 4002),
    "pongs": (b"", client_frame(PONG) * 10_000, 4002),
    "a huge frame, announced": (client_frame(BINARY, length=2**40), b"x" * MB, 1009),
    "large fragments": (
        client_frame(TEXT, b"x" * 65_536, fin=False),
        client_frame(CONT, b"x" * 65_536, fin=False),
        1009,
    ),
    "large messages": (b"", client_frame(TEXT, b"x" * (ENCODED_SIZE + 1)), 1009),
    "empty messages": (b"", client_frame(TEXT) * 10_000, 4008),
    "pings of our own": (b"", client_frame(TEXT, b'{"type":"ping","id":2}') * 2_000, 4008),
    "pongs of our own": (b"", client_frame(TEXT, b'{"type":"pong"}') * 2_000, 4008),
    "noise": (b"", client_frame(TEXT, b"\x00") * 10_000, 4008),
    "publishes": (
        b"",
        client_frame(TEXT, b'{"type":"publish","id":2,"channel":"calm-too","data":1}') * 1_000,
        4008,
    ),
    "nothing but opcodes": (b"", b"\x83\x80abcd" * 10_000, 1002),
}


@pytest.mark.parametrize("what", FLOODS)
async def test_a_flood_of_frames(scene: Scene, what: str) -> None:
    first, again, code = FLOODS[what]

    async def one(raw: RawConnection) -> None:
        await raw.send(first)
        await send_repeatedly_until_closed(raw, again, 2 * MB // len(again), code)

    await attack(scene, 10, one, rounds=5)


async def test_flood_of_pings_from_a_client_that_does_not_read(scene: Scene) -> None:
    async def one(raw: RawConnection) -> None:
        await send_repeatedly(raw, client_frame(PING, b"x" * 125) * 1_000, 20)

    await attack(scene, 10, one)


@pytest.mark.parametrize("data", [b"", b"x"], ids=["empty", "of one byte"])
async def test_many_fragments_are_read_slowly(scene: Scene, data: bytes) -> None:
    """Whoever sends them without end is not closed, and harms nobody."""

    async def one(raw: RawConnection) -> None:
        await raw.send(client_frame(TEXT, fin=False) + client_frame(CONT, data, fin=False) * 10_000)
        await publish(scene.gateway.internal, "calm-too", "meanwhile")

    await attack(scene, 10, one)


async def test_a_message_in_a_thousand_fragments_is_a_message(scene: Scene) -> None:
    command = orjson.dumps({"type": "ping", "id": 2, "pad": "x" * 1_000})
    parts = [client_frame(CONT, bytes([byte]), fin=False) for byte in command[1:]]

    async def one(raw: RawConnection) -> None:
        await raw.send(client_frame(TEXT, command[:1], fin=False) + b"".join(parts) + client_frame(CONT))
        assert orjson.loads((await raw.read_frame()).payload) == {"type": "pong", "id": 2}

    await attack(scene, 5, one)


async def test_frames_in_segments_of_one_byte(scene: Scene) -> None:
    message = client_frame(TEXT, orjson.dumps({"type": "ping", "id": 2, "pad": "x" * 1_500}))

    async def one(raw: RawConnection) -> None:
        await raw.send_byte_by_byte(message)
        assert orjson.loads((await raw.read_frame()).payload) == {"type": "pong", "id": 2}

    await attack(scene, 10, one)


async def test_messages_that_never_end(scene: Scene) -> None:
    """Each keeps as much as a message may have, and no more."""
    part = client_frame(CONT, b"x" * 1_023, fin=False)

    holding = asyncio.Semaphore(0)
    everybody_holds = asyncio.Event()

    async def one(raw: RawConnection) -> None:
        await raw.send(
            client_frame(TEXT, b"x" * 1_023, fin=False) + part * 62 + client_frame(CONT, b"x" * 1_000)[:-1]
        )
        holding.release()
        await everybody_holds.wait()

    async def look() -> None:
        for _ in range(300):
            await holding.acquire()
        scene.look()
        everybody_holds.set()

    await asyncio.gather(attack(scene, 300, one), look())


# ---------------------------------------------------------------- parsers


BOMBS: dict[str, bytes] = {
    "arrays in arrays": b"[" * 65_000,
    "arrays in arrays, closed": b"[" * 32_000 + b"]" * 32_000,
    "maps in maps": b'{"a":' * 13_000,
    "many keys": b"{" + b",".join(b'"%d":0' % number for number in range(6_500)) + b"}",
    "the same key": b"{" + b",".join([b'"type":"ping"'] * 4_600) + b"}",
    "a long number": b'{"type":"ping","id":' + b"9" * 65_000 + b"}",
    "a long fraction": b'{"type":"ping","id":0.' + b"3" * 65_000 + b"}",
    "a large exponent": b'{"type":"ping","id":1e' + b"9" * 65_000 + b"}",
    "escapes": b'{"type":"' + b"\\u0041" * 10_000 + b'"}',
    "a string without an end": b'{"type":"' + b"x" * 65_000,
    "many values": b'{"type":"publish","id":2,"channel":"c","data":[' + b"0," * 32_000 + b"0]}",
    "many empty maps": b'{"type":"publish","id":2,"channel":"c","data":[' + b"{}," * 21_000 + b"{}]}",
    "many subscriptions": b'{"type":"connect","id":2,"subs":{'
    + b",".join(b'"%d":{}' % n for n in range(6_000))
    + b"}}",
}
PACKED_BOMBS: dict[str, bytes] = {
    "arrays in arrays": b"\x91" * 65_000,
    "maps in maps": b"\x81\xa1a" * 21_000,
    "many empty arrays": b"\xdc\xff\xff" + b"\x90" * 65_000,
    "an endless array": b"\xdd\xff\xff\xff\xff" + b"\x90" * 65_000,
    "an endless map": b"\xdf\xff\xff\xff\xff" + b"\xa0\x90" * 32_000,
    "announcements in announcements": b"\xdd\xff\xff\xff\xff" * 13_000,
    "many values": b"\x84\xa4type\xa7publish\xa2id\x02\xa7channel\xa1c\xa4data\xdc\xfa\x00"
    + b"\x00" * 64_000,
}


async def _bombs(scene: Scene, opcode: int, bombs: Iterable[bytes], subprotocol: str) -> None:
    data = [client_frame(opcode, bomb) for bomb in bombs]

    async def one(raw: RawConnection) -> None:
        for bomb in data:
            await raw.send(bomb)
        for _ in data:
            assert (await raw.read_frame()).opcode == opcode

    await attack(scene, 10, one, subprotocol=subprotocol)


async def test_json_bombs(scene: Scene) -> None:
    await _bombs(scene, TEXT, [*BOMBS.values()] * 10, JSON)


async def test_msgpack_bombs(scene: Scene) -> None:
    await _bombs(scene, BINARY, [*PACKED_BOMBS.values()] * 20, MSGPACK)


# ---------------------------------------------------------------- many


async def test_two_thousand_connections_that_send_nothing(scene: Scene) -> None:
    with ExitStack() as stack:
        silent = [stack.enter_context(await RawConnection.websocket(scene.port)) for _ in range(2_000)]
        scene.look()
        for raw in silent:
            assert (await raw.read_until_close())[1] == (4001, "connect_timeout")


async def test_five_hundred_handshakes_that_never_complete(scene: Scene) -> None:
    head = upgrade_request()
    with ExitStack() as stack:
        slow = [stack.enter_context(await RawConnection.open(scene.port)) for _ in range(500)]

        async def drip() -> None:
            for at in range(len(head) - 2):
                for raw in slow:
                    await raw.try_send(head[at : at + 1])
                await asyncio.sleep(0.05)

        dripping = asyncio.ensure_future(drip())
        for raw in slow:
            assert (await raw.read_to_end()).startswith((b"", b"HTTP/1.1 408 "))
        dripping.cancel()
        await asyncio.gather(dripping, return_exceptions=True)


HELLO = client_frame(TEXT, orjson.dumps({"type": "connect", "id": 1, "subs": {"crowd": {}, "loud:1": {}}}))


async def _ask_and_leave(raw: RawConnection) -> None:
    await raw.send(upgrade_request()[:100])


async def _open_and_leave(raw: RawConnection) -> None:
    await raw.send(upgrade_request())
    await raw.read_response()


async def _connect(raw: RawConnection) -> None:
    await raw.send(upgrade_request() + HELLO)
    if (await raw.read_response()).status == 101:
        await raw.read_frame()


async def _connect_and_close(raw: RawConnection) -> None:
    await _connect(raw)
    await raw.try_send(close_frame(1000))
    await raw.read_to_end()


async def _connect_and_break_off(raw: RawConnection) -> None:
    await _connect(raw)
    await raw.try_send(HELLO[:20])


async def _connect_and_reset(raw: RawConnection) -> None:
    await _connect(raw)
    raw.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


WAYS = (
    _ask_and_leave,
    _open_and_leave,
    _connect,
    _connect_and_close,
    _connect_and_break_off,
    _connect_and_reset,
)


async def test_three_thousand_connections_that_open_and_close(scene: Scene) -> None:
    """However they go: with a Close or not, with a reset, in the middle of a frame or of the handshake."""

    async def crowd() -> None:
        for way in WAYS * 25:
            with await RawConnection.open(scene.port) as raw:
                await way(raw)

    figures = await scene.gateway.metrics()
    async with asyncio.TaskGroup() as tasks:
        for _ in range(20):
            tasks.create_task(crowd())
    await scene.wait_until_only_the_probe_is_connected()
    after = await scene.gateway.metrics()
    for name in ("hub_sessions", "hub_channels", "heartbeat_sessions", "tasks_running"):
        assert after[name] == figures[name], name


# ---------------------------------------------------------------- slow


async def _reads(client: Client, count: int) -> None:
    for number in range(count):
        assert (await client.next_push("message"))["data"]["number"] == number


@pytest.mark.parametrize("channel", ["crowd", "loud:1"], ids=["with history", "without"])
async def test_readers_that_stop(scene: Scene, channel: str) -> None:
    """Twenty who stop reading what is published to them: bounded while they are waited for, and then gone."""
    with ExitStack() as stack:
        stopped = [
            stack.enter_context(await RawConnection.websocket(scene.port, receive_buffer=8_192))
            for _ in range(20)
        ]
        for raw in stopped:
            await raw.call(type="connect", id=1, subs={channel: {}})
        async with Client.open(scene.port, subs={channel: {}}) as client, asyncio.TaskGroup() as tasks:
            tasks.create_task(_reads(client, 300))
            for number in range(300):
                await publish(scene.gateway.internal, channel, {"number": number, "fill": "x" * 30_000})
                scene.look()
        await scene.wait_until_only_the_probe_is_connected()
