"""How many bytes of a reply each channel gets, in whatever order their sizes become known."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.hub.recovery.reply_budget import CONCURRENT_READS, MEMORY_PER_BYTE, ReplyBudget
from gateway.memory import MIB, MemoryBudget
from tests.gateway.virtual_time import on_virtual_time, until_idle

CHANNELS = ["a", "b", "c", "d", "e"]


class Part:
    """A part that can be shrunk to any size."""

    def __init__(self, size: int) -> None:
        self.size = size

    def shrink(self, room: int) -> None:
        self.size = max(0, min(self.size, room))


class SessionEnded(Exception):
    pass


def do_nothing() -> None:
    pass


def in_turn(size: int, sizes: dict[str, int]) -> dict[str, int]:
    """Return what each channel gets where they are read one after the other."""
    got = {}
    for channel in CHANNELS:
        got[channel] = max(0, min(sizes[channel], size))
        size -= got[channel]
    return got


@given(
    st.integers(-10, 100),
    st.fixed_dictionaries({channel: st.integers(0, 60) for channel in CHANNELS}),
    st.permutations(CHANNELS),
)
def test_each_channel_gets_what_those_before_it_leave_in_any_order_of_reads(
    size: int, sizes: dict[str, int], order: list[str]
) -> None:
    budget, parts = (
        ReplyBudget(size, CHANNELS, require_open=do_nothing, memory=MemoryBudget(MIB)),
        dict[str, Part](),
    )
    for channel in order:
        part = parts[channel] = Part(max(0, min(sizes[channel], budget.available_to(channel))))
        budget.reserve(channel, part)
        assert sum(each.size for each in parts.values()) <= max(0, size)
    assert {channel: part.size for channel, part in parts.items()} == in_turn(size, sizes)


def test_a_released_reservation_is_available_to_later_channels() -> None:
    budget = ReplyBudget(10, CHANNELS, require_open=do_nothing, memory=MemoryBudget(MIB))
    budget.reserve("a", Part(8))
    assert budget.available_to("b") == 2
    budget.release("a")
    budget.release("b")
    assert budget.available_to("b") == 10


@on_virtual_time
async def test_reads_are_bounded_and_none_starts_for_an_ended_session() -> None:
    session_open, reading = True, 0
    most = 0

    def require_open() -> None:
        if not session_open:
            raise SessionEnded

    budget, proceed = (
        ReplyBudget(10, CHANNELS, require_open=require_open, memory=MemoryBudget(MIB)),
        asyncio.Event(),
    )

    async def read() -> None:
        nonlocal reading, most
        async with budget.read_slot():
            reading += 1
            most = max(most, reading)
            await proceed.wait()
            reading -= 1

    tasks = [asyncio.create_task(read()) for _ in range(CONCURRENT_READS + 2)]
    await until_idle()
    assert reading == most == CONCURRENT_READS
    session_open = False
    proceed.set()
    ends = await asyncio.gather(*tasks, return_exceptions=True)
    assert ends.count(None) == CONCURRENT_READS
    assert [type(end) for end in ends if end is not None] == [SessionEnded, SessionEnded]
    with pytest.raises(SessionEnded):
        await read()


def test_the_replies_of_all_clients_share_the_memory_for_missed_messages() -> None:
    memory = MemoryBudget(100 * MEMORY_PER_BYTE)
    one, two = (ReplyBudget(80, CHANNELS, require_open=do_nothing, memory=memory) for _ in range(2))
    one.reserve("a", Part(40))
    one.reserve("b", Part(30))
    late = Part(60)
    two.reserve("a", late)
    assert 25 <= late.size <= 30, "catch-up sends the rest"
    assert memory.used <= memory.limit
    assert memory.freed == 1
    one.release("b")
    two.reserve("c", Part(20))
    assert memory.freed == 1, "there is room again"
    for budget in (one, two):
        budget.close()
    assert memory.used == 0
