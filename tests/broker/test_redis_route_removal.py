"""Routes are removed some seconds after the last subscriber left, and never those of a new subscriber."""

from pathlib import Path

from gateway.broker.redis.keys import Keys
from tests.broker.recording_node import KEPT, publish, values
from tests.broker.redis_fleet import Fleet, RunningNode, eventually, reap_only_node
from tests.broker.redis_proxy import Proxy
from tests.broker.redis_server import RedisServer, running_redis

KEYS = Keys("fanway", 0)
LINGER = 0.6
USERS = [f"u{number}" for number in range(300)]
ROUTES = [KEYS.route(f"={user}") for user in USERS]


async def start_new_incarnation(server: RedisServer, member: RunningNode) -> None:
    """Let another node reap this one, and wait until it has a new incarnation."""
    reap_only_node(server, "c", "d")
    await eventually(lambda: member.broker.statistics()["incarnations"] == 2)


async def wait_for_earlier_calls(member: RunningNode) -> None:
    """Wait until Redis has answered all calls for routes that the node has sent."""
    await member.broker.subscribe("marker", None)


def count_routes(server: RedisServer) -> int:
    """Return how many of the users have a route."""
    return int(server.execute("EXISTS", *ROUTES))


async def test_a_channel_subscribed_again_after_a_fence_keeps_its_route(
    tmp_path: Path,
) -> None:
    with running_redis(tmp_path) as server:
        async with Fleet(server.url) as fleet:
            member = await fleet.launch(linger=LINGER)
            broker = member.broker
            await broker.subscribe("c", KEPT)
            await broker.unsubscribe("c")
            await start_new_incarnation(server, member)
            await broker.subscribe("c", KEPT)
            # Routes are removed in the order of the unsubscribes: that of `c` would be before that of `d`.
            await broker.subscribe("d", KEPT)
            await broker.unsubscribe("d")
            await eventually(lambda: not server.execute("EXISTS", KEYS.route("d")))
            await publish(broker, "c", "received")
            assert values(await member.node.messages(1)) == ["received"]


async def test_a_user_who_connects_and_disconnects_during_the_removal_leaves_no_route(
    server: RedisServer, proxy: Proxy, fleet: Fleet
) -> None:
    member = await fleet.launch(proxy.url, lease=30.0)
    broker, route = member.broker, KEYS.route("=ann")
    await broker.user_connected("ann")
    await wait_for_earlier_calls(member)
    assert server.execute("EXISTS", route)
    proxy.hold_answers()
    await broker.user_disconnected("ann")
    await eventually(lambda: not server.execute("EXISTS", route))
    await broker.user_connected("ann")
    await broker.user_disconnected("ann")
    proxy.release()
    await wait_for_earlier_calls(member)  # the answers to all calls have come by now
    await eventually(lambda: not server.execute("EXISTS", route))
    await eventually(lambda: broker.statistics()["channels"] == 1)


async def test_routes_that_are_due_together_are_removed_in_a_few_round_trips(
    server: RedisServer, fleet: Fleet
) -> None:
    member = await fleet.launch(lease=30.0)
    broker = member.broker
    for user in USERS:
        await broker.user_connected(user)
    await wait_for_earlier_calls(member)
    assert count_routes(server) == len(USERS)
    before = broker.statistics()["trips"]
    for user in USERS:
        await broker.user_disconnected(user)
    await eventually(lambda: broker.statistics()["channels"] == 1)
    assert count_routes(server) == 0
    assert broker.statistics()["trips"] - before < 10


async def test_users_who_connect_again_during_the_removal_are_routed_afterwards(
    server: RedisServer, proxy: Proxy, fleet: Fleet
) -> None:
    member = await fleet.launch(proxy.url, lease=30.0)
    broker = member.broker
    for user in USERS:
        await broker.user_connected(user)
    await wait_for_earlier_calls(member)
    proxy.hold_answers()
    for user in USERS:
        await broker.user_disconnected(user)
    await eventually(lambda: count_routes(server) < len(USERS))
    for user in USERS:
        await broker.user_connected(user)
    proxy.release()
    await wait_for_earlier_calls(member)
    assert count_routes(server) == len(USERS)
    # Nor is a route removed later: an unsubscribe that comes now is carried out after all of them.
    await broker.unsubscribe("marker")
    await eventually(lambda: not server.execute("EXISTS", KEYS.route("marker")))
    assert count_routes(server) == len(USERS)
