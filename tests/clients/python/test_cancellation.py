"""Whatever a caller cancels, and whenever: no task, no socket and no timer of the client is left.

Each test cancels the same work at its first point of waiting, then at the second, and so on, until the work
ends before. The sockets are real; tests/conftest.py fails a test that leaves one.
"""

import asyncio
from collections.abc import Callable, Coroutine, Generator
from itertools import count
from typing import Any

import pytest
from fanway_client import Fanway, FanwayError
from fanway_client.admin import mint_token

from tests.clients.python.test_gateway import fresh, live, public, reached
from tests.e2e.gateway import SECRET, GatewayProcess

Work = Callable[[], Coroutine[Any, Any, None]]


class CancelledAt:
    """Awaits *work*, and cancels its task when it waits for the time number *point*."""

    def __init__(self, work: Coroutine[Any, Any, None], point: int) -> None:
        self._work = work
        self._point = point

    def __await__(self) -> Generator[Any, None, None]:
        error: BaseException | None = None
        for waits in count(1):
            try:
                future = self._work.send(None) if error is None else self._work.throw(error)
            except StopIteration:
                return
            if waits == self._point:
                task = asyncio.current_task()
                assert task is not None
                task.cancel()
            try:
                error = None
                yield future
            except BaseException as raised:  # noqa: BLE001 (the work gets it)
                error = raised


async def cancelled_everywhere(work: Work) -> int:
    """Cancel *work* at each point where it waits; return how many there are."""
    for point in count(1):
        others = asyncio.all_tasks()

        async def run(point: int = point) -> None:
            await CancelledAt(work(), point)

        task = asyncio.create_task(run())
        await asyncio.wait({task})
        assert asyncio.all_tasks() == others, f"cancelled at point {point}"
        if not task.cancelled():
            await task
            return point - 1
    raise AssertionError


def client(gateway: GatewayProcess, **options: Any) -> Fanway:
    return Fanway(public(gateway), get_token=lambda _: mint_token(SECRET, "ann"), **options)


async def test_the_whole_client(gateway: GatewayProcess) -> None:
    name = fresh()

    async def work() -> None:
        async with client(gateway) as fanway, fanway.channel(name, rewind=1).messages() as messages:
            await fanway.channel(name).publish(1)
            async for message in messages:
                assert message.data == 1
                break

    assert await cancelled_everywhere(work) >= 2


async def test_close(gateway: GatewayProcess) -> None:
    async def work() -> None:
        async with client(gateway) as fanway:
            fanway.connect()
            await reached(fanway, "connected")
            await fanway.close()

    assert await cancelled_everywhere(work) >= 2


async def test_close_that_is_cancelled_has_closed(gateway: GatewayProcess) -> None:
    async with client(gateway) as fanway:
        fanway.connect()
        await reached(fanway, "connected")
        closing = asyncio.create_task(fanway.close())
        await asyncio.sleep(0)
        assert closing.cancel()
        await asyncio.wait({closing})
        assert fanway.state == "stopped"


async def test_publish(gateway: GatewayProcess) -> None:
    name = fresh()
    async with client(gateway) as fanway:
        channel = fanway.channel(name)
        received: list[Any] = []
        complete = asyncio.Event()

        def on_message(message: Any) -> None:
            received.append(message.data)
            if message.data == "last":
                complete.set()

        channel.on("message", on_message)
        await live(channel)
        numbers = count()

        async def work() -> None:
            await channel.publish(next(numbers))

        assert await cancelled_everywhere(work) >= 1
        assert fanway.publishing == 0
        # What was cancelled may have been published, at most once; the client goes on.
        last = await channel.publish("last")
        await complete.wait()
        assert last.id is not None
        assert len(received) == len(set(received))


async def test_messages_history_and_presence(gateway: GatewayProcess) -> None:
    name = fresh()
    async with client(gateway) as fanway:
        channel = fanway.channel(name)
        channel.on("message", lambda _: None)
        await live(channel)
        await channel.publish("old")

        async def work() -> None:
            async with channel.messages() as messages:
                assert "old" in [message.data async for message in channel.history()]
                await channel.presence.get()
                await channel.publish("new")
                while (await anext(messages)).data != "new":
                    pass

        assert await cancelled_everywhere(work) >= 4
        assert (await channel.publish("after")).id is not None


async def test_a_call_of_the_application_that_never_returns_ends_with_the_client(
    gateway: GatewayProcess,
) -> None:
    began = asyncio.Event()
    ended_with: list[BaseException] = []

    async def never(_: Any) -> str:
        began.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError as error:
            ended_with.append(error)
            raise
        return ""

    async with Fanway(public(gateway), get_token=never) as fanway:
        fanway.connect()
        await began.wait()
        await fanway.close()
        assert len(ended_with) == 1
        began.clear()
        fanway.connect()  # the call that was cancelled is not waited for
        await began.wait()
    assert len(ended_with) == 2


async def test_a_get_token_that_was_cancelled_elsewhere_is_tried_again(gateway: GatewayProcess) -> None:
    calls: list[str] = []
    errors: list[Exception] = []

    async def get_token(reason: str) -> str:
        calls.append(reason)
        if len(calls) == 1:
            shared = asyncio.get_running_loop().create_future()
            shared.cancel()
            await shared
        return mint_token(SECRET, "ann")

    async with Fanway(public(gateway), get_token=get_token) as fanway:
        fanway.on("error", errors.append)
        fanway.connect()
        await reached(fanway, "connected")
    assert (len(calls), [str(error) for error in errors]) == (2, ["get_token was cancelled"])


async def test_close_within_a_call_of_the_client(gateway: GatewayProcess) -> None:
    async def get_token(_: str) -> str:
        await fanway.close()
        return mint_token(SECRET, "ann")

    async with Fanway(public(gateway), get_token=get_token) as fanway:
        with pytest.raises(FanwayError, match="stopped"):
            await fanway.channel(fresh()).publish(1)
    assert fanway.state == "stopped"
