"""Routes that are deleted from Redis, by eviction or by hand, are found missing and added again."""

from gateway.broker.base import ConnectionRecord, Delivery, PossibleLoss, UserCommand
from gateway.broker.redis.inbox.route_audit import CHANNELS_PER_CALL
from protocol.messages import Gap
from tests.broker.recording_node import KEPT, publication, publish, values
from tests.broker.redis_fleet import Fleet, RunningNode, eventually
from tests.broker.redis_server import RedisServer

FREQUENT_RENEWALS = {"beat": 0.05}


def key(kind: str, name: str) -> str:
    return f"fanway:{{0}}:{kind}:{name}"


async def wait_for_restored(node: RunningNode, routes: int) -> None:
    await eventually(lambda: node.broker.statistics()["mended"] == routes)


async def test_messages_missed_by_a_lost_route_are_delivered(server: RedisServer, fleet: Fleet) -> None:
    one, two = await fleet.launch(**FREQUENT_RENEWALS), await fleet.launch()
    await one.broker.subscribe("a", KEPT)
    await publish(two.broker, "a", 1)
    assert values(await one.node.messages(1)) == [1]
    server.execute("DEL", key("route", "a"))
    await publish(two.broker, "a", 2, 3)
    assert values(await one.node.messages(2)) == [2, 3]
    assert await one.node.received(1) == [PossibleLoss("a")]
    assert one.broker.statistics()["mended"] == 1
    await publish(two.broker, "a", 4)
    assert values(await one.node.messages(1)) == [4]


async def test_a_channel_without_history_gets_a_gap_after_a_lost_route(
    server: RedisServer, fleet: Fleet
) -> None:
    one, two = await fleet.launch(**FREQUENT_RENEWALS), await fleet.launch()
    await one.broker.subscribe("a", None)
    server.execute("DEL", key("route", "a"))
    assert await one.node.received(1) == [Gap("a", "reset", None)]
    await two.broker.publish(publication("a", 1, retention=None))
    assert values(await one.node.messages(1)) == [1]


async def test_user_commands_are_delivered_after_a_lost_route(server: RedisServer, fleet: Fleet) -> None:
    one, two = await fleet.launch(**FREQUENT_RENEWALS), await fleet.launch()
    one.node.connected["ann"] = [ConnectionRecord("c1", "n1", [], 1.0)]
    await one.broker.user_connected("ann")
    await eventually(lambda: server.execute("SCARD", key("route", "=ann")) == 1)
    server.execute("DEL", key("route", "=ann"))
    await two.broker.send_user_command(UserCommand("ann", "disconnect"))
    (command,) = await one.node.received(1)
    assert isinstance(command, UserCommand)
    assert (command.user, command.action) == ("ann", "disconnect")


async def test_a_route_missing_among_those_of_its_node_is_added_again(
    server: RedisServer, fleet: Fleet
) -> None:
    one = await fleet.launch(**FREQUENT_RENEWALS)
    await one.broker.subscribe("a", KEPT)
    (of,) = server.execute("KEYS", key("of", "*"))
    server.execute("DEL", of)
    await wait_for_restored(one, 1)
    assert server.execute("SMEMBERS", of) == {b"a"}


async def test_every_channel_is_checked(server: RedisServer, fleet: Fleet) -> None:
    one = await fleet.launch(**FREQUENT_RENEWALS)
    names = [f"c{number}" for number in range(2 * CHANNELS_PER_CALL + 1)]
    for name in names:
        await one.broker.subscribe(name, KEPT)
    server.execute("DEL", *(key("route", name) for name in names))
    await wait_for_restored(one, len(names))
    assert len(server.execute("KEYS", key("route", "*"))) == len(names)


async def test_many_channels_are_checked_before_their_positions_expire(
    server: RedisServer, fleet: Fleet
) -> None:
    one = await fleet.launch(beat=0.1, meta_ttl=0.4)
    names = [f"c{number}" for number in range(5 * CHANNELS_PER_CALL)]
    for name in names:
        await one.broker.subscribe(name, KEPT)
    server.execute("DEL", *(key("route", name) for name in names))
    await wait_for_restored(one, len(names))


async def test_a_lost_route_of_a_channel_without_subscribers_is_not_added_again(
    server: RedisServer, fleet: Fleet
) -> None:
    one = await fleet.launch(linger=30.0, **FREQUENT_RENEWALS)
    for name in ("a", "b"):
        await one.broker.subscribe(name, KEPT)
    await one.broker.unsubscribe("a")
    server.execute("DEL", key("route", "a"), key("route", "b"))
    await wait_for_restored(one, 1)
    assert not server.execute("EXISTS", key("route", "a"))
    assert not [each for each in one.node.envelopes if isinstance(each, Delivery)]
