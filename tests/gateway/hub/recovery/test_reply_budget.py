"""Who gets what of the bytes of a reply, whichever part of it is known first."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.hub.recovery.reply_budget import CONCURRENT_READS, ReplyBudget
from tests.gateway.virtual_time import on_virtual_time, until_idle

CHANNELS = ["a", "b", "c", "d", "e"]


class Pieces:
    """Something that can be cut anywhere."""

    def __init__(self, size: int) -> None:
        self.size = size

    def shrink(self, room: int) -> None:
        self.size = max(0, min(self.size, room))


class Gone(Exception):
    pass


def do_nothing() -> None:
    pass


def in_turn(size: int, sizes: dict[str, int]) -> dict[str, int]:
    """Return what each gets where one is asked after the other."""
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
    room, parts = ReplyBudget(size, CHANNELS, require_open=do_nothing), dict[str, Pieces]()
    for channel in order:
        part = parts[channel] = Pieces(max(0, min(sizes[channel], room.available_to(channel))))
        room.reserve(channel, part)
        assert sum(each.size for each in parts.values()) <= max(0, size)
    assert {channel: part.size for channel, part in parts.items()} == in_turn(size, sizes)


def test_a_released_reservation_is_available_to_later_channels() -> None:
    room = ReplyBudget(10, CHANNELS, require_open=do_nothing)
    room.reserve("a", Pieces(8))
    assert room.available_to("b") == 2
    room.release("a")
    room.release("b")
    assert room.available_to("b") == 10


@on_virtual_time
async def test_reads_are_bounded_and_none_starts_for_an_ended_session() -> None:
    here, fetching = True, 0
    most = 0

    def require_here() -> None:
        if not here:
            raise Gone

    room, going = ReplyBudget(10, CHANNELS, require_open=require_here), asyncio.Event()

    async def fetch() -> None:
        nonlocal fetching, most
        async with room.read_slot():
            fetching += 1
            most = max(most, fetching)
            await going.wait()
            fetching -= 1

    tasks = [asyncio.create_task(fetch()) for _ in range(CONCURRENT_READS + 2)]
    await until_idle()
    assert fetching == most == CONCURRENT_READS
    here = False
    going.set()
    ends = await asyncio.gather(*tasks, return_exceptions=True)
    assert ends.count(None) == CONCURRENT_READS
    assert [type(end) for end in ends if end is not None] == [Gone, Gone]
    with pytest.raises(Gone):
        await fetch()
