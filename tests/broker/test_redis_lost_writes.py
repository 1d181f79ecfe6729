"""Redis returns to an earlier state, as after a failover: nodes notice it, subscribers get a gap."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from gateway.broker.base import Delivery
from gateway.broker.redis.keys import Keys
from gateway.broker.redis.scripts.registry import REAP_NODE
from gateway.errors import BrokerUnavailable
from protocol.messages import Gap, Join, Leave, Member
from tests.broker.recording_node import publish
from tests.broker.redis_fleet import LEASE_SECONDS, Fleet, RunningNode, eventually
from tests.broker.redis_server import DURABLE, RedisServer, running_redis
from tests.broker.test_redis_nodes import LONG, NO_RENEWALS


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    with running_redis(tmp_path, *DURABLE) as server:
        yield server


def save_state(folder: Path) -> None:
    shutil.copytree(folder / "appendonlydir", folder / "saved")


def restore_state(server: RedisServer, folder: Path, in_between: Callable[[], None] | None = None) -> None:
    """Restart Redis with the saved state; call *in_between* before any node has reconnected."""
    server.kill()
    shutil.rmtree(folder / "appendonlydir")
    shutil.copytree(folder / "saved", folder / "appendonlydir")
    server.start()
    if in_between is not None:
        in_between()


async def wait_for_reset(node: RunningNode) -> Gap:
    (gap,) = await node.node.received(1)
    assert isinstance(gap, Gap)
    assert gap.reason == "reset"
    await eventually(node.broker.ready)
    return gap


@pytest.mark.parametrize("lost", [1, 2, 5])
async def test_even_one_lost_write_is_noticed(
    server: RedisServer, fleet: Fleet, tmp_path: Path, lost: int
) -> None:
    one = await fleet.launch(beat=NO_RENEWALS)
    await one.broker.subscribe("a", LONG)
    (kept,) = await publish(one.broker, "a", "kept", retention=LONG)
    save_state(tmp_path)
    await publish(one.broker, "a", *range(lost), retention=LONG)
    await one.node.messages(1 + lost)
    restore_state(server, tmp_path)
    assert (await wait_for_reset(one)).position != kept
    assert not (await one.broker.read("a", since=kept)).recovered


async def test_after_several_losses_no_earlier_position_is_confirmed(
    server: RedisServer, fleet: Fleet, tmp_path: Path
) -> None:
    one = await fleet.launch(beat=NO_RENEWALS)
    await one.broker.subscribe("a", LONG)
    positions = await publish(one.broker, "a", "kept", retention=LONG)
    save_state(tmp_path)
    for _ in range(3):
        # Each time the new epoch is lost too, so that the old one is back.
        positions += await publish(one.broker, "a", "lost", retention=LONG)
        await one.node.received(1 + (len(positions) == 2))
        restore_state(server, tmp_path)
        position = (await wait_for_reset(one)).position
        assert position is not None
        for since in positions:
            assert not (await one.broker.read("a", since=since)).recovered
        positions.append(position)


async def test_a_loss_is_noticed_by_a_node_that_was_reaped_meanwhile(
    server: RedisServer, fleet: Fleet, tmp_path: Path
) -> None:
    one, other = await fleet.launch(beat=NO_RENEWALS), await fleet.launch(beat=NO_RENEWALS)
    await one.broker.subscribe("a", LONG)
    (kept,) = await publish(one.broker, "a", "kept", retention=LONG)
    save_state(tmp_path)
    await publish(one.broker, "a", "lost", retention=LONG)
    await one.node.messages(2)
    (node,) = [
        each for each in server.execute("ZRANGE", "fanway:{0}:nodes", 0, -1) if each.startswith(b"n1~")
    ]
    restore_state(server, tmp_path, in_between=lambda: reap(server, node.decode()))
    assert (await wait_for_reset(one)).position != kept
    assert not (await other.broker.read("a", since=kept)).recovered


def reap(server: RedisServer, node: str) -> None:
    """Reap *node*, as another node does that reconnects first and finds its lease expired."""
    keys = Keys("fanway", 0)
    names = [keys.state, keys.nodes, keys.node_records, keys.beats, keys.routed_names]
    names += [keys.node_routes(node), keys.node_members(node), keys.inbox(node)]
    arguments: list[str | float] = [
        node,
        1_000,
        1,
        keys.route_prefix,
        keys.members_prefix,
        keys.inbox_prefix,
        1_000,
        60_000,
    ]
    assert server.execute("EVAL", REAP_NODE.source, len(names), *names, *arguments) == 0


async def test_a_member_whose_leave_was_lost_is_removed(server: RedisServer, tmp_path: Path) -> None:
    async with Fleet(server.url) as fleet:
        one = await fleet.launch(lease=LEASE_SECONDS)
        for connection in ("c1", "c2"):
            await one.broker.join("room", Member(connection, "ann"))
        (log,) = (tmp_path / "appendonlydir").glob("*.incr.aof")
        log_before = log.read_bytes()
        await one.broker.leave("room", "c1")
        server.kill()
        log.write_bytes(log_before)
        server.start()

        async def only_the_other_member() -> bool:
            try:
                members = (await one.broker.presence("room")).members
            except BrokerUnavailable:
                return False
            return [member.connection for member in members] == ["c2"]

        await eventually(only_the_other_member)
        assert one.broker.statistics()["resets"] == 1


async def test_a_member_that_passed_to_another_connection_is_not_announced_as_left(
    server: RedisServer, tmp_path: Path
) -> None:
    async with Fleet(server.url) as fleet:
        one, two = await fleet.launch(lease=LEASE_SECONDS), await fleet.launch(lease=LEASE_SECONDS)
        await two.broker.subscribe("room", None)
        await one.broker.join("room", Member("c1", "ann"))
        save_state(tmp_path)
        await one.broker.leave("room", "c1", grace=60.0)
        assert await two.broker.join("room", Member("c2", "ann")) == Member("c1", "ann")
        # Redis forgets that: the member belongs to the first connection, and its node, as it was, is reaped.
        restore_state(server, tmp_path)
        who = Keys("fanway", 0).members("room")
        await eventually(lambda: server.execute("HKEYS", who) == [b"c2"])
        await publish(two.broker, "room", "end", retention=None)
        await eventually(lambda: isinstance(two.node.envelopes[-1], Delivery))
        *_, newest = (each for each in two.node.envelopes if isinstance(each, Join | Leave))
        assert newest == Join("room", Member("c1", "ann")), "it has not left"
