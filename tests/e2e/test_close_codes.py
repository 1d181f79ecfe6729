"""Every close code that one node sends (docs/protocol.md#close-codes), each with its cause.

`RawConnection.expect_close` answers each Close frame and checks that the connection ends after it. 4013 needs
a lease, and therefore Redis: tests/broker has its test.
"""

import asyncio
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgpack
import orjson
import pytest

from protocol.limits import ENCODED_SIZE
from tests.e2e.clients import (
    BINARY,
    CLOSE,
    CONT,
    JSON,
    MSGPACK,
    PING,
    TEXT,
    Client,
    Closed,
    RawConnection,
    client_frame,
    close_frame,
)
from tests.e2e.gateway import GatewayProcess, gateway_on_loop, gateway_process, publish, token
from tests.gateway.access.signing import forged

LOCKED = "[push]\nkeys = ['dev']\n"


def command(subprotocol: str, **fields: object) -> bytes:
    if subprotocol == MSGPACK:
        return client_frame(BINARY, msgpack.packb(fields))
    return client_frame(TEXT, orjson.dumps(fields))


@pytest.mark.parametrize("subprotocol", [JSON, MSGPACK])
async def test_4000_drain(tmp_path: Path, subprotocol: str) -> None:
    async with (
        gateway_on_loop(tmp_path) as gateway,
        Client.open(gateway.public, subprotocol=subprotocol) as client,
    ):
        with await RawConnection.websocket(gateway.public, subprotocol=subprotocol) as unconnected:
            gateway.stop.set()
            outcome = await client.next_push("reconnect")
            assert outcome["reason"] == "drain"
            assert 0 <= outcome["after_ms"] <= 1_000
            assert await client.expect_close() == (4000, "drain")
            assert await unconnected.expect_close() == (4000, "drain")


@pytest.mark.parametrize("subprotocol", [JSON, MSGPACK])
async def test_4001_connect_timeout(tmp_path: Path, subprotocol: str) -> None:
    async with gateway_on_loop(tmp_path, limits__connect_timeout=0.2) as gateway:
        with (
            await RawConnection.websocket(gateway.public, subprotocol=subprotocol) as silent,
            await RawConnection.websocket(gateway.public, subprotocol=subprotocol) as confused,
            await RawConnection.websocket(gateway.public, subprotocol=subprotocol) as half,
        ):
            await confused.send(command(subprotocol, type="nonsense", id=1))
            late = command(subprotocol, type="connect", id=1)
            await half.send(late[:-1])
            assert await silent.expect_close() == (4001, "connect_timeout")
            assert await confused.expect_close() == (4001, "connect_timeout")
            assert await half.read_until_close() == ([], (4001, "connect_timeout"))
            await half.send(late[-1:] + close_frame(4001))
            assert await half.read_to_end() == b"", "too late"


@pytest.mark.parametrize("subprotocol", [JSON, MSGPACK])
async def test_4002_another_command_before_connect(tmp_path: Path, subprotocol: str) -> None:
    async with gateway_on_loop(tmp_path) as gateway, Client.open(gateway.public, subs={"news": {}}) as other:
        with await RawConnection.websocket(gateway.public, subprotocol=subprotocol) as raw:
            early = command(subprotocol, type="publish", id=1, channel="news", data="never")
            await raw.send(early + command(subprotocol, type="connect", id=2) + early)
            frames, said = await raw.read_until_close()
            assert (frames, said) == ([], Closed(4002, "publish: connect must come first"))
            await raw.send(early + close_frame(4002))
            assert await raw.read_to_end() == b""
        await other.call("publish", channel="news", data="first")
        assert (await other.next_push("message"))["data"] == "first"


@pytest.mark.parametrize("subprotocol", [JSON, MSGPACK])
async def test_4002_a_second_connect(tmp_path: Path, subprotocol: str) -> None:
    async with gateway_on_loop(tmp_path) as gateway:
        with await RawConnection.websocket(gateway.public, subprotocol=subprotocol) as raw:
            await raw.send(command(subprotocol, type="connect", id=1) * 2)
            frames, said = await raw.read_until_close()
            assert len(frames) == 1
            assert said == (4002, "connect: connect comes once")
            await raw.send(close_frame(4002))
            assert await raw.read_to_end() == b""


@pytest.mark.parametrize("given", ["no.token.really", None])
async def test_4003_unauthorized(tmp_path: Path, given: str | None) -> None:
    async with gateway_on_loop(tmp_path, LOCKED, dev=False) as gateway:
        with await RawConnection.websocket(gateway.public) as raw:
            fields = {} if given is None else {"token": given}
            outcome = await raw.call(type="connect", id=7, **fields)
            assert (outcome["type"], outcome["id"], outcome["code"]) == ("error", 7, "unauthorized")
            assert (await raw.expect_close()).code == 4003


async def test_4004_a_token_that_has_expired(tmp_path: Path) -> None:
    async with gateway_on_loop(tmp_path, LOCKED, dev=False) as gateway:
        with await RawConnection.websocket(gateway.public) as raw:
            old = token("ann", now=time.time() - 100, ttl=50)
            outcome = await raw.call(type="connect", id=1, token=old)
            assert (outcome["type"], outcome["code"]) == ("error", "token_expired")
            assert (await raw.expect_close()).code == 4004


async def test_4004_a_token_that_expires(tmp_path: Path) -> None:
    async with gateway_on_loop(tmp_path, LOCKED, dev=False) as gateway:
        with await RawConnection.websocket(gateway.public) as raw:
            connected = await raw.call(type="connect", id=1, token=token("ann", now=time.time(), ttl=2))
            assert 0 < connected["expires_in"] <= 2
            outcome = await raw.receive()
            assert outcome["type"] == "expiring"
            assert 0 < outcome["in"] < 2
            assert await raw.expect_close() == (4004, "token_expired")


async def test_4004_is_not_sent_after_a_refresh(tmp_path: Path) -> None:
    async with (
        gateway_on_loop(tmp_path, LOCKED, dev=False) as gateway,
        Client.open(gateway.public, token=token("ann", now=time.time(), ttl=2)) as client,
    ):
        await client.next_push("expiring")
        reply = await client.call("refresh", token=token("ann", now=time.time(), ttl=4))
        assert reply["type"] == "refreshed"
        assert 2 < reply["expires_in"] <= 4
        await client.next_push("expiring")
        assert (await client.expect_close()).code == 4004


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (None, Closed(4005, "disconnected")),
        ({"code": 4444, "reason": "signed out ☂"}, Closed(4444, "signed out ☂")),
        ({"reason": "x" * 123}, Closed(4005, "x" * 123)),
    ],
)
async def test_4005_disconnected_by_the_api(tmp_path: Path, body: object, said: Closed) -> None:
    ann = token("ann", now=time.time())
    async with gateway_on_loop(tmp_path) as gateway, Client.open(gateway.public) as other:
        with (
            await RawConnection.websocket(gateway.public) as raw,
            await RawConnection.websocket(gateway.public, subprotocol=MSGPACK) as another,
        ):
            await raw.call(type="connect", id=1, token=ann)
            await another.send(command(MSGPACK, type="connect", id=1, token=ann))
            await another.read_frame()
            answer = await gateway.request("POST", "/v1/users/ann/disconnect", body)
            assert (answer.status_code, answer.json()) == (200, {"connections": 2})
            assert await raw.expect_close() == said
            assert await another.expect_close() == said
        assert (await other.call("ping"))["type"] == "pong"


SLOW = """
[channels.feed]
subscribe = "anyone"
on_slow = "disconnect"
[listen.public]
send_buffer = "8KiB"
"""


async def test_4006_slow_consumer(tmp_path: Path) -> None:
    async with gateway_on_loop(tmp_path, SLOW, outbox__size=128 * 1024) as gateway:
        with await RawConnection.websocket(gateway.public, receive_buffer=8 * 1024) as slow:
            assert (await slow.call(type="connect", id=1, subs={"feed:1": {}}))["type"] == "connected"
            async with Client.open(gateway.public, subs={"feed:1": {}}) as fast:
                number = 0
                while len(gateway.gateway.hub.sessions) == 2:
                    await publish(gateway.internal, "feed:1", {"number": number, "fill": "x" * 16_000})
                    assert (await fast.next_push("message"))["data"]["number"] == number, (
                        "who reads is not hurt"
                    )
                    number += 1
            frames, said = await slow.read_until_close()
            numbers = [orjson.loads(one.payload)["data"]["number"] for one in frames]
            assert numbers == list(range(len(numbers))), "what came, came in order"
            assert said == (4006, "slow_consumer")
            await slow.send(close_frame(4006))
            assert await slow.read_to_end() == b""


async def test_4007_heartbeat_timeout(tmp_path: Path) -> None:
    async with gateway_on_loop(tmp_path, heartbeat__interval=0.3, heartbeat__grace=0.2) as gateway:
        with (
            await RawConnection.websocket(gateway.public) as dead,
            await RawConnection.websocket(gateway.public) as alive,
        ):
            assert (await dead.call(type="connect", id=1))["heartbeat"] == 0.3
            await alive.call(type="connect", id=1)
            ended = asyncio.ensure_future(dead.read_until_close())
            while not ended.done():
                assert await alive.receive() == {"type": "ping"}
                await alive.send_command(type="pong")
            frames, said = await ended
            assert [one.payload for one in frames] == [b'{"type":"ping"}']
            assert said == (4007, "heartbeat_timeout")
            await dead.send(close_frame(4007))
            assert await dead.read_to_end() == b""
            assert await alive.call(type="ping", id=2) in ({"type": "pong", "id": 2}, {"type": "ping"})


async def test_4008_rate_limited(tmp_path: Path) -> None:
    settings: dict[str, Any] = {
        "limits__commands_per_second": 0.5,
        "limits__command_burst": 5,
        "limits__strikes": 3,
    }
    async with gateway_on_loop(tmp_path, **settings) as gateway, Client.open(gateway.public) as other:
        with await RawConnection.websocket(gateway.public) as raw:
            await raw.send(command(JSON, type="connect", id=1) + command(JSON, type="ping", id=2) * 50)
            frames, said = await raw.read_until_close()
            replies = [orjson.loads(one.payload) for one in frames]
            assert [reply["type"] for reply in replies] == ["connected"] + ["pong"] * 4 + ["error"] * 2
            assert [reply["code"] for reply in replies[5:]] == ["rate_limited"] * 2
            assert all(reply["retry_after_ms"] > 0 for reply in replies[5:])
            assert said == (4008, "rate_limited")
            await raw.send(close_frame(4008))
            assert await raw.read_to_end() == b""
        assert (await other.call("ping"))["type"] == "pong"


async def test_4010_connection_limit(tmp_path: Path) -> None:
    ann = token("ann", now=time.time())
    async with gateway_on_loop(tmp_path, limits__connections_per_user=1) as gateway:
        async with Client.open(gateway.public, token=ann) as first:
            with await RawConnection.websocket(gateway.public) as second:
                outcome = await second.call(type="connect", id=1, token=ann)
                assert (outcome["type"], outcome["code"]) == ("error", "limit_exceeded")
                assert (await second.expect_close()).code == 4010
            assert (await first.call("ping"))["type"] == "pong"
        async with Client.open(gateway.public, token=ann) as again:
            assert again.connected["user"] == "ann", "the place is free again"


async def test_4011_internal(tmp_path: Path) -> None:
    """The keys for tokens cannot be fetched: not the fault of the client."""
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{nobody.getsockname()[1]}/jwks.json"
        async with gateway_on_loop(tmp_path, auth__secret=None, auth__jwks_url=url) as gateway:
            with await RawConnection.websocket(gateway.public) as raw:
                claims = {"sub": "ann", "exp": int(time.time()) + 60}
                unknown = forged({"alg": "EdDSA", "kid": "unknown"}, claims)
                outcome = await raw.call(type="connect", id=1, token=unknown)
                assert (outcome["type"], outcome["code"]) == ("error", "unavailable")
                assert outcome["retry_after_ms"] > 0
                assert (await raw.expect_close()).code == 4011


async def test_4012_replaced(tmp_path: Path) -> None:
    ann = token("ann", now=time.time())
    settings: dict[str, Any] = {"limits__connections_per_user": 1, "limits__per_user_policy": "replace"}
    async with gateway_on_loop(tmp_path, **settings) as gateway:
        with await RawConnection.websocket(gateway.public) as first:
            await first.call(type="connect", id=1, token=ann)
            async with Client.open(gateway.public, token=ann) as second:
                assert await first.expect_close() == (4012, "replaced")
                assert (await second.call("ping"))["type"] == "pong"


# ---------------------------------------------------------------- RFC 6455


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    with gateway_process(tmp_path_factory.mktemp("gateway")) as gateway:
        yield gateway


LARGEST = ENCODED_SIZE
TOO_BIG = {
    "announced": client_frame(TEXT, length=LARGEST + 1),
    "announced beyond all measure": client_frame(BINARY, length=2**63 - 1),
    "whole": client_frame(TEXT, b"x" * (LARGEST + 1)),
    "whole, and more behind it": client_frame(TEXT, b"x" * 1_000_000),
    "in two fragments": client_frame(TEXT, b"x" * 50_000, fin=False) + client_frame(CONT, b"x" * 50_000),
    "the last of many fragments": client_frame(TEXT, b"x" * (LARGEST - 1), fin=False)
    + client_frame(CONT, b"x", fin=False)
    + client_frame(CONT, b"x"),
}


@pytest.mark.parametrize("how", TOO_BIG)
@pytest.mark.parametrize("subprotocol", [JSON, MSGPACK])
async def test_1009_message_too_big(gateway: GatewayProcess, how: str, subprotocol: str) -> None:
    with await RawConnection.websocket(gateway.public, subprotocol=subprotocol) as raw:
        await raw.try_send(TOO_BIG[how])
        assert (await raw.expect_close()).code == 1009


NOT_TEXT = {
    "at once": client_frame(TEXT, b"\xc3\x28"),
    "a surrogate": client_frame(TEXT, b"\xed\xa0\x80"),
    "in two fragments": client_frame(TEXT, b"\xe2\x82", fin=False) + client_frame(CONT, b"\x28"),
    "cut off": client_frame(TEXT, b'{"type":"connect","id":1}\xe2\x82'),
    "as a reason": client_frame(CLOSE, b"\x03\xe8\xff"),
}


@pytest.mark.parametrize("how", NOT_TEXT)
@pytest.mark.parametrize("subprotocol", [JSON, MSGPACK])
async def test_1007_text_that_is_not_utf8(gateway: GatewayProcess, how: str, subprotocol: str) -> None:
    with await RawConnection.websocket(gateway.public, subprotocol=subprotocol) as raw:
        await raw.send(NOT_TEXT[how])
        assert (await raw.expect_close()).code == 1007


BROKEN = {
    "not masked": client_frame(TEXT, b"{}", masked=False),
    "a reserved bit": client_frame(TEXT, b"{}", rsv=4),
    "a reserved opcode": client_frame(3, b"{}"),
    "a reserved control opcode": client_frame(0xB),
    "a continuation of nothing": client_frame(CONT, b"{}"),
    "a message within a message": client_frame(TEXT, b"{", fin=False) + client_frame(TEXT, b"}"),
    "a control frame in fragments": client_frame(PING, fin=False),
    "a control frame too long": client_frame(PING, b"x" * 126),
    "a Close of one byte": client_frame(CLOSE, b"\x03"),
    "a Close with a code that is none": close_frame(1005),
    "a Close with a code below all": close_frame(999),
    "a Close with a code above all": close_frame(5000),
}


@pytest.mark.parametrize("how", BROKEN)
async def test_1002_protocol_error(gateway: GatewayProcess, how: str) -> None:
    with await RawConnection.websocket(gateway.public) as raw:
        await raw.send(BROKEN[how])
        assert (await raw.expect_close()).code == 1002


@pytest.mark.parametrize(
    "said",
    [
        client_frame(CLOSE),
        close_frame(1000),
        close_frame(1001, "tab closed"),
        close_frame(3000),
        close_frame(4999),
    ],
    ids=["none", "1000", "1001", "3000", "4999"],
)
@pytest.mark.parametrize(
    "fragment", [b"", client_frame(TEXT, b"{", fin=False)], ids=["plain", "within a message"]
)
async def test_a_clients_close_is_answered_with_its_own_code(
    gateway: GatewayProcess, said: bytes, fragment: bytes
) -> None:
    with await RawConnection.websocket(gateway.public) as raw:
        await raw.call(type="connect", id=1)
        await raw.send(fragment + said + client_frame(TEXT, b'{"type":"ping","id":2}'))
        answer = await raw.read_frame()
        assert client_frame(CLOSE, answer.payload) == said
        assert await raw.read_to_end() == b""
