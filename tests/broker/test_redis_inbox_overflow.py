"""A node that is too slow for its inbox: trimmed messages are backfilled, or a gap is delivered."""

from gateway.broker.base import Delivery, PossibleLoss
from gateway.broker.redis.inbox.ordered_delivery import MAX_BACKFILLS
from protocol.messages import Gap
from tests.broker.recording_node import publish
from tests.broker.redis_fleet import LEASE_SECONDS, Fleet, eventually
from tests.broker.redis_proxy import CutPoint, CuttingProxy, Proxy
from tests.broker.redis_server import RedisServer
from tests.broker.test_redis_nodes import LONG

FLOOD = """
for i = 1, 2000 do redis.call('XADD', KEYS[1], 'MAXLEN', '~', 200, '*', 'h', 'm 0 - - not', 'b', '1\\n1') end
"""


async def test_an_overflow_is_reported_although_the_answers_that_show_it_are_lost(
    server: RedisServer, fleet: Fleet
) -> None:
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
        received = sum(isinstance(each, Delivery) for each in one.node.envelopes)
        assert received < 2_000, "otherwise nothing was trimmed"
        fleet.errors.clear()


async def test_more_channels_than_concurrent_backfills_receive_every_message(
    proxy: Proxy, fleet: Fleet
) -> None:
    away, other = await fleet.launch(proxy.url, lease=LEASE_SECONDS), await fleet.launch(lease=LEASE_SECONDS)
    names = [f"c{number}" for number in range(3 * MAX_BACKFILLS)]
    for name in names:
        await away.broker.subscribe(name, LONG)
    proxy.hold()
    ids = {name: await publish(other.broker, name, *range(30), retention=LONG) for name in names}
    ids[names[0]] += await publish(other.broker, names[0], *range(1_500), retention=LONG)
    await eventually(lambda: other.broker.statistics()["reaped"] == 1)
    proxy.release()
    received = dict.fromkeys(names, 0)

    def backfilled() -> bool:
        for each in away.node.envelopes:
            if isinstance(each, Delivery):
                name = each.message.channel
                assert each.message.message == ids[name][received[name]], "in order, and once"
                received[name] += 1
        away.node.envelopes.clear()
        return all(received[name] == len(ids[name]) for name in names)

    await eventually(backfilled)
    assert away.broker.statistics()["gaps"] == 0
