"""Invalid input over real sockets: it gets an error or a close code, and does not affect other clients."""

import random
from collections.abc import Callable, Iterator
from typing import Any

import msgpack
import orjson
import pytest

from protocol import limits
from protocol.errors import ErrorCode
from tests.e2e.clients import (
    BINARY,
    CLOSE,
    JSON,
    MSGPACK,
    PONG,
    TEXT,
    Client,
    Closed,
    RawConnection,
    client_frame,
    close_frame,
)
from tests.e2e.gateway import GatewayProcess, gateway_process
from tests.protocol.bad_frames import BAD_FRAMES, BadFrame

CONFIG = """
[channels]
strict = true
[channels.locked]
subscribe = "nobody"
[channels.members]
subscribe = "authenticated"
[channels.invited]
subscribe = "token"
[channels.plain]
subscribe = "anyone"
publish = "subscribers"
[limits]
channels_per_connection = 3
"""
ROOM = "room"


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    with gateway_process(tmp_path_factory.mktemp("gateway"), CONFIG) as gateway:
        yield gateway


class Speaker:
    """A connected client of either subprotocol that can send anything."""

    def __init__(self, raw: RawConnection, subprotocol: str) -> None:
        self.raw = raw
        binary = subprotocol == MSGPACK
        self._opcode = BINARY if binary else TEXT
        self._pack: Callable[[object], bytes] = msgpack.packb if binary else orjson.dumps
        self._unpack: Callable[[bytes], Any] = msgpack.unpackb if binary else orjson.loads

    async def send_command(self, message: object) -> None:
        await self.raw.send(client_frame(self._opcode, self._pack(message)))

    async def receive(self) -> dict[str, Any]:
        """Return the next message that is not a push of the channel."""
        while True:
            one = await self.raw.read_frame()
            assert one.opcode == self._opcode, one
            message: dict[str, Any] = self._unpack(one.payload)
            if message["type"] not in ("message", "join", "leave"):
                return message

    async def call(self, **command: object) -> dict[str, Any]:
        await self.send_command(command)
        return await self.receive()

    async def assert_still_works(self, other: Client) -> None:
        """Check that this connection still works, and that *other* receives what it publishes."""
        assert await self.call(type="ping", id=99) == {"type": "pong", "id": 99}
        assert (await self.call(type="publish", id=100, channel=ROOM, data="still here"))[
            "type"
        ] == "published"
        assert (await other.next_push("message"))["data"] == "still here"


async def connected(raw: RawConnection, subprotocol: str) -> Speaker:
    speaker = Speaker(raw, subprotocol)
    reply = await speaker.call(type="connect", id=1, subs={ROOM: {}, "plain:1": {}})
    assert reply["subs"][ROOM]["type"] == "subscribed"
    return speaker


async def assert_receives_others(client: Client) -> None:
    await client.call("publish", channel=ROOM, data="I, too")
    assert (await client.next_push("message"))["data"] == "I, too"


# ---------------------------------------------------------------- frames that are no commands


@pytest.mark.parametrize("bad", BAD_FRAMES, ids=lambda bad: bad.name)
async def test_a_frame_that_is_no_command(gateway: GatewayProcess, bad: BadFrame) -> None:
    subprotocol = bad.codec.subprotocol
    opcode = BINARY if bad.codec.binary else TEXT
    with await RawConnection.websocket(gateway.public, subprotocol=subprotocol) as raw:
        speaker = await connected(raw, subprotocol)
        async with Client.open(gateway.public, subs={ROOM: {}}) as other:
            await raw.send(client_frame(opcode, bad.frame))
            if opcode == TEXT and not _is_utf8(bad.frame):
                assert (await raw.expect_close()).code == 1007
            else:
                answer = await speaker.receive()
                assert (answer["type"], answer["code"], answer.get("id")) == ("error", "bad_request", bad.id)
                assert bad.error_part in answer["message"]
                await speaker.assert_still_works(other)
            await assert_receives_others(other)
    assert "Traceback" not in gateway.stderr


def _is_utf8(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


@pytest.mark.parametrize(("subprotocol", "opcode"), [(JSON, BINARY), (MSGPACK, TEXT)])
async def test_a_frame_of_the_other_kind(gateway: GatewayProcess, subprotocol: str, opcode: int) -> None:
    with await RawConnection.websocket(gateway.public, subprotocol=subprotocol) as raw:
        speaker = await connected(raw, subprotocol)
        async with Client.open(gateway.public, subs={ROOM: {}}) as other:
            await raw.send(client_frame(opcode, b'{"type":"ping","id":7}'))
            answer = await speaker.receive()
            assert (answer["type"], answer["code"]) == ("error", "bad_request")
            assert f"{subprotocol} travels in" in answer["message"]
            await speaker.assert_still_works(other)


# ---------------------------------------------------------------- commands that cannot be


def subscribe(**fields: object) -> dict[str, object]:
    return {"type": "subscribe", "id": 7, "channel": "new", **fields}


def publish(**fields: object) -> dict[str, object]:
    return {"type": "publish", "id": 7, "channel": ROOM, "data": 1, **fields}


def history(**fields: object) -> dict[str, object]:
    return {"type": "history", "id": 7, "channel": ROOM, **fields}


LONG = "x" * 129
REFUSED: dict[str, tuple[dict[str, object], ErrorCode]] = {
    "a channel without a name": (subscribe(channel=""), ErrorCode.BAD_REQUEST),
    "a channel with a space": (subscribe(channel="a b"), ErrorCode.BAD_REQUEST),
    "a channel with a line feed": (subscribe(channel="a\n"), ErrorCode.BAD_REQUEST),
    "a channel with a NUL": (subscribe(channel="a\0b"), ErrorCode.BAD_REQUEST),
    "a channel beyond ASCII": (subscribe(channel="café"), ErrorCode.BAD_REQUEST),
    "a channel with a wildcard": (subscribe(channel="*"), ErrorCode.BAD_REQUEST),
    "a channel with braces": (subscribe(channel="{0}"), ErrorCode.BAD_REQUEST),
    "a channel too long": (subscribe(channel=LONG), ErrorCode.BAD_REQUEST),
    "a number as channel": (subscribe(channel=7), ErrorCode.BAD_REQUEST),
    "a list of channels": (subscribe(channel=["a", "b"]), ErrorCode.BAD_REQUEST),
    "no channel": (subscribe(channel=None), ErrorCode.BAD_REQUEST),
    "an unknown namespace": (subscribe(channel="nowhere:1"), ErrorCode.UNKNOWN_CHANNEL),
    "a locked channel": (subscribe(channel="locked:1"), ErrorCode.PERMISSION_DENIED),
    "a channel for users": (subscribe(channel="members:1"), ErrorCode.PERMISSION_DENIED),
    "a channel for the invited": (subscribe(channel="invited:1"), ErrorCode.PERMISSION_DENIED),
    "an invitation that is none": (subscribe(channel="invited:1", token="a.b.c"), ErrorCode.UNAUTHORIZED),
    "somebody's own channel": (subscribe(channel="@ann"), ErrorCode.PERMISSION_DENIED),
    "a channel twice": (subscribe(channel=ROOM), ErrorCode.ALREADY_SUBSCRIBED),
    "a number as token": (subscribe(token=7), ErrorCode.BAD_REQUEST),
    "a token of 9,000 characters": (subscribe(token="x" * 9_000), ErrorCode.BAD_REQUEST),
    "a since that is no id": (subscribe(since="yesterday"), ErrorCode.BAD_REQUEST),
    "a since without a uid": (subscribe(since="5-"), ErrorCode.BAD_REQUEST),
    "a since below zero": (subscribe(since="-1-abc"), ErrorCode.BAD_REQUEST),
    "a since beyond all numbers": (subscribe(since="9" * 400 + "-abc"), ErrorCode.BAD_REQUEST),
    "a number as since": (subscribe(since=5), ErrorCode.BAD_REQUEST),
    "a rewind below zero": (subscribe(rewind=-1), ErrorCode.BAD_REQUEST),
    "a fractional rewind": (subscribe(rewind=1.5), ErrorCode.BAD_REQUEST),
    "a rewind in words": (subscribe(rewind="all"), ErrorCode.BAD_REQUEST),
    "true as rewind": (subscribe(rewind=True), ErrorCode.BAD_REQUEST),
    "a join_leave that is no flag": (subscribe(join_leave="yes"), ErrorCode.BAD_REQUEST),
    "a members that is no flag": (subscribe(members=1), ErrorCode.BAD_REQUEST),
    "leaving where one is not": (
        {"type": "unsubscribe", "id": 7, "channel": "new"},
        ErrorCode.NOT_SUBSCRIBED,
    ),
    "no data": ({"type": "publish", "id": 7, "channel": ROOM}, ErrorCode.BAD_REQUEST),
    "publishing to a locked channel": (publish(channel="locked:1"), ErrorCode.PERMISSION_DENIED),
    "publishing where one is not": (publish(channel="plain:2"), ErrorCode.PERMISSION_DENIED),
    "a key too long": (publish(key=LONG), ErrorCode.BAD_REQUEST),
    "an empty key": (publish(key=""), ErrorCode.BAD_REQUEST),
    "a number as key": (publish(key=7), ErrorCode.BAD_REQUEST),
    "presence that is not kept": ({"type": "presence", "id": 7, "channel": "plain:1"}, ErrorCode.BAD_REQUEST),
    "presence elsewhere": ({"type": "presence", "id": 7, "channel": "plain:2"}, ErrorCode.NOT_SUBSCRIBED),
    "history that is not kept": (history(channel="plain:1"), ErrorCode.BAD_REQUEST),
    "history elsewhere": (history(channel="new"), ErrorCode.NOT_SUBSCRIBED),
    "history since nothing": (history(since="123456-nonsense"), ErrorCode.BAD_REQUEST),
    "a limit below zero": (history(limit=-1), ErrorCode.BAD_REQUEST),
    "a limit in words": (history(limit="10"), ErrorCode.BAD_REQUEST),
    "a reverse that is no flag": (history(reverse="true"), ErrorCode.BAD_REQUEST),
    "a refresh with nothing": ({"type": "refresh", "id": 7}, ErrorCode.BAD_REQUEST),
    "a refresh with no token": ({"type": "refresh", "id": 7, "token": "a.b.c"}, ErrorCode.UNAUTHORIZED),
}


@pytest.mark.parametrize("subprotocol", [JSON, MSGPACK])
@pytest.mark.parametrize("what", REFUSED)
async def test_a_command_that_is_rejected(gateway: GatewayProcess, what: str, subprotocol: str) -> None:
    command, code = REFUSED[what]
    with await RawConnection.websocket(gateway.public, subprotocol=subprotocol) as raw:
        speaker = await connected(raw, subprotocol)
        async with Client.open(gateway.public, subs={ROOM: {}}) as other:
            answer = await speaker.call(**command)
            assert (answer["type"], answer["code"], answer["id"]) == ("error", code, 7), answer
            assert answer["message"]
            await speaker.assert_still_works(other)
            await assert_receives_others(other)
    assert "Traceback" not in gateway.stderr


@pytest.mark.parametrize("subprotocol", [JSON, MSGPACK])
async def test_failed_subscription_in_connect_does_not_affect_others(
    gateway: GatewayProcess, subprotocol: str
) -> None:
    bad = {"a b": {}, LONG: {}, "café": {}, "new": {"since": 5}, "plain:1": True}
    with await RawConnection.websocket(gateway.public, subprotocol=subprotocol) as raw:
        speaker = Speaker(raw, subprotocol)
        reply = await speaker.call(type="connect", id=1, subs={**bad, ROOM: {}})
        assert reply["type"] == "connected"
        answer = {name: each.get("code", each["type"]) for name, each in reply["subs"].items()}
        assert answer == {**dict.fromkeys(bad, "bad_request"), ROOM: "subscribed"}
        async with Client.open(gateway.public, subs={ROOM: {}}) as other:
            await speaker.assert_still_works(other)


async def test_more_channels_than_a_connection_may_follow(gateway: GatewayProcess) -> None:
    with await RawConnection.websocket(gateway.public) as raw:
        speaker = await connected(raw, JSON)
        assert (await speaker.call(**subscribe(channel="third")))["type"] == "subscribed"
        assert (await speaker.call(**subscribe(channel="fourth")))["code"] == "limit_exceeded"
        assert (await speaker.call(type="unsubscribe", id=8, channel="third"))["type"] == "unsubscribed"
        assert (await speaker.call(**subscribe(channel="fourth")))["type"] == "subscribed"


UNFIT: dict[str, dict[str, object]] = {
    "a list of subs": {"subs": [ROOM]},
    "more subs than anybody has": {"subs": {f"c{number}": {} for number in range(1_001)}},
    "a number as token": {"token": 7},
    "a client that is no map": {"client": "me"},
    "a client with a number as name": {"client": {"name": 7, "version": "1"}},
}


@pytest.mark.parametrize("subprotocol", [JSON, MSGPACK])
@pytest.mark.parametrize("what", UNFIT)
async def test_invalid_connect_may_be_followed_by_a_valid_one(
    gateway: GatewayProcess, what: str, subprotocol: str
) -> None:
    with await RawConnection.websocket(gateway.public, subprotocol=subprotocol) as raw:
        speaker = Speaker(raw, subprotocol)
        answer = await speaker.call(type="connect", id=7, **UNFIT[what])
        assert (answer["type"], answer["code"], answer["id"]) == ("error", "bad_request", 7)
        assert (await speaker.call(type="connect", id=8))["type"] == "connected"


async def test_each_failed_subscription_of_connect_fails_alone(gateway: GatewayProcess) -> None:
    async with Client.open(gateway.public, subs={"locked:1": {}, "nowhere:1": {}, ROOM: {}}) as client:
        subs = client.connected["subs"]
        assert {name: sub.get("code") for name, sub in subs.items()} == {
            "locked:1": "permission_denied",
            "nowhere:1": "unknown_channel",
            ROOM: None,
        }
        await assert_receives_others(client)


# ---------------------------------------------------------------- noise


@pytest.mark.parametrize("subprotocol", [JSON, MSGPACK])
async def test_random_bytes_are_answered_with_well_formed_frames(
    gateway: GatewayProcess, subprotocol: str
) -> None:
    """Random bytes, and commands with random bytes in them: all answers are well-formed frames."""
    noise = random.Random(subprotocol)
    whole = orjson.dumps({"type": "publish", "id": 7, "channel": ROOM, "data": {"a": [1, "é", None]}})
    async with Client.open(gateway.public, subs={ROOM: {}}) as other:
        for _ in range(150):
            with await RawConnection.websocket(gateway.public, subprotocol=subprotocol) as raw:
                await connected(raw, subprotocol)
                data = bytearray(client_frame(noise.choice([TEXT, BINARY]), whole))
                for _ in range(noise.randrange(1, 8)):
                    data[noise.randrange(len(data))] = noise.randrange(256)
                await raw.try_send(bytes(data) + noise.randbytes(noise.randrange(20)))
                await raw.try_send(close_frame(1000))
                raw.socket.shutdown(1)
                await _ends_well(raw)
        await other.call("publish", channel=ROOM, data="last")
        while (await other.next_push("message"))["data"] != "last":
            pass
    assert "Traceback" not in gateway.stderr


async def _ends_well(raw: RawConnection) -> None:
    """Read well-formed frames to the end; a Close is the last of them."""
    while (one := await raw.read_frame_if_any()) is not None:
        assert one.opcode in (TEXT, BINARY, CLOSE, PONG)
        if one.opcode == CLOSE and one.payload:
            code = int.from_bytes(one.payload[:2], "big")
            assert code in (1000, 1002, 1007, 1009) or 3000 <= code < 5000
        if one.opcode == CLOSE:
            assert await raw.read_to_end() == b""
            return


async def test_error_replies_are_bounded_by_the_size_of_the_command(gateway: GatewayProcess) -> None:
    """A client cannot make the gateway send much by sending little that is invalid."""
    with await RawConnection.websocket(gateway.public) as raw:
        speaker = await connected(raw, JSON)
        for command in (
            {"type": "x" * 60_000, "id": 7},
            {"type": "subscribe", "id": 7, "channel": "x" * 60_000},
            {"type": "subscribe", "id": 7, "channel": "new", "since": "x" * 60_000},
            {"x" * 60_000: 7, "type": "ping", "id": "y" * 1_000},
        ):
            await speaker.send_command(command)
            one = await raw.read_frame()
            assert len(one.payload) < 1_000, one.payload[:1_000]
        assert await speaker.call(type="ping", id=8) == {"type": "pong", "id": 8}


async def test_message_of_exactly_the_limit_is_accepted(gateway: GatewayProcess) -> None:
    async with Client.open(gateway.public, subs={ROOM: {}}) as client:
        room = 64 * 1024 - len('""')
        assert (await client.call("publish", channel=ROOM, data="x" * room))["type"] == "published"
        assert len((await client.next_push("message"))["data"]) == room
        error = await client.call("publish", channel=ROOM, data="x" * (room + 1))
        assert (error["type"], error["code"]) == ("error", "too_large")
        # Beyond what base64 of the largest data may need, nothing is parsed.
        most = limits.ENCODED_SIZE
        frame = {"type": "publish", "id": 9, "channel": ROOM, "data": ""}
        data = "x" * (most - len(orjson.dumps(frame)))
        await client.send({**frame, "data": data})
        assert (await client.next_push("error"))["code"] == "too_large"
        await client.send({**frame, "data": data + "x"})
        assert await client.expect_close() == Closed(
            1009, f"frame with {most + 1} bytes exceeds limit of {most} bytes"
        )
