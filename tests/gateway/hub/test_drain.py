import pytest

from gateway.hub.drain import SESSIONS_PER_SECOND, STEP_SECONDS, drain, group_count
from protocol.messages import Ping, PongReply, Reconnect
from tests.gateway.node import Client, running_node
from tests.gateway.virtual_time import on_virtual_time, until_idle, virtual_loop


@pytest.mark.parametrize(
    ("count", "window", "expected"),
    [
        (0, 20.0, 1),
        (1, 20.0, 1),
        (10, 20.0, 1),
        (20, 20.0, 2),
        (1_000, 20.0, 100),
        (4_000, 20.0, 400),
        (1_000_000, 20.0, 400),
        (1_000, 0.0, 1),
    ],
)
def test_few_sessions_leave_at_once_and_many_over_the_window(
    count: int, window: float, expected: int
) -> None:
    assert group_count(count, window) == expected
    assert expected == 1 or expected * STEP_SECONDS <= window


def closed_for_reconnect(client: Client) -> bool:
    """Return whether *client* got `reconnect`, and then the close."""
    if client.transport.closed is None:
        return False
    assert client.transport.closed == (4000, "drain")
    last = client.transport.messages[-1]
    assert isinstance(last, Reconnect)
    assert (last.reason, 0 <= last.after_ms <= 1_000) == ("drain", True)
    return True


@on_virtual_time
async def test_drain_delivers_everything_then_reconnect_then_closes() -> None:
    async with running_node() as node:
        clients = [await node.connect() for _ in range(10)]
        for client in clients:
            await client.subscribe("h:a")
        await node.publish("h:a", 1, 2)
        began = node.clock()
        await drain(node.hub, 20.0)
        assert node.clock() == began, "so few do not wait"
        assert all(closed_for_reconnect(client) for client in clients)
        assert all(client.values() == [1, 2] for client in clients)
        assert node.hub.sessions == {}


@on_virtual_time
async def test_many_sessions_leave_over_time_and_are_served_until_then() -> None:
    async with running_node() as node:
        clients = [await node.connect() for _ in range(100)]
        for client in clients:
            await client.subscribe("h:a")
        began = node.clock()
        draining = virtual_loop().create_task(drain(node.hub, 20.0))
        left, published = [], 0
        while not draining.done():
            await until_idle()
            closed = sum(map(closed_for_reconnect, clients))
            left.append(closed)
            published += 1
            await node.publish("h:a", published)
            await until_idle()
            for client in clients:
                if client.transport.closed is None:
                    assert client.values()[-1] == published
            await virtual_loop().advance_to_next_timer()
        assert all(map(closed_for_reconnect, clients))
        assert left == list(range(10, 100, 10)), "in even group_count"
        spread = 100 / SESSIONS_PER_SECOND
        assert node.clock() - began == pytest.approx(spread - STEP_SECONDS)


@on_virtual_time
async def test_a_session_that_ends_during_a_drain_is_skipped() -> None:
    async with running_node() as node:
        clients = [await node.connect() for _ in range(40)]
        draining = virtual_loop().create_task(drain(node.hub, 20.0))
        await until_idle()
        for client in clients:
            if client.transport.is_open:
                client.disconnect()
        await draining
        assert node.hub.sessions == {}


@on_virtual_time
async def test_a_drain_without_sessions_returns_at_once() -> None:
    async with running_node() as node:
        waiting = node.open()
        await drain(node.hub, 20.0)
        assert waiting.transport.is_open
        client = await node.connect()
        assert await client.request(Ping(50)) == PongReply(50)
