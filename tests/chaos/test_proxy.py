"""The proxy does to connections what it says, when it is told to, and leaves nothing behind."""

import asyncio
import math
import socket
from collections.abc import Awaitable, Callable
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.chaos.ends import network
from tests.chaos.flow import CLEAR, FRAGMENT, PIECE, STEP, WINDOW, Line
from tests.chaos.ports import reserved
from tests.chaos.proxy import Cut, Proxy, reset
from tests.e2e.wire import PATIENCE, Raw

NEVER = Line(delay=3600.0)
BLOCKED = Line(blocked=True)
LETTERS = bytes(range(256)) * 400


async def passes(source: Raw, target: Raw, data: bytes = LETTERS) -> None:
    """*data* comes through as it is."""
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(source.send(data))
        assert await target.take(len(data)) == data


async def lost(raw: Raw) -> None:
    """The connection has been reset."""
    with pytest.raises(ConnectionError):
        await raw.take(1)


async def closed(raw: Raw) -> None:
    """The other end has closed, and nothing came before."""
    with pytest.raises(EOFError) as end:
        await raw.take(1)
    assert end.value.args == (b"",)


# ---------------------------------------------------------------- a good line


async def test_everything_passes_both_ways_at_once() -> None:
    async with network() as net, asyncio.TaskGroup() as tasks:
        ends = await net.connect()
        tasks.create_task(passes(ends.client, ends.server))
        tasks.create_task(passes(ends.server, ends.client))


async def test_one_side_may_close_first() -> None:
    async with network() as net:
        ends = await net.connect()
        ends.client.socket.shutdown(socket.SHUT_WR)
        await closed(ends.server)
        await passes(ends.server, ends.client)
        ends.server.close()
        await closed(ends.client)
        await ends.between.gone.wait()
        assert net.proxy.connections == []


async def test_a_reset_of_one_end_is_a_reset_of_the_other() -> None:
    async with network() as net:
        ends = await net.connect()
        reset(ends.client.socket)
        ends.client.close()
        await lost(ends.server)


async def test_where_nobody_serves_a_client_is_reset() -> None:
    with reserved() as port:
        async with Proxy.open(port) as proxy:
            with await Raw.open(proxy.port) as client:
                await lost(client)


# ---------------------------------------------------------------- a bad line


async def test_what_is_delayed_arrives_in_its_order_once_it_is_due() -> None:
    async with network() as net:
        ends, other = await net.connect(), await net.connect()
        ends.between.shape(down=NEVER)
        await ends.server.send(b"first")
        await passes(ends.client, ends.server)
        await passes(other.server, other.client)
        assert ends.between.down.carried == 0
        ends.between.shape(down=Line(delay=0.001))
        await ends.server.send(b"second")
        assert await ends.client.take(11) == b"firstsecond"


async def test_more_than_one_piece_is_under_way_at_once() -> None:
    """A delay is no throttle: what was sent meanwhile is due in the same moment."""
    async with network() as net:
        ends = await net.connect()
        ends.between.shape(up=NEVER)
        for number in range(5):
            await ends.client.send(bytes([number]) * PIECE)
        ends.between.shape(up=CLEAR)
        assert len(await ends.server.take(5 * PIECE)) == 5 * PIECE


async def test_a_throttled_line_carries_little_until_it_is_opened() -> None:
    async with network() as net:
        ends = await net.connect()
        ends.between.shape(down=Line(rate=1_000))
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(ends.server.send(LETTERS))
            first = await ends.client.take(1)
            assert 0 < ends.between.down.carried < len(LETTERS) / 2
            ends.between.shape(down=CLEAR)
            assert first + await ends.client.take(len(LETTERS) - 1) == LETTERS


async def test_a_slow_line_slows_its_source() -> None:
    async with network() as net:
        ends = await net.connect()
        ends.between.shape(down=BLOCKED)
        sent = await fill(ends.server)
        assert WINDOW * PIECE / 2 < sent < 10_000_000
        ends.between.shape(down=CLEAR)
        assert len(await ends.client.take(sent)) == sent


async def fill(raw: Raw) -> int:
    """Send until nothing more is taken; return how much was."""
    sent = refused = 0
    # On the loopback the kernel hands on at once what the proxy takes: after so many turns it takes no more.
    while refused < 100:
        try:
            sent += raw.socket.send(bytes(PIECE))
            refused = 0
        except BlockingIOError:
            refused += 1
            await asyncio.sleep(0)
    return sent


async def test_a_line_that_splits_changes_no_byte() -> None:
    async with network() as net:
        ends = await net.connect()
        ends.between.shape(up=Line(split=True))
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(ends.client.send(LETTERS[:PIECE]))
            received: list[bytes] = []
            while len(b"".join(received)) < PIECE:
                async with asyncio.timeout(PATIENCE):
                    received.append(await asyncio.get_running_loop().sock_recv(ends.server.socket, PIECE))
        assert b"".join(received) == LETTERS[:PIECE]
        assert len(received) > 3


@pytest.mark.parametrize("blocked", ["up", "down"])
async def test_a_blocked_direction_leaves_the_other_open(blocked: str) -> None:
    async with network() as net:
        ends, other = await net.connect(), await net.connect()
        talker, listener = (ends.client, ends.server) if blocked == "up" else (ends.server, ends.client)
        ends.between.shape(**{blocked: BLOCKED})
        await talker.send(b"later")
        await passes(listener, talker)
        await passes(other.client, other.server)
        await passes(other.server, other.client)
        flow = ends.between.up if blocked == "up" else ends.between.down
        assert flow.carried == len(b"hello") * (blocked == "up")
        talker.socket.shutdown(socket.SHUT_WR)
        ends.between.shape(**{blocked: CLEAR})
        assert await listener.take(5) == b"later"
        await closed(listener)


# ---------------------------------------------------------------- an end


@pytest.mark.parametrize("line", [CLEAR, NEVER, BLOCKED, Line(rate=1)])
@pytest.mark.parametrize(("how", "seen"), [(Cut.RST, lost), (Cut.FIN, closed)])
async def test_both_ends_see_the_cut(line: Line, how: Cut, seen: Callable[[Raw], Awaitable[None]]) -> None:
    async with network() as net:
        ends, other = await net.connect(), await net.connect()
        ends.between.shape(up=line, down=line)
        ends.between.cut(how)
        await seen(ends.client)
        await seen(ends.server)
        ends.client.close()
        ends.server.close()
        await ends.between.gone.wait()
        assert net.proxy.connections == [other.between]
        await passes(other.client, other.server)


async def test_what_is_under_way_is_lost_in_a_cut() -> None:
    async with network() as net:
        ends = await net.connect()
        ends.between.shape(down=BLOCKED)
        await ends.server.send(b"never to arrive")
        ends.between.cut(Cut.FIN)
        await closed(ends.client)


async def test_the_first_cut_counts() -> None:
    async with network() as net:
        ends = await net.connect()
        ends.between.cut(Cut.FIN)
        ends.between.cut(Cut.RST)
        await closed(ends.client)


async def test_a_proxy_that_ends_waits_for_nobody() -> None:
    """Not for who has not closed in answer to a close, nor for a line that brings nothing."""
    async with network() as net:
        ends, other = await net.connect(), await net.connect()
        ends.between.cut(Cut.FIN)
        await closed(ends.client)
        other.between.shape(up=BLOCKED, down=BLOCKED)
        await other.client.send(b"on its way")


# ---------------------------------------------------------------- all at once


async def test_a_refused_client_may_come_later_to_the_same_port() -> None:
    async with network() as net:
        ends = await net.connect()
        net.proxy.refuse()
        net.proxy.refuse()
        for _ in range(3):
            with pytest.raises(ConnectionRefusedError):
                await Raw.open(net.proxy.port)
        await passes(ends.client, ends.server)
        net.proxy.accept()
        net.proxy.accept()
        later = await net.connect()
        await passes(later.client, later.server)


async def test_all_are_shaped_and_those_to_come() -> None:
    async with network() as net:
        early = await net.connect()
        net.proxy.shape(down=BLOCKED)
        late = await net.connect()
        for ends in (early, late):
            assert (ends.between.up.line, ends.between.down.line) == (CLEAR, BLOCKED)
            await ends.server.send(b"later")
            await passes(ends.client, ends.server)
            assert ends.between.down.carried == 0
        net.proxy.shape(down=CLEAR)
        for ends in (early, late, await net.connect()):
            assert ends.between.down.line == CLEAR
            await passes(ends.server, ends.client, b"" if ends in (early, late) else b"now")
        assert await early.client.take(5) == await late.client.take(5) == b"later"


async def test_all_are_cut() -> None:
    async with network() as net:
        every = [await net.connect() for _ in range(3)]
        net.proxy.cut(Cut.FIN)
        for ends in every:
            await closed(ends.client)
            await closed(ends.server)


async def test_clients_to_come_go_to_the_new_target() -> None:
    async with network() as net, network() as other:
        before = await net.connect()
        net.proxy.target = other.proxy.port
        with await Raw.open(net.proxy.port) as client:
            await client.send(b"through two")
            assert await (await other.accept()).take(11) == b"through two"
        await passes(before.client, before.server)


# ---------------------------------------------------------------- how much at once


@given(
    st.integers(1, 100_000),
    st.builds(Line, rate=st.one_of(st.just(math.inf), st.floats(1, 1e9)), split=st.booleans()),
    st.integers(),
)
def test_a_write_is_never_empty_and_never_more_than_the_line_takes(left: int, line: Line, seed: int) -> None:
    size = line.size(left, Random(seed))
    assert 1 <= size <= left
    assert size <= max(1, line.rate * STEP)
    assert line.split or line.rate < math.inf or size == left


def test_fragments_are_of_every_size() -> None:
    random = Random(3)
    sizes = [Line(split=True).size(10_000, random) for _ in range(2_000)]
    assert min(sizes) == 1
    assert max(sizes) > 3 * FRAGMENT
