"""Redis goes back to an earlier state, as failovers make it: whoever knew more is told of it."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from gateway.broker.redis.keys import Keys
from gateway.broker.redis.scripts.registry import REAP_NODE
from protocol.messages import Gap
from tests.broker.node import publish
from tests.broker.redis_fleet import Fleet, RunningNode, eventually
from tests.broker.redis_server import DURABLE, RedisServer, running_redis
from tests.broker.test_redis_nodes import LONG, NO_RENEWALS


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    with running_redis(tmp_path, *DURABLE) as server:
        yield server


def remember(folder: Path) -> None:
    shutil.copytree(folder / "appendonlydir", folder / "replica")


def go_back(server: RedisServer, folder: Path, in_between: Callable[[], None] | None = None) -> None:
    """Let Redis have what was remembered; *in_between* happens before anybody else can ask it."""
    server.kill()
    shutil.rmtree(folder / "appendonlydir")
    shutil.copytree(folder / "replica", folder / "appendonlydir")
    server.start()
    if in_between is not None:
        in_between()


async def told(node: RunningNode) -> Gap:
    (gap,) = await node.node.received(1)
    assert isinstance(gap, Gap)
    assert gap.reason == "reset"
    await eventually(node.broker.ready)
    return gap


@pytest.mark.parametrize("lost", [1, 2, 5])
async def test_a_single_lost_write_is_noticed(
    server: RedisServer, fleet: Fleet, tmp_path: Path, lost: int
) -> None:
    one = await fleet.launch(beat=NO_RENEWALS)
    await one.broker.subscribe("a", LONG)
    (kept,) = await publish(one.broker, "a", "kept", retention=LONG)
    remember(tmp_path)
    await publish(one.broker, "a", *range(lost), retention=LONG)
    await one.node.messages(1 + lost)
    go_back(server, tmp_path)
    assert (await told(one)).position != kept
    assert not (await one.broker.read("a", since=kept)).recovered


async def test_a_redis_that_goes_back_to_the_same_state_again_confirms_nothing_from_before(
    server: RedisServer, fleet: Fleet, tmp_path: Path
) -> None:
    one = await fleet.launch(beat=NO_RENEWALS)
    await one.broker.subscribe("a", LONG)
    positions = await publish(one.broker, "a", "kept", retention=LONG)
    remember(tmp_path)
    for _ in range(3):
        # Each time with a new epoch lost as well, so that the old one is there again.
        positions += await publish(one.broker, "a", "lost", retention=LONG)
        await one.node.received(1 + (len(positions) == 2))
        go_back(server, tmp_path)
        position = (await told(one)).position
        assert position is not None
        for since in positions:
            assert not (await one.broker.read("a", since=since)).recovered
        positions.append(position)


async def test_a_loss_is_noticed_by_a_node_that_was_cleaned_up_after_first(
    server: RedisServer, fleet: Fleet, tmp_path: Path
) -> None:
    one, other = await fleet.launch(beat=NO_RENEWALS), await fleet.launch(beat=NO_RENEWALS)
    await one.broker.subscribe("a", LONG)
    (kept,) = await publish(one.broker, "a", "kept", retention=LONG)
    remember(tmp_path)
    await publish(one.broker, "a", "lost", retention=LONG)
    await one.node.messages(2)
    (node,) = [
        each for each in server.execute("ZRANGE", "fanway:{0}:nodes", 0, -1) if each.startswith(b"n1~")
    ]
    go_back(server, tmp_path, in_between=lambda: reap(server, node.decode()))
    assert (await told(one)).position != kept
    assert not (await other.broker.read("a", since=kept)).recovered


def reap(server: RedisServer, node: str) -> None:
    """Do what another node does that is back first and finds the lease of *node* over."""
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
