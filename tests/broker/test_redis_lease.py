"""A lease in a real Redis: when it is renewed, and by whose clock it ends."""

import pytest

from gateway.broker.redis import RedisBroker, Server
from gateway.clock import wall
from protocol.messages import Member
from tests.broker.recording_node import RecordingNode
from tests.broker.redis_fleet import OPTIONS, Fleet, eventually
from tests.broker.redis_server import RedisServer


def beats(server: RedisServer) -> dict[str, int]:
    """Return how much each node has written, by name."""
    fields = server.execute("HGETALL", "fanway:{0}:beats")
    return {node.decode().partition("~")[0]: int(beat) for node, beat in fields.items()}


async def test_the_renewal_interval_is_an_option(server: RedisServer, fleet: Fleet) -> None:
    await fleet.launch(lease=600.0, beat=0.05)
    await fleet.launch(lease=600.0)
    before = beats(server)
    await eventually(lambda: beats(server)["n1"] >= before["n1"] + 5)
    assert beats(server)["n2"] == before["n2"], "it is renewed three times per lease"


@pytest.mark.parametrize("clock_error", [-86_400.0, 86_400.0])
async def test_a_lease_ends_by_the_clock_of_redis(
    server: RedisServer, fleet: Fleet, clock_error: float
) -> None:
    """A node whose own clock is wrong by a day is neither reaped early nor waited for too long."""
    one, node = await fleet.launch(), RecordingNode("wrong")
    broker = RedisBroker([Server.from_url(server.url)], OPTIONS, wall_clock=lambda: wall() + clock_error)
    await broker.start(node)
    try:
        seconds, _ = server.execute("TIME")
        (end,) = (end for name, end in lease_ends(server).items() if name.startswith("wrong~"))
        assert abs(end / 1000 - seconds) < 60
        await broker.join("a", Member("c1", "ann"))
        start = beats(server)["wrong"]
        await eventually(lambda: beats(server)["wrong"] >= start + 3)
        assert one.broker.statistics()["reaped"] == 0
        assert (await one.broker.presence("a")).connections == 1
    finally:
        await broker.close()


def lease_ends(server: RedisServer) -> dict[str, float]:
    """Return when the lease of each incarnation ends, in Unix ms."""
    scores = server.execute("ZRANGE", "fanway:{0}:nodes", 0, -1, "WITHSCORES")
    pairs = (
        scores
        if scores and isinstance(scores[0], list | tuple)
        else zip(scores[::2], scores[1::2], strict=True)
    )
    return {name.decode(): float(end) for name, end in pairs}
