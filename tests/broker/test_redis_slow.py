"""A Redis that answers late, and answers everything: it is waited for."""

from pathlib import Path

from tests.broker.node import KEPT, publish, values
from tests.broker.redis_fleet import Fleet
from tests.broker.redis_server import serving
from tests.chaos.flow import CLEAR, Line
from tests.chaos.proxy import Proxy

LEASE = 6.0
"""Seconds: so that a renewal, of which there is one every two seconds, may take as long as a publish."""


async def test_a_redis_that_is_slow_is_not_lost(tmp_path: Path) -> None:
    with serving(tmp_path) as server:
        async with Proxy.open(server.port) as way, Fleet(f"redis://127.0.0.1:{way.port}/0") as fleet:
            one = await fleet.launch(lease=LEASE, block=2.0)
            await one.broker.subscribe("room", KEPT)
            await publish(one.broker, "room", "to connect")
            way.shape(up=Line(delay=0.9))
            # That takes so long that the lease is renewed meanwhile.
            before = one.broker.statistics()["calls"]
            await publish(one.broker, "room", *range(5))
            assert values(await one.node.messages(6)) == ["to connect", *range(5)]
            told = one.broker.statistics()
            assert told["calls"] > before + 5
            assert (told["failures"], told["incarnations"], told["up"]) == (0, 1, 1)
            way.shape(up=CLEAR)
