"""When a publisher waits for its channel's subscribers, and for how long."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from gateway.delivery.full_outboxes import STALLED_SECONDS
from gateway.hub.backpressure import FULL_SOCKETS_ALLOWED, POLL_SECONDS, SUSPENSION_SECONDS, WAIT_SECONDS
from protocol.messages import Ping
from tests.gateway.node import Client, Node, running_node
from tests.gateway.virtual_time import advance, on_virtual_time, until_idle, virtual_loop

MANY = FULL_SOCKETS_ALLOWED + 8


async def subscribers(node: Node, count: int, *channels: str) -> list[Client]:
    clients = [await node.connect() for _ in range(count)]
    for client in clients:
        for channel in channels:
            await client.subscribe(channel)
    return clients


async def fill(node: Node, clients: Sequence[Client], channel: str) -> None:
    """Let messages of *channel* wait for the full sockets of *clients*, its subscribers."""
    for client in clients:
        client.transport.fill()
    await node.publish(channel, "waits")
    await until_idle()


def drain(clients: Sequence[Client]) -> None:
    for client in clients:
        client.transport.drain()


async def waited(node: Node, channel: str) -> float:
    """Return how many seconds a publisher of *channel* waits now."""
    before = node.clock()
    await node.hub.backpressure.wait_for_capacity(channel)
    return node.clock() - before


@on_virtual_time
async def test_a_publisher_waits_until_the_subscribers_of_its_channel_accept_more() -> None:
    async with running_node() as node:
        clients = await subscribers(node, MANY, "busy")
        assert await waited(node, "busy") == 0
        await fill(node, clients, "busy")
        waiting = asyncio.ensure_future(waited(node, "busy"))
        await advance(STALLED_SECONDS / 2)
        assert not waiting.done()
        assert node.hub.backpressure.statistics() == {"waiting": 1, "delayed": 1, "suspended": 0}
        drain(clients)
        assert STALLED_SECONDS / 2 <= await waiting <= STALLED_SECONDS / 2 + POLL_SECONDS
        assert node.hub.backpressure.statistics() == {"waiting": 0, "delayed": 1, "suspended": 0}


@on_virtual_time
async def test_publishers_of_other_channels_do_not_wait() -> None:
    async with running_node() as node:
        attackers = await subscribers(node, MANY, "busy")
        await subscribers(node, 20, "quiet")
        await fill(node, attackers, "busy")
        assert await waited(node, "quiet") == 0
        assert await waited(node, "nobody") == 0
        assert await waited(node, "busy") > 0


@on_virtual_time
async def test_a_few_full_sockets_slow_nobody() -> None:
    async with running_node() as node:
        clients = await subscribers(node, FULL_SOCKETS_ALLOWED, "busy")
        await fill(node, clients, "busy")
        assert await waited(node, "busy") == 0


@on_virtual_time
async def test_full_sockets_slow_nobody_on_a_node_most_of_whose_clients_read() -> None:
    async with running_node() as node:
        clients = await subscribers(node, MANY, "busy")
        await subscribers(node, MANY, "quiet")
        await fill(node, clients, "busy")
        assert await waited(node, "busy") == 0


@on_virtual_time
async def test_full_sockets_slow_nobody_in_a_channel_most_of_whose_subscribers_read() -> None:
    async with running_node() as node:
        full = await subscribers(node, MANY, "busy", "both")
        await subscribers(node, MANY - 1, "both")
        await fill(node, full, "both")
        assert await waited(node, "both") > 0
        await subscribers(node, 1, "both")
        drain(full)
        await fill(node, full, "both")
        assert await waited(node, "both") == 0


@on_virtual_time
async def test_a_stalled_socket_delays_no_publish_any_more() -> None:
    async with running_node() as node:
        clients = await subscribers(node, MANY, "busy")
        await fill(node, clients, "busy")
        assert await waited(node, "busy") == pytest.approx(STALLED_SECONDS, abs=POLL_SECONDS)
        for _ in range(3):
            await fill(node, clients, "busy")
            assert await waited(node, "busy") == 0
        assert node.hub.backpressure.statistics()["suspended"] == 0
        assert node.hub.flusher.statistics()["stalled"] == MANY


@on_virtual_time
async def test_stalled_sockets_do_not_count_as_clients_that_read() -> None:
    async with running_node() as node:
        stalled = await subscribers(node, 3 * MANY, "busy")
        await fill(node, stalled, "busy")
        await advance(STALLED_SECONDS)
        slow = await subscribers(node, MANY, "busy")
        await subscribers(node, MANY - 1, "busy")
        await fill(node, slow, "busy")
        assert await waited(node, "busy") > 0


@on_virtual_time
async def test_after_a_wait_in_vain_nobody_waits_for_the_channel_for_a_while() -> None:
    async with running_node() as node:
        clients = await subscribers(node, MANY, "busy")
        await fill(node, clients, "busy")

        def fill_again() -> None:
            """Let the sockets take everything, and fill them with what no publisher sends."""
            drain(clients)
            for client in clients:
                client.transport.fill()
                client.send(Ping(client.next_id()))
            node.hub.flusher.run()
            timers.append(virtual_loop().call_later(STALLED_SECONDS / 2, fill_again))

        timers: list[asyncio.TimerHandle] = []
        fill_again()
        assert await waited(node, "busy") == pytest.approx(WAIT_SECONDS, abs=2 * POLL_SECONDS)
        assert await waited(node, "busy") == 0
        assert node.hub.backpressure.statistics()["suspended"] == 1
        await advance(SUSPENSION_SECONDS - POLL_SECONDS)
        assert await waited(node, "busy") == 0
        await advance(2 * POLL_SECONDS)
        assert await waited(node, "busy") > 0
        timers[-1].cancel()


@on_virtual_time
async def test_all_publishers_of_a_channel_stop_waiting_together() -> None:
    async with running_node() as node:
        clients = await subscribers(node, MANY, "busy")
        await fill(node, clients, "busy")
        publishers = [asyncio.ensure_future(waited(node, "busy")) for _ in range(8)]
        await until_idle()
        assert repr(node.hub.backpressure) == "<Backpressure 8 waiting 0 suspended>"
        for client in clients:
            client.disconnect()
        assert max(await asyncio.gather(*publishers)) <= POLL_SECONDS
        node.clients.clear()
        node.released.clear()
