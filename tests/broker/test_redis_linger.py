"""What lingers while its node becomes another: whoever follows it again is not unrouted with it."""

from pathlib import Path

from gateway.broker.redis.keys import Keys
from tests.broker.node import KEPT, publish, values
from tests.broker.redis_fleet import Fleet, Member, eventually
from tests.broker.redis_server import RedisServer, serving

KEYS = Keys("fanway", 0)
LINGER = 0.6


async def become_another(server: RedisServer, member: Member) -> None:
    """Let others clean up after the node, as if it had slept, and wait until it has begun anew."""
    (node,) = server.execute("ZRANGE", KEYS.nodes, 0, -1)
    for key in (KEYS.route("c"), KEYS.route("d")):
        server.execute("SREM", key, node)
    server.execute("DEL", KEYS.inbox(node.decode()), KEYS.of(node.decode()))
    server.execute("SET", KEYS.tombstone(node.decode()), 1)
    server.execute("ZREM", KEYS.nodes, node)
    await eventually(lambda: member.broker.statistics()["incarnations"] == 2)


async def test_who_follows_again_after_a_fence_is_not_unrouted_with_what_lingered_before(
    tmp_path: Path,
) -> None:
    with serving(tmp_path) as server:
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
