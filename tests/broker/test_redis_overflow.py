"""A node that cannot keep up with its inbox: what was cut off at the other end is healed, or told."""

from gateway.broker.base import Delivery, PossibleLoss
from gateway.broker.redis.inbox.dispatcher import MAX_BACKFILLS
from protocol.messages import Gap
from tests.broker.node import publish
from tests.broker.redis_fleet import LEASE_SECONDS, Fleet, eventually
from tests.broker.redis_proxy import CutPoint, CuttingProxy, Proxy
from tests.broker.redis_server import RedisServer
from tests.broker.test_redis_nodes import LONG

FLOOD = """
for i = 1, 2000 do redis.call('XADD', KEYS[1], 'MAXLEN', '~', 200, '*', 'h', 'm 0 - - not', 'b', '1\\n1') end
"""


async def test_it_is_told_though_the_answers_that_show_it_are_lost(server: RedisServer, fleet: Fleet) -> None:
    async with CuttingProxy(server.port, b"XLEN") as scissors:
        one = await fleet.launch(scissors.url, inbox_limit=200)
        await one.broker.subscribe("not", None)
        await one.broker.subscribe("kept", LONG)
        (node,) = server.execute("SMEMBERS", "fanway:{0}:route:not")
        scissors.places = [CutPoint(answer=0.0) for _ in range(3)]
        server.execute("EVAL", FLOOD, 1, f"fanway:{{0}}:in:{node.decode()}")
        await eventually(lambda: Gap("not", "reset", None) in one.node.envelopes)
        await eventually(lambda: PossibleLoss("kept") in one.node.envelopes)
        assert scissors.cuts == 3
        heard = sum(isinstance(each, Delivery) for each in one.node.envelopes)
        assert heard < 2_000, "else there was nothing to tell"
        fleet.errors.clear()


async def test_more_channels_than_are_healed_at_once_are_whole(proxy: Proxy, fleet: Fleet) -> None:
    away, other = await fleet.launch(proxy.url, lease=LEASE_SECONDS), await fleet.launch(lease=LEASE_SECONDS)
    names = [f"c{number}" for number in range(3 * MAX_BACKFILLS)]
    for name in names:
        await away.broker.subscribe(name, LONG)
    proxy.hold()
    ids = {name: await publish(other.broker, name, *range(30), retention=LONG) for name in names}
    ids[names[0]] += await publish(other.broker, names[0], *range(1_500), retention=LONG)
    await eventually(lambda: other.broker.statistics()["reaped"] == 1)
    proxy.release()
    heard = dict.fromkeys(names, 0)

    def healed() -> bool:
        for each in away.node.envelopes:
            if isinstance(each, Delivery):
                name = each.message.channel
                assert each.message.message == ids[name][heard[name]], "in order, and once"
                heard[name] += 1
        away.node.envelopes.clear()
        return all(heard[name] == len(ids[name]) for name in names)

    await eventually(healed)
    assert away.broker.statistics()["gaps"] == 0
