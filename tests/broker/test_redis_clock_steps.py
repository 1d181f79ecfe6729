"""The clock of Redis is stepped: no living node is reaped, a dead one is, and messages keep their order."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.broker.base import PresenceCount
from protocol.messages import Join, Leave, Member
from tests.broker.recording_node import KEPT, publication, publish, values
from tests.broker.redis_fleet import Fleet, RunningNode, eventually
from tests.broker.redis_proxy import Proxy
from tests.broker.stepped_redis import SteppedRedis, running_stepped_redis
from tests.broker.test_redis_lease import beats

STEPS = [3_600.0, -3_600.0, 40.0]
"""Seconds; a lease of these tests has 60, and 40 of them are more than what each may lose."""

BOB, CLEO = Member("c2", "bob"), Member("c3", "cleo")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[SteppedRedis]:
    with running_stepped_redis(tmp_path) as server:
        yield server


def reaped(*members: RunningNode) -> int:
    return sum(member.broker.statistics()["reaped"] for member in members)


async def all_renewed(server: SteppedRedis, times: int) -> None:
    """Wait until every node has renewed its lease *times* times."""
    before = beats(server)
    await eventually(lambda: all(beats(server)[name] >= beat + times for name, beat in before.items()))


@pytest.mark.parametrize("step", STEPS)
async def test_no_living_node_is_reaped_when_the_clock_of_redis_is_stepped(
    server: SteppedRedis, fleet: Fleet, step: float
) -> None:
    one, two = await fleet.launch(), await fleet.launch()
    await one.broker.subscribe("a", KEPT)
    await two.broker.join("a", BOB)
    assert await one.node.received(1) == [Join("a", BOB)]
    for offset in (step, 0.0, step):
        server.clock.step_to(offset)
        assert {record.node for record in await one.broker.nodes()} == {"n1", "n2"}
        await all_renewed(server, 4)
    assert reaped(one, two) == 0
    assert [member.broker.statistics()["incarnations"] for member in (one, two)] == [1, 1]
    assert one.node.envelopes == []
    assert await one.broker.count("a") == PresenceCount(1, 1)


@pytest.mark.parametrize("step", [3_600.0, -3_600.0])
async def test_a_dead_node_is_reaped_although_the_clock_of_redis_is_stepped(
    server: SteppedRedis, proxy: Proxy, fleet: Fleet, step: float
) -> None:
    one, dying = await fleet.launch(lease=4.0, beat=0.2), await fleet.launch(proxy.url, lease=4.0, beat=0.2)
    await one.broker.subscribe("a", KEPT)
    await dying.broker.join("a", CLEO)
    assert await one.node.received(1) == [Join("a", CLEO)]
    proxy.hold()
    server.clock.step_to(step)
    assert await one.node.received(1) == [Leave("a", CLEO)]
    await eventually(lambda: reaped(one) == 1)
    proxy.release()
    # It lives after all: a new incarnation announces its member again, once.
    assert await one.node.received(1) == [Join("a", CLEO)]
    assert reaped(one) == 1


@pytest.mark.parametrize("step", STEPS)
async def test_messages_keep_their_order_and_keys_when_the_clock_of_redis_is_stepped(
    server: SteppedRedis, fleet: Fleet, step: float
) -> None:
    one, two = await fleet.launch(), await fleet.launch()
    await one.broker.subscribe("a", KEPT)
    (first,) = await publish(two.broker, "a", 1, key="k")
    server.clock.step_to(step)
    await publish(two.broker, "a", 2, 3)
    server.clock.step_to(0.0)
    ids = await publish(two.broker, "a", 4)
    assert values(await one.node.messages(4)) == [1, 2, 3, 4]
    missed = await two.broker.read("a", since=first)
    # Redis drops what its clock says has expired; then it says so, and never returns a part.
    assert values(missed.messages) == ([2, 3, 4] if missed.recovered else [])
    assert missed.position == ids[-1]
    if abs(step) < KEPT.ttl:
        assert missed.recovered
        assert (await two.broker.publish(publication("a", 1, key="k"))).replayed
