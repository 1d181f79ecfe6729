"""Frames of all connections share one budget per turn of the event loop."""

import asyncio
from contextlib import AsyncExitStack

from gateway.transport.websocket.frame_budget import FrameBudget
from gateway.transport.websocket.options import WebSocketOptions
from tests.gateway.transport.websocket.test_transport import HELLO, Recorder, connected


async def test_the_budget_is_that_of_one_turn() -> None:
    loop, budget = asyncio.get_running_loop(), FrameBudget(2)
    assert [budget.take(loop) for _ in range(4)] == [True, True, False, False]
    await asyncio.sleep(0)
    assert budget.take(loop)


async def test_many_connections_with_many_frames_share_a_turn() -> None:
    connections, frames, limit = 20, 50, 30
    options = WebSocketOptions(frame_budget=FrameBudget(limit))
    handled = 0

    class CountingRecorder(Recorder):
        def on_message(self, payload: bytes, *, binary: bool) -> None:
            nonlocal handled
            super().on_message(payload, binary=binary)
            handled += 1

    async with AsyncExitStack() as stack:
        opened = [await stack.enter_async_context(connected(options)) for _ in range(connections)]
        recorders = [CountingRecorder() for _ in opened]
        for connection, recorder in zip(opened, recorders, strict=True):
            connection.websocket.attach(recorder)
            connection.websocket.data_received(HELLO * frames)
        most = before = handled
        while any(len(recorder.messages) < frames for recorder in recorders):
            await asyncio.sleep(0)
            most, before = max(most, handled - before), handled
    assert handled == connections * frames
    # Each connection handles one frame in any case.
    assert most <= connections + limit + 1
