"""Statistics of a Redis broker: how far a node is behind, and which publishes failed."""

import asyncio

import pytest

from gateway.errors import BrokerUnavailable
from tests.broker.recording_node import publication
from tests.broker.redis_fleet import Fleet, eventually
from tests.broker.redis_proxy import Proxy
from tests.broker.redis_server import RedisServer

BACKLOG = 2_000
"""Messages: several reads of an inbox."""


async def test_the_inbox_gauge_shows_how_many_entries_a_node_is_behind(server: RedisServer) -> None:
    async with Proxy(server.port) as proxy, Fleet(server.url) as fleet:
        one, two = await fleet.launch(), await fleet.launch(proxy.url, lease=30.0)
        await two.broker.subscribe("a", None)
        proxy.hold()
        publishes = (one.broker.publish(publication("a", n, retention=None)) for n in range(BACKLOG))
        await asyncio.gather(*publishes)
        behind = []
        proxy.release()

        async def sampled() -> bool:
            behind.append(two.broker.statistics()["inbox"])
            await asyncio.sleep(0)
            return len(two.node.envelopes) == BACKLOG

        async with asyncio.timeout(20):
            while not await sampled():
                continue
        assert BACKLOG / 4 < max(behind) < BACKLOG
        await eventually(lambda: two.broker.statistics()["inbox"] == 0)


async def test_rejected_publishes_are_counted(server: RedisServer) -> None:
    async with Fleet(server.url) as fleet:
        one = await fleet.launch()
        await one.broker.publish(publication("a", 1))
        server.kill()
        for _ in range(3):
            with pytest.raises(BrokerUnavailable):
                await one.broker.publish(publication("a", 2))
        await eventually(lambda: not one.broker.ready())
        figures = one.broker.statistics()
        assert (figures["published"], figures["refused"], figures["up"]) == (1, 3, 0)
        server.start()
        await eventually(lambda: one.broker.ready() and one.broker.statistics()["leases"] == 1)
