"""The proxy relays, impairs, cuts and refuses connections as documented, and leaves nothing open."""

import asyncio
import math
import socket
from collections.abc import Awaitable, Callable
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.chaos.ports import reserved
from tests.chaos.proxied_network import proxied_network
from tests.chaos.proxy import Cut, Proxy, reset_on_close
from tests.chaos.relay import (
    MEAN_FRAGMENT_BYTES,
    PIECE_BYTES,
    QUEUED_PIECES,
    RATE_STEP_SECONDS,
    UNIMPAIRED,
    LinkConditions,
)
from tests.e2e.clients import TIMEOUT_SECONDS, RawConnection

NEVER = LinkConditions(delay_seconds=3600.0)
BLOCKED = LinkConditions(blocked=True)
DATA = bytes(range(256)) * 400


async def assert_relayed(source: RawConnection, target: RawConnection, data: bytes = DATA) -> None:
    """Send *data* from *source*, and check that *target* receives it unchanged."""
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(source.send(data))
        assert await target.read_exactly(len(data)) == data


async def assert_reset(raw: RawConnection) -> None:
    """Check that the connection has been reset."""
    with pytest.raises(ConnectionError):
        await raw.read_exactly(1)


async def assert_closed(raw: RawConnection) -> None:
    """Check that the other end has closed, and that no data arrived before."""
    with pytest.raises(EOFError) as error:
        await raw.read_exactly(1)
    assert error.value.args == (b"",)


# ---------------------------------------------------------------- unimpaired


async def test_both_directions_are_relayed_at_once() -> None:
    async with proxied_network() as net, asyncio.TaskGroup() as tasks:
        connection = await net.connect()
        tasks.create_task(assert_relayed(connection.client, connection.server))
        tasks.create_task(assert_relayed(connection.server, connection.client))


async def test_one_side_may_close_first() -> None:
    async with proxied_network() as net:
        connection = await net.connect()
        connection.client.socket.shutdown(socket.SHUT_WR)
        await assert_closed(connection.server)
        await assert_relayed(connection.server, connection.client)
        connection.server.close()
        await assert_closed(connection.client)
        await connection.proxied.closed.wait()
        assert net.proxy.connections == []


async def test_reset_of_one_end_resets_the_other() -> None:
    async with proxied_network() as net:
        connection = await net.connect()
        reset_on_close(connection.client.socket)
        connection.client.close()
        await assert_reset(connection.server)


async def test_client_is_reset_where_the_target_refuses() -> None:
    with reserved() as port:
        async with Proxy.open(port) as proxy:
            with await RawConnection.open(proxy.port) as client:
                await assert_reset(client)


# ---------------------------------------------------------------- impaired


async def test_delayed_data_arrives_in_order_when_it_is_due() -> None:
    async with proxied_network() as net:
        connection, other = await net.connect(), await net.connect()
        connection.proxied.impair(down=NEVER)
        await connection.server.send(b"first")
        await assert_relayed(connection.client, connection.server)
        await assert_relayed(other.server, other.client)
        assert connection.proxied.down.relayed_bytes == 0
        connection.proxied.impair(down=LinkConditions(delay_seconds=0.001))
        await connection.server.send(b"second")
        assert await connection.client.read_exactly(11) == b"firstsecond"


async def test_delay_does_not_limit_the_rate() -> None:
    """Several pieces are queued at once, and all of them are due at the same moment."""
    async with proxied_network() as net:
        connection = await net.connect()
        connection.proxied.impair(up=NEVER)
        for number in range(5):
            await connection.client.send(bytes([number]) * PIECE_BYTES)
        connection.proxied.impair(up=UNIMPAIRED)
        assert len(await connection.server.read_exactly(5 * PIECE_BYTES)) == 5 * PIECE_BYTES


async def test_limited_rate_ends_when_the_limit_is_removed() -> None:
    async with proxied_network() as net:
        connection = await net.connect()
        connection.proxied.impair(down=LinkConditions(bytes_per_second=1_000))
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(connection.server.send(DATA))
            first = await connection.client.read_exactly(1)
            assert 0 < connection.proxied.down.relayed_bytes < len(DATA) / 2
            connection.proxied.impair(down=UNIMPAIRED)
            assert first + await connection.client.read_exactly(len(DATA) - 1) == DATA


async def test_blocked_direction_exerts_backpressure_on_its_source() -> None:
    async with proxied_network() as net:
        connection = await net.connect()
        connection.proxied.impair(down=BLOCKED)
        sent = await send_until_full(connection.server)
        assert QUEUED_PIECES * PIECE_BYTES / 2 < sent < 10_000_000
        connection.proxied.impair(down=UNIMPAIRED)
        assert len(await connection.client.read_exactly(sent)) == sent


async def send_until_full(raw: RawConnection) -> int:
    """Send until the kernel takes no more; return how many bytes it took."""
    sent = refused = 0
    # On the loopback, the proxy frees the buffer with each read: after 100 refusals it reads no more.
    while refused < 100:
        try:
            sent += raw.socket.send(bytes(PIECE_BYTES))
            refused = 0
        except BlockingIOError:
            refused += 1
            await asyncio.sleep(0)
    return sent


async def test_fragmented_data_arrives_unchanged() -> None:
    async with proxied_network() as net:
        connection = await net.connect()
        connection.proxied.impair(up=LinkConditions(fragmented=True))
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(connection.client.send(DATA[:PIECE_BYTES]))
            received: list[bytes] = []
            while len(b"".join(received)) < PIECE_BYTES:
                async with asyncio.timeout(TIMEOUT_SECONDS):
                    received.append(
                        await asyncio.get_running_loop().sock_recv(connection.server.socket, PIECE_BYTES)
                    )
        assert b"".join(received) == DATA[:PIECE_BYTES]
        assert len(received) > 3


@pytest.mark.parametrize("blocked", ["up", "down"])
async def test_blocked_direction_does_not_block_the_other(blocked: str) -> None:
    async with proxied_network() as net:
        connection, other = await net.connect(), await net.connect()
        sender, receiver = (
            (connection.client, connection.server)
            if blocked == "up"
            else (connection.server, connection.client)
        )
        connection.proxied.impair(**{blocked: BLOCKED})
        await sender.send(b"later")
        await assert_relayed(receiver, sender)
        await assert_relayed(other.client, other.server)
        await assert_relayed(other.server, other.client)
        relay = connection.proxied.up if blocked == "up" else connection.proxied.down
        assert relay.relayed_bytes == len(b"hello") * (blocked == "up")
        sender.socket.shutdown(socket.SHUT_WR)
        connection.proxied.impair(**{blocked: UNIMPAIRED})
        assert await receiver.read_exactly(5) == b"later"
        await assert_closed(receiver)


# ---------------------------------------------------------------- cut


@pytest.mark.parametrize("conditions", [UNIMPAIRED, NEVER, BLOCKED, LinkConditions(bytes_per_second=1)])
@pytest.mark.parametrize(("how", "assert_seen"), [(Cut.RST, assert_reset), (Cut.FIN, assert_closed)])
async def test_both_ends_see_the_cut(
    conditions: LinkConditions, how: Cut, assert_seen: Callable[[RawConnection], Awaitable[None]]
) -> None:
    async with proxied_network() as net:
        connection, other = await net.connect(), await net.connect()
        connection.proxied.impair(up=conditions, down=conditions)
        connection.proxied.cut(how)
        await assert_seen(connection.client)
        await assert_seen(connection.server)
        connection.client.close()
        connection.server.close()
        await connection.proxied.closed.wait()
        assert net.proxy.connections == [other.proxied]
        await assert_relayed(other.client, other.server)


async def test_queued_data_is_lost_when_a_connection_is_cut() -> None:
    async with proxied_network() as net:
        connection = await net.connect()
        connection.proxied.impair(down=BLOCKED)
        await connection.server.send(b"never to arrive")
        connection.proxied.cut(Cut.FIN)
        await assert_closed(connection.client)


async def test_first_cut_decides_how_a_connection_ends() -> None:
    async with proxied_network() as net:
        connection = await net.connect()
        connection.proxied.cut(Cut.FIN)
        connection.proxied.cut(Cut.RST)
        await assert_closed(connection.client)


async def test_proxy_closes_without_waiting_for_its_connections() -> None:
    """Neither for an end that has not answered a FIN, nor for a blocked direction."""
    async with proxied_network() as net:
        connection, other = await net.connect(), await net.connect()
        connection.proxied.cut(Cut.FIN)
        await assert_closed(connection.client)
        other.proxied.impair(up=BLOCKED, down=BLOCKED)
        await other.client.send(b"on its way")


# ---------------------------------------------------------------- all connections


async def test_port_accepts_again_after_it_refused() -> None:
    async with proxied_network() as net:
        connection = await net.connect()
        net.proxy.refuse()
        net.proxy.refuse()
        for _ in range(3):
            with pytest.raises(ConnectionRefusedError):
                await RawConnection.open(net.proxy.port)
        await assert_relayed(connection.client, connection.server)
        net.proxy.accept()
        net.proxy.accept()
        later = await net.connect()
        await assert_relayed(later.client, later.server)


async def test_conditions_of_the_proxy_apply_to_present_and_new_connections() -> None:
    async with proxied_network() as net:
        early = await net.connect()
        net.proxy.impair(down=BLOCKED)
        late = await net.connect()
        for connection in (early, late):
            assert (connection.proxied.up.conditions, connection.proxied.down.conditions) == (
                UNIMPAIRED,
                BLOCKED,
            )
            await connection.server.send(b"later")
            await assert_relayed(connection.client, connection.server)
            assert connection.proxied.down.relayed_bytes == 0
        net.proxy.impair(down=UNIMPAIRED)
        for connection in (early, late, await net.connect()):
            assert connection.proxied.down.conditions == UNIMPAIRED
            await assert_relayed(
                connection.server, connection.client, b"" if connection in (early, late) else b"now"
            )
        assert await early.client.read_exactly(5) == await late.client.read_exactly(5) == b"later"


async def test_cut_of_the_proxy_ends_all_connections() -> None:
    async with proxied_network() as net:
        connections = [await net.connect() for _ in range(3)]
        net.proxy.cut(Cut.FIN)
        for connection in connections:
            await assert_closed(connection.client)
            await assert_closed(connection.server)


async def test_new_connections_are_relayed_to_a_new_target() -> None:
    async with proxied_network() as net, proxied_network() as other:
        before = await net.connect()
        net.proxy.target = other.proxy.port
        with await RawConnection.open(net.proxy.port) as client:
            await client.send(b"through two")
            assert await (await other.accept()).read_exactly(11) == b"through two"
        await assert_relayed(before.client, before.server)


# ---------------------------------------------------------------- sizes of writes


@given(
    st.integers(1, 100_000),
    st.builds(
        LinkConditions,
        bytes_per_second=st.one_of(st.just(math.inf), st.floats(1, 1e9)),
        fragmented=st.booleans(),
    ),
    st.integers(),
)
def test_write_size_is_positive_and_within_the_rate(
    remaining: int, conditions: LinkConditions, seed: int
) -> None:
    size = conditions.write_size(remaining, Random(seed))
    assert 1 <= size <= remaining
    assert size <= max(1, conditions.bytes_per_second * RATE_STEP_SECONDS)
    assert conditions.fragmented or conditions.bytes_per_second < math.inf or size == remaining


def test_fragments_have_many_sizes() -> None:
    random = Random(3)
    sizes = [LinkConditions(fragmented=True).write_size(10_000, random) for _ in range(2_000)]
    assert min(sizes) == 1
    assert max(sizes) > 3 * MEAN_FRAGMENT_BYTES
