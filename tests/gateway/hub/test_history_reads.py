"""Reads of histories that wait for their turn."""

from __future__ import annotations

import asyncio
from typing import Any

from gateway.broker.base import HistorySlice
from gateway.hub.history_reads import HistoryReads
from protocol.position import MessageId
from tests.gateway.virtual_time import on_virtual_time, until_idle


class SlowSource:
    """Histories that are read when the test says so."""

    def __init__(self) -> None:
        self.running: list[asyncio.Future[None]] = []

    async def read(self, channel: str, **_: Any) -> HistorySlice:
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.running.append(done)
        await done
        return HistorySlice((), MessageId(0, channel), recovered=True)


@on_virtual_time
async def test_only_so_many_reads_run_at_once_and_all_get_their_turn() -> None:
    source: Any = SlowSource()
    reads = HistoryReads(source, at_once=2)
    tasks = [asyncio.ensure_future(reads.read(f"c{number}")) for number in range(5)]
    for running in (2, 2, 2, 2, 1):
        await until_idle()
        assert len(source.running) == running
        source.running.pop(0).set_result(None)
    await until_idle()
    assert [task.result().position.uid for task in tasks] == ["c0", "c1", "c2", "c3", "c4"]
