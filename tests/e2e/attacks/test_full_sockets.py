"""Clients that stop reading a busy channel: publishers of other channels must not wait for them."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from itertools import count
from pathlib import Path

import orjson

from tests.e2e.clients import RawConnection
from tests.e2e.gateway import KEY, TIMEOUT_SECONDS, GatewayProcess, gateway_process

ATTACKERS, BYSTANDERS = 40, 20
PUBLISHES_PER_ROUND, ROUNDS = 100, 20
LARGE = "x" * 32 * 1024


class Publisher:
    """Publishes on one connection: httpx would take longer for a request than the gateway."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    @classmethod
    @asynccontextmanager
    async def open(cls, port: int) -> AsyncIterator["Publisher"]:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            yield cls(reader, writer)
        finally:
            writer.close()

    async def publish(self, channel: str, data: object) -> None:
        """Publish *data*, and wait for the 200."""
        body = orjson.dumps({"channel": channel, "data": data})
        head = (
            f"POST /v1/publish HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {KEY}\r\n"
            f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
        )
        self._writer.write(head.encode() + body)
        answer = (await self._reader.readuntil(b"\r\n\r\n")).decode().lower()
        assert answer.startswith("http/1.1 200"), answer
        await self._reader.readexactly(int(answer.partition("content-length: ")[2].partition("\r\n")[0]))


async def subscribed(port: int, channel: str, *, receive_buffer: int = 0) -> RawConnection:
    """Return a connection that subscribes to *channel*."""
    raw = await RawConnection.websocket(port, receive_buffer=receive_buffer)
    await raw.call(type="connect", id=1)
    await raw.call(type="subscribe", id=2, channel=channel)
    return raw


async def received_data(subscriber: RawConnection) -> object:
    """Return the data of the next message; presence is skipped."""
    while (push := await subscriber.receive())["type"] != "message":
        pass
    return push["data"]


class QuietChannel:
    """A channel, its publisher, and its subscribers, which receive everything."""

    def __init__(self, publisher: Publisher, subscribers: list[RawConnection]) -> None:
        self._publisher = publisher
        self._subscribers = subscribers
        self._numbers = count()

    async def publish_rate(self, *, at_most: float = TIMEOUT_SECONDS) -> float:
        """Return the publishes per second of a round, which ends early after *at_most* seconds."""
        published: list[int] = []
        began, elapsed = time.monotonic(), 0.0
        while len(published) < PUBLISHES_PER_ROUND and elapsed < at_most:
            published.append(next(self._numbers))
            await self._publisher.publish("quiet", published[-1])
            elapsed = time.monotonic() - began
        for subscriber in self._subscribers:
            assert [await received_data(subscriber) for _ in published] == published
        return len(published) / elapsed


async def publish_large(publisher: Publisher, messages: int) -> None:
    """Publish more in `busy` than the buffers of a socket hold."""
    for _ in range(messages):
        await publisher.publish("busy", LARGE)


async def until_full(gateway: GatewayProcess) -> None:
    """Wait until messages wait for every socket of the attackers."""
    async with asyncio.timeout(TIMEOUT_SECONDS):
        while (await gateway.metrics())["outbox_full"] < ATTACKERS:  # noqa: ASYNC110
            await asyncio.sleep(0.01)  # another process does not notify us


async def test_full_sockets_slow_no_publisher_of_another_channel(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        gateway = stack.enter_context(gateway_process(tmp_path))
        quiet_publisher, busy_publisher = [
            await stack.enter_async_context(Publisher.open(gateway.internal)) for _ in range(2)
        ]
        bystanders = [
            stack.enter_context(await subscribed(gateway.public, "quiet")) for _ in range(BYSTANDERS)
        ]
        quiet = QuietChannel(quiet_publisher, bystanders)
        # Rounds differ by a factor of 5 on a busy machine; with the attack, a publish took a second.
        before = min([await quiet.publish_rate() for _ in range(3)])
        for _ in range(ATTACKERS):
            stack.enter_context(await subscribed(gateway.public, "busy", receive_buffer=4096))
        async with asyncio.TaskGroup() as publishing:
            publishing.create_task(publish_large(busy_publisher, 20))
            await until_full(gateway)
            ratios = [0.0]
            while ratios[-1] < 0.5 and len(ratios) <= ROUNDS:
                rate = await quiet.publish_rate(at_most=10 * PUBLISHES_PER_ROUND / before)
                ratios.append(rate / before)
            assert ratios[-1] >= 0.5, ratios
        assert (await gateway.metrics())["backpressure_waiting"] == 0
