"""Many callers want the same page at the same time: one reads, and the others wait for it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace

import pytest

from gateway.errors import BrokerUnavailable
from gateway.hub.channel import Channel
from gateway.hub.history_cache import HistoryCache, HistoryPart
from gateway.memory import MIB, MemoryBudget
from protocol.position import MessageId
from tests.gateway.hub.interleavings import GatedBroker, unavailable
from tests.gateway.node import RULES, running_node, values_of
from tests.gateway.virtual_time import on_virtual_time, until_idle

BATCH = 10
PUBLISHED = 35
LONG = {**RULES, "h": replace(RULES["h"], history=1_000)}
STRANGER = MessageId(1, "stranger")

Read = Callable[[MessageId], "asyncio.Task[HistoryPart]"]
Test = Callable[[GatedBroker, list[MessageId], Read], Awaitable[None]]


async def run_test(test: Test) -> None:
    """Run *test* with a gated broker, the ids of a history, and a function that reads after an id."""
    broker = GatedBroker(only=frozenset({"read"}))
    async with running_node(broker=broker, rules=LONG) as node:
        receipts = [
            await broker.inner.publish(node.publication("h:a", number)) for number in range(PUBLISHED)
        ]
        ids = [receipt.id for receipt in receipts if receipt.id is not None]
        channel, cache = Channel("h:a", LONG["h"]), HistoryCache(broker, MemoryBudget(MIB), page=BATCH)
        channel.start_at(ids[-1])

        def read(position: MessageId) -> asyncio.Task[HistoryPart]:
            return asyncio.get_running_loop().create_task(cache.messages_after(channel, position))

        await test(broker, ids, read)


@pytest.mark.parametrize("order", [[3, 0, 5, 1, 7], [0, 1, 3, 5, 7], [7, 5, 3, 1, 0]])
@on_virtual_time
async def test_waiting_callers_are_served_by_one_read_from_the_oldest_position(order: list[int]) -> None:
    async def test(broker: GatedBroker, ids: list[MessageId], read: Read) -> None:
        reads = {place: read(ids[place]) for place in order}
        await broker.pass_all()
        assert broker.calls.count("read") == (1 if order[0] == 0 else 2)
        for place, task in reads.items():
            returned = values_of(encoded.message for encoded in (await task).messages)
            assert returned == list(range(place + 1, place + 1 + len(returned)))
            assert returned

    await run_test(test)


@on_virtual_time
async def test_a_position_of_another_history_does_not_disturb_other_callers() -> None:
    async def test(broker: GatedBroker, ids: list[MessageId], read: Read) -> None:
        first, stranger, last = read(ids[4]), read(STRANGER), read(ids[2])
        await broker.pass_all()
        assert (await stranger).gap_reason
        for place, task in ((4, first), (2, last)):
            returned = values_of(encoded.message for encoded in (await task).messages)
            assert returned[0] == place + 1

    await run_test(test)


@on_virtual_time
async def test_a_caller_cancelled_while_it_reads_leaves_the_read_to_another() -> None:
    async def test(broker: GatedBroker, ids: list[MessageId], read: Read) -> None:
        first, second = read(ids[0]), read(ids[1])
        await until_idle()
        first.cancel()
        await broker.pass_all()
        assert values_of(encoded.message for encoded in (await second).messages)[0] == 2

    await run_test(test)


@on_virtual_time
async def test_a_failed_read_fails_for_every_waiting_caller() -> None:
    async def test(broker: GatedBroker, ids: list[MessageId], read: Read) -> None:
        broker.failures["read"] = unavailable()
        reads = [read(ids[place]) for place in range(5)]
        await broker.pass_all()
        assert broker.calls.count("read") == 1
        for task in reads:
            with pytest.raises(BrokerUnavailable):
                await task

    await run_test(test)
