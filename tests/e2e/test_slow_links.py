"""Clients on slow lines: a connection on which bytes travel is kept, whatever the sizes; a resume ends."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from tests.chaos.proxy import Proxy
from tests.chaos.relay import LinkConditions
from tests.e2e.clients import Client, RawConnection
from tests.e2e.gateway import GatewayProcess, gateway_process
from tests.e2e.nginx import running_nginx

CONFIG = """
[heartbeat]
interval = "500ms"
grace = "500ms"

[outbox]
stall_timeout = "5s"

[listen.public]
user_timeout = "2s"

[channels.kept]
subscribe = "anyone"
publish = "anyone"
history = 1000
presence = true
join_leave = true
"""
RATES = pytest.mark.parametrize("rate", [2_000, 10_000, 25_000])
"""Bytes per second of a line."""
SECONDS = 5
"""What travels takes as long: several times the interval and the grace of the heartbeat together."""
FILL = "x" * 400
MESSAGE_BYTES = 520
"""Of a message with `FILL`, about."""
BYTES_UNTIL_CUT = 60_000
WINDOW = 4096
"""The receive buffer of the proxies: what they hold unread is soon noticed."""
TIMEOUT_SECONDS = 30.0


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    with gateway_process(tmp_path_factory.mktemp("gateway"), CONFIG) as gateway:
        yield gateway


@asynccontextmanager
async def slow_line(port: int, *, down: float | None = None, up: float | None = None) -> AsyncIterator[Proxy]:
    """Run a proxy to *port* that lets as many bytes per second pass."""
    async with Proxy.open(port, buffer_bytes=WINDOW, queued_pieces=1) as proxy:
        if down is not None:
            proxy.impair(down=LinkConditions(bytes_per_second=down))
        if up is not None:
            proxy.impair(up=LinkConditions(bytes_per_second=up))
        yield proxy


async def publish_many(gateway: GatewayProcess, channel: str, count: int, *, begin: int = 0) -> None:
    numbers = range(begin, begin + count)
    commands = [{"publish": {"channel": channel, "data": [number, FILL]}} for number in numbers]
    answer = (await gateway.request("POST", "/v1/batch", {"commands": commands})).json()
    assert not [result for result in answer["results"] if "error" in result]


async def position_of(gateway: GatewayProcess, channel: str) -> str:
    async with Client.open(gateway.public, subs={channel: {}}) as client:
        position: str = client.connected["subs"][channel]["position"]
        return position


async def next_message(client: Client) -> dict[str, Any]:
    return await next_push(client, "message")


async def next_push(client: Client, type: str) -> dict[str, Any]:
    """Return the next push of *type*; answer every `ping` before it at once."""
    async with asyncio.timeout(TIMEOUT_SECONDS):
        while (message := await client.receive())["type"] != type:
            if message["type"] == "ping":
                await client.send({"type": "pong"})
    return message


async def read_messages(client: Client, count: int) -> list[int]:
    return [(await next_message(client))["data"][0] for _ in range(count)]


@RATES
async def test_steady_reader_of_a_backlog_is_kept(gateway: GatewayProcess, rate: int) -> None:
    channel, count = f"kept:reader-{rate}", rate * SECONDS // MESSAGE_BYTES
    async with (
        slow_line(gateway.public, down=rate) as line,
        Client.open(line.port, subs={channel: {}}) as client,
    ):
        await publish_many(gateway, channel, count)
        assert await read_messages(client, count) == list(range(count))
        assert (await client.call("ping"))["type"] == "pong"


@RATES
async def test_resume_ends_and_its_connection_is_kept(gateway: GatewayProcess, rate: int) -> None:
    channel, count = f"kept:resume-{rate}", rate * SECONDS // MESSAGE_BYTES
    since = await position_of(gateway, channel)
    await publish_many(gateway, channel, count)
    async with (
        slow_line(gateway.public, down=rate) as line,
        Client.open(line.port, subs={channel: {"since": since}}) as client,
    ):
        reply = client.connected["subs"][channel]
        assert reply["recovered"]
        received = [message["data"][0] for message in reply["messages"]]
        received += await read_messages(client, count - len(received))
        assert received == list(range(count))


async def test_client_that_is_cut_while_it_resumes_has_advanced(gateway: GatewayProcess) -> None:
    channel, count, received, lives = "kept:cut", 400, list[int](), 0
    since = await position_of(gateway, channel)
    await publish_many(gateway, channel, count)
    while len(received) < count:
        lives += 1
        assert lives < 10, f"position unchanged after {len(received)} messages"
        with await RawConnection.websocket(gateway.public) as raw:
            await raw.send_command(type="connect", id=1, subs={channel: {"since": since}})
            left = BYTES_UNTIL_CUT
            while (left := left - await announced_size(raw)) > 0 and len(received) < count:
                message = await raw.receive()
                if message["type"] == "connected":
                    reply = message["subs"][channel]
                    assert reply["recovered"]
                    received += [each["data"][0] for each in reply["messages"]]
                    since = reply["position"]
                elif message["type"] == "message":
                    received.append(message["data"][0])
                    since = message["message"]
    assert received == list(range(count))
    assert lives > 2


async def announced_size(raw: RawConnection) -> int:
    """Return the size of the next frame, of which only the header was read."""
    while len(raw.peek()) < 4:
        await raw.read_more()
    head = raw.peek()
    if head[1] < 126:
        return 2 + head[1]
    if head[1] == 126:
        return 4 + int.from_bytes(head[2:4], "big")
    while len(raw.peek()) < 10:
        await raw.read_more()
    return 10 + int.from_bytes(raw.peek()[2:10], "big")


# ---------------------------------------------------------------- uploads


@RATES
async def test_client_that_sends_a_large_command_slowly_is_kept(gateway: GatewayProcess, rate: int) -> None:
    channel, data = f"kept:upload-{rate}", "y" * min(60_000, rate * SECONDS)
    async with (
        slow_line(gateway.public, up=rate) as line,
        Client.open(gateway.public, subs={channel: {}}) as reader,
        Client.open(line.port, subs={channel: {}}) as client,
    ):
        async with asyncio.timeout(TIMEOUT_SECONDS):
            await client.send({"type": "publish", "id": 2, "channel": channel, "data": data})
            assert (await next_message(reader))["data"] == data
            assert (await next_message(client))["data"] == data
        assert (await client.call("ping"))["type"] == "pong"


# ---------------------------------------------------------------- behind a proxy that takes more than is read


@pytest.fixture(scope="module")
def behind_nginx(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[GatewayProcess, int]]:
    """A gateway, and the port of nginx in front of it.

    nginx takes more each time that a third of its send buffer is free: at these rates after seconds.
    """
    home = tmp_path_factory.mktemp("gateway")
    with (
        gateway_process(home, CONFIG, OUTBOX__STALL_TIMEOUT="60s") as gateway,
        running_nginx(tmp_path_factory.mktemp("nginx"), gateway.public) as port,
    ):
        yield gateway, port


@RATES
async def test_resume_behind_nginx_ends_and_its_connection_is_kept(
    behind_nginx: tuple[GatewayProcess, int], rate: int
) -> None:
    gateway, nginx = behind_nginx
    channel, count = f"kept:nginx-{rate}", rate * SECONDS // MESSAGE_BYTES
    since = await position_of(gateway, channel)
    await publish_many(gateway, channel, count)
    async with (
        slow_line(nginx, down=rate) as line,
        Client.open(line.port, subs={channel: {"since": since}}) as client,
    ):
        reply = client.connected["subs"][channel]
        assert reply["recovered"]
        received = [message["data"][0] for message in reply["messages"]]
        received += await read_messages(client, count - len(received))
        assert received == list(range(count))
        assert (await client.call("ping"))["type"] == "pong"


# ---------------------------------------------------------------- no progress


@pytest.mark.parametrize("waiting", [0, 20, 2_000])
async def test_client_that_reads_nothing_is_aborted(gateway: GatewayProcess, waiting: int) -> None:
    """With nothing, with less and with more than the buffers hold: its kernel acknowledges what it can."""
    channel = f"kept:stopped-{waiting}"
    async with Client.open(gateway.public) as watcher:
        await watcher.call("subscribe", channel=channel, join_leave=True)
        with await RawConnection.websocket(gateway.public, receive_buffer=WINDOW) as raw:
            await raw.send_command(type="connect", id=1, subs={channel: {}})
            await next_push(watcher, "join")
            for begin in range(0, waiting, 1_000):
                await publish_many(gateway, channel, min(1_000, waiting - begin), begin=begin)
            await next_push(watcher, "leave")


async def test_line_on_which_nothing_travels_any_more_is_aborted(gateway: GatewayProcess) -> None:
    channel = "kept:blocked"
    async with (
        Client.open(gateway.public) as watcher,
        slow_line(gateway.public) as line,
        Client.open(line.port, subs={channel: {}}),
    ):
        await watcher.call("subscribe", channel=channel, join_leave=True, members=True)
        line.impair(down=LinkConditions(blocked=True))
        await publish_many(gateway, channel, 400)
        await next_push(watcher, "leave")
        line.cut()
