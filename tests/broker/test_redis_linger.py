"""What lingers is unrouted all at once when it is due, and never from under whoever follows it again."""

from pathlib import Path

from gateway.broker.redis.keys import Keys
from tests.broker.node import KEPT, publish, values
from tests.broker.redis_fleet import Fleet, RunningNode, eventually, reap_only_node
from tests.broker.redis_proxy import Proxy
from tests.broker.redis_server import RedisServer, running_redis

KEYS = Keys("fanway", 0)
LINGER = 0.6
USERS = [f"u{number}" for number in range(300)]
ROUTES = [KEYS.route(f"={user}") for user in USERS]


async def become_another(server: RedisServer, member: RunningNode) -> None:
    """Let others clean up after the node, as if it had slept, and wait until it has begun anew."""
    reap_only_node(server, "c", "d")
    await eventually(lambda: member.broker.statistics()["incarnations"] == 2)


async def told(member: RunningNode) -> None:
    """Wait until Redis has answered whatever the node said of its routes before."""
    await member.broker.subscribe("marker", None)


def routed(server: RedisServer) -> int:
    """How many of the users some node is routed for."""
    return int(server.execute("EXISTS", *ROUTES))


async def test_who_follows_again_after_a_fence_is_not_unrouted_with_what_lingered_before(
    tmp_path: Path,
) -> None:
    with running_redis(tmp_path) as server:
        async with Fleet(server.url) as fleet:
            member = await fleet.launch(linger=LINGER)
            broker = member.broker
            await broker.subscribe("c", KEPT)
            await broker.unsubscribe("c")
            await become_another(server, member)
            await broker.subscribe("c", KEPT)
            # What lingers is unrouted in the order of its end: when `d` is, the turn of `c` has passed.
            await broker.subscribe("d", KEPT)
            await broker.unsubscribe("d")
            await eventually(lambda: not server.execute("EXISTS", KEYS.route("d")))
            await publish(broker, "c", "heard")
            assert values(await member.node.messages(1)) == ["heard"]


async def test_who_comes_and_goes_while_it_is_unrouted_leaves_no_route(
    server: RedisServer, proxy: Proxy, fleet: Fleet
) -> None:
    member = await fleet.launch(proxy.url, lease=30.0)
    broker, route = member.broker, KEYS.route("=ann")
    await broker.user_connected("ann")
    await told(member)
    assert server.execute("EXISTS", route)
    proxy.hold_answers()
    await broker.user_disconnected("ann")
    await eventually(lambda: not server.execute("EXISTS", route))
    await broker.user_connected("ann")
    await broker.user_disconnected("ann")
    proxy.release()
    await told(member)  # that she came again, at the latest
    await eventually(lambda: not server.execute("EXISTS", route))
    await eventually(lambda: broker.statistics()["channels"] == 1)


async def test_what_is_due_together_is_unrouted_in_a_few_round_trips(
    server: RedisServer, fleet: Fleet
) -> None:
    member = await fleet.launch(lease=30.0)
    broker = member.broker
    for user in USERS:
        await broker.user_connected(user)
    await told(member)
    assert routed(server) == len(USERS)
    before = broker.statistics()["trips"]
    for user in USERS:
        await broker.user_disconnected(user)
    await eventually(lambda: broker.statistics()["channels"] == 1)
    assert routed(server) == 0
    assert broker.statistics()["trips"] - before < 10


async def test_who_comes_again_while_all_are_unrouted_is_routed_after_that(
    server: RedisServer, proxy: Proxy, fleet: Fleet
) -> None:
    member = await fleet.launch(proxy.url, lease=30.0)
    broker = member.broker
    for user in USERS:
        await broker.user_connected(user)
    await told(member)
    proxy.hold_answers()
    for user in USERS:
        await broker.user_disconnected(user)
    await eventually(lambda: routed(server) < len(USERS))
    for user in USERS:
        await broker.user_connected(user)
    proxy.release()
    await told(member)
    assert routed(server) == len(USERS)
    # Nor is anybody unrouted late: whoever goes now goes after all that.
    await broker.unsubscribe("marker")
    await eventually(lambda: not server.execute("EXISTS", KEYS.route("marker")))
    assert routed(server) == len(USERS)
