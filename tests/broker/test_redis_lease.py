"""A lease: when it is renewed, by whose clock it ends, and that nobody speaks in its name once it has."""

import asyncio

import pytest

from gateway.broker.redis import RedisBroker, Server
from gateway.broker.redis.connection.breaker import Breaker
from gateway.broker.redis.connection.health import ShardHealth
from gateway.broker.redis.keys import Keys
from gateway.broker.redis.membership.layout_check import LayoutCheck
from gateway.broker.redis.membership.lease import Lease
from gateway.broker.redis.membership.reaper import Reaper
from gateway.broker.redis.options import RedisOptions
from gateway.clock import FakeClock, wall
from protocol.messages import Member
from tests.broker.node import RecordingNode
from tests.broker.redis_fleet import OPTIONS, Fleet, eventually
from tests.broker.redis_server import RedisServer

GRANTED = [1, 1, b"0.a", 1_000, b"", 0, 0]
"""What Redis says of a lease that it has given."""


class IgnoredLease:
    """A lease observer that does nothing."""

    def incarnation_started(self, incarnation: str, *, lease_expired: bool) -> None:
        pass

    def lease_renewed(self) -> None:
        pass

    def writes_lost(self) -> None:
        pass


class Asked:
    """Stands for the line: Redis answers when the test says so."""

    def __init__(self) -> None:
        self.calls: asyncio.Queue[asyncio.Future[list[object]]] = asyncio.Queue()

    def call(self, *_: object) -> asyncio.Future[list[object]]:
        answer = asyncio.get_running_loop().create_future()
        self.calls.put_nowait(answer)
        return answer


async def test_an_answer_that_comes_when_the_lease_is_over_establishes_nothing() -> None:
    clock, line = FakeClock(), Asked()
    health = ShardHealth(Breaker(), invalidate_primary=lambda: None)
    keys, options = Keys("fanway", 0), RedisOptions(lease=3.0)
    reaper = Reaper(line, keys, options)  # type: ignore[arg-type]
    lease = Lease(
        line,  # type: ignore[arg-type]
        keys,
        health,
        reaper,
        options,
        LayoutCheck(),
        IgnoredLease(),
        name="n",
        layout="",
        record=lambda: b"",
        on_error=lambda _: None,
        clock=clock,
    )
    async with asyncio.TaskGroup() as tasks:
        running, waiting = tasks.create_task(lease.run()), tasks.create_task(lease.wait_until_held())
        answer = await line.calls.get()
        clock.advance(9.0)  # the process slept between the question and the answer
        answer.set_result(GRANTED)
        health.renewal_due.set()
        again = await line.calls.get()
        held = [lease.held, waiting.done()]
        again.set_result(GRANTED)
        await waiting
        assert [*held, lease.held] == [False, False, True]
        running.cancel()


def beats(server: RedisServer) -> dict[str, int]:
    """How much each node has written."""
    told = server.execute("HGETALL", "fanway:{0}:beats")
    return {node.decode().partition("~")[0]: int(beat) for node, beat in told.items()}


async def test_how_often_it_is_renewed_is_a_setting(server: RedisServer, fleet: Fleet) -> None:
    await fleet.launch(lease=600.0, beat=0.05)
    await fleet.launch(lease=600.0)
    before = beats(server)
    await eventually(lambda: beats(server)["n1"] >= before["n1"] + 5)
    assert beats(server)["n2"] == before["n2"], "it has a third of its lease"


@pytest.mark.parametrize("wrong", [-86_400.0, 86_400.0])
async def test_it_ends_by_the_clock_of_redis(server: RedisServer, fleet: Fleet, wrong: float) -> None:
    """Whatever a node takes the time for, others neither clean up after it nor wait for it in vain."""
    one, node = await fleet.launch(), RecordingNode("wrong")
    broker = RedisBroker([Server.from_url(server.url)], OPTIONS, wall_clock=lambda: wall() + wrong)
    await broker.start(node)
    try:
        seconds, _ = server.execute("TIME")
        (end,) = (end for name, end in ends(server).items() if name.startswith("wrong~"))
        assert abs(end / 1000 - seconds) < 60
        await broker.join("a", Member("c1", "ann"))
        start = beats(server)["wrong"]
        await eventually(lambda: beats(server)["wrong"] >= start + 3)
        assert one.broker.statistics()["reaped"] == 0
        assert (await one.broker.presence("a")).connections == 1
    finally:
        await broker.close()


def ends(server: RedisServer) -> dict[str, float]:
    """When each node's lease ends, in Unix ms."""
    told = server.execute("ZRANGE", "fanway:{0}:nodes", 0, -1, "WITHSCORES")
    pairs = told if told and isinstance(told[0], list | tuple) else zip(told[::2], told[1::2], strict=True)
    return {name.decode(): float(end) for name, end in pairs}
