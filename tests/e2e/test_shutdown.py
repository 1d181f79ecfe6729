"""The shutdown of a node while clients of every kind are connected."""

import asyncio
import os
import signal
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path

import orjson
import pytest

from tests.e2e.clients import (
    JSON,
    MSGPACK,
    TEXT,
    Client,
    RawConnection,
    client_frame,
    close_frame,
    upgrade_request,
)
from tests.e2e.gateway import LOG_NAME, GatewayProcess, gateway_process, gateway_process_logging_to, publish

# The first group of clients leaves at once, the last after a second; who does not answer has five more.
DRAIN = 10.0
CONFIG = f"""
[listen.public]
send_buffer = "8KiB"
header_timeout = "30s"
[drain]
timeout = "{DRAIN:.0f}s"
window = "1s"
"""
CLIENTS = 20


@contextmanager
def hangups(handler: signal.Handlers) -> Iterator[None]:
    """Let what is started meanwhile begin with *handler* for SIGHUP, whatever the tests run under."""
    before = signal.signal(signal.SIGHUP, handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator[GatewayProcess]:
    with hangups(signal.SIG_DFL), gateway_process(tmp_path, CONFIG) as gateway:
        yield gateway


async def stay(port: int, stack: AsyncExitStack, *, subprotocol: str = JSON) -> Client:
    return await stack.enter_async_context(Client.open(port, subprotocol=subprotocol, subs={"news": {}}))


async def assert_gets_reconnect(client: Client) -> None:
    answer = await client.next_push("reconnect")
    assert (answer["reason"], 0 <= answer["after_ms"] <= 1_000) == ("drain", True)
    assert await client.expect_close() == (4000, "drain")


async def assert_closed_with_4000(raw: RawConnection) -> None:
    assert (await raw.read_until_close())[1] == (4000, "drain")


async def assert_exits_in_time(gateway: GatewayProcess) -> None:
    """Wait for the process to end, which must be well, and as soon as is configured."""
    async with asyncio.timeout(DRAIN):
        await gateway.wait_exited()
    gateway.stop()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
async def test_every_client_gets_reconnect_and_the_process_exits_cleanly(
    gateway: GatewayProcess, number: signal.Signals
) -> None:
    async with AsyncExitStack() as stack:
        clients = [
            await stay(gateway.public, stack, subprotocol=(JSON, MSGPACK)[each % 2])
            for each in range(CLIENTS)
        ]
        gateway.send_signal(number)
        async with asyncio.TaskGroup() as each:
            for client in clients:
                each.create_task(assert_gets_reconnect(client))
        await assert_exits_in_time(gateway)


async def test_hangup_is_ignored_under_nohup(tmp_path: Path) -> None:
    with hangups(signal.SIG_IGN), gateway_process(tmp_path, CONFIG) as gateway:
        async with Client.open(gateway.public, subs={"news": {}}) as client:
            gateway.send_signal(signal.SIGHUP)
            await publish(gateway.internal, "news", 1)
            assert (await client.next_push("message"))["data"] == 1


async def test_hangup_of_the_terminal_drains_like_sigterm(tmp_path: Path) -> None:
    """Nor does it hinder the end that nobody can read any more what is logged."""
    (tmp_path / LOG_NAME).touch()
    reader, writer = os.pipe()
    with hangups(signal.SIG_DFL), gateway_process_logging_to(writer, tmp_path, CONFIG) as gateway:
        os.close(writer)
        os.close(reader)
        async with Client.open(gateway.public, subs={"news": {}}) as client:
            gateway.send_signal(signal.SIGHUP)
            await assert_gets_reconnect(client)
        await assert_exits_in_time(gateway)


async def test_second_signal_does_not_shorten_the_drain(gateway: GatewayProcess) -> None:
    async with AsyncExitStack() as stack:
        clients = [await stay(gateway.public, stack) for _ in range(CLIENTS)]
        gateway.send_signal(signal.SIGTERM)
        await clients[0].next_push("reconnect")
        gateway.send_signal(signal.SIGTERM)
        gateway.send_signal(signal.SIGINT)
        assert await clients[0].expect_close() == (4000, "drain")
        async with asyncio.TaskGroup() as each:
            for client in clients[1:]:
                each.create_task(assert_gets_reconnect(client))
        await assert_exits_in_time(gateway)


async def test_published_messages_are_delivered_before_the_close(gateway: GatewayProcess) -> None:
    async with AsyncExitStack() as stack:
        clients = [await stay(gateway.public, stack) for _ in range(CLIENTS)]
        for number in range(50):
            await publish(gateway.internal, "news", number)
        gateway.send_signal(signal.SIGTERM)
        for client in clients:
            assert [(await client.next_push("message"))["data"] for _ in range(50)] == list(range(50))
            await assert_gets_reconnect(client)
        await assert_exits_in_time(gateway)


async def test_no_client_can_delay_the_exit(gateway: GatewayProcess) -> None:
    """Who reads is told, whoever else is there; who does not is waited for, but not for ever."""
    async with AsyncExitStack() as stack:
        good = [await stay(gateway.public, stack) for _ in range(CLIENTS)]
        unconnected = stack.enter_context(await RawConnection.websocket(gateway.public))
        in_a_message = stack.enter_context(await RawConnection.websocket(gateway.public))
        await in_a_message.call(type="connect", id=1)
        await in_a_message.send(client_frame(TEXT, b'{"type":', fin=False))
        in_a_frame = stack.enter_context(await RawConnection.websocket(gateway.public))
        await in_a_frame.call(type="connect", id=1)
        await in_a_frame.send(client_frame(TEXT, b"x" * 200)[:100])
        silent = stack.enter_context(await RawConnection.open(gateway.public))
        half = stack.enter_context(await RawConnection.open(gateway.public))
        await half.send(upgrade_request()[:-2])
        not_reading, closing, vanished = [
            stack.enter_context(await RawConnection.websocket(gateway.public, receive_buffer=8_192))
            for _ in range(3)
        ]
        for raw in (not_reading, closing, vanished):
            await raw.call(type="connect", id=1, subs={"bulk": {}})
        for _ in range(30):  # more than their sockets hold
            await publish(gateway.internal, "bulk", "x" * 20_000)
        await closing.send(close_frame(1000))
        vanished.close()
        for client in good:
            assert (await client.call("ping"))["type"] == "pong"

        gateway.send_signal(signal.SIGTERM)
        async with asyncio.TaskGroup() as each:
            for client in good:
                each.create_task(assert_gets_reconnect(client))
            for raw in (unconnected, in_a_message, in_a_frame):  # none of them answers
                each.create_task(assert_closed_with_4000(raw))
            for raw in (silent, half):
                each.create_task(raw.read_to_end())
        await assert_exits_in_time(gateway)
        events = [orjson.loads(line) for line in gateway.stderr.splitlines() if line.startswith("{")]
        assert [event for event in events if event["level"] in ("error", "critical")] == []
