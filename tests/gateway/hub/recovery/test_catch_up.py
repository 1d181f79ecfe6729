"""Clients that read too slowly and catch up: nothing is lost, whatever the broker does meanwhile."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from gateway.broker.base import HistorySlice, PossibleLoss
from gateway.errors import BrokerFull, GatewayError
from gateway.hub.services import SessionLimits
from protocol.codec import JSON, MSGPACK, Codec
from protocol.messages import Gap, Subscribe, Unsubscribe, Unsubscribed
from protocol.position import MessageId
from tests.gateway.life import RULES, Client, Life, life
from tests.gateway.racing import RacingBroker, unavailable
from tests.gateway.slowness import LIMITS, pushes, read_on, say
from tests.gateway.standing import passed, quiet, standing

# ---------------------------------------------------------------- catch_up


@pytest.mark.parametrize("codec", [JSON, MSGPACK], ids=["json", "msgpack"])
@pytest.mark.parametrize("count", [5, 20, 60, 95])
@standing
async def test_who_catches_up_has_missed_nothing(count: int, codec: Codec) -> None:
    async with life(limits=LIMITS) as node:
        slow, fast = await node.client(codec), await node.client()
        for client in (slow, fast):
            await client.follow("h:a")
        slow.link.fill()
        for number in range(count):
            await say(node, "h:a", number)
            assert pushes(fast, "h:a") == list(range(number + 1)), "at once, whatever others do"
        assert pushes(slow, "h:a") == []
        slow.link.capacity = 1_000
        while slow.session.statistics()["behind"] or slow.session.statistics()["waiting"]:
            slow.link.drain()
            await quiet()
        assert pushes(slow, "h:a") == list(range(count))
        await read_on(slow)
        await say(node, "h:a", "live")
        assert pushes(slow, "h:a")[-1] == pushes(fast, "h:a")[-1] == "live"


@standing
async def test_a_catch_up_goes_on_beside_what_is_said_meanwhile() -> None:
    async with life(limits=LIMITS) as node:
        slow = await node.client()
        await slow.follow("h:a")
        slow.link.fill()
        await say(node, "h:a", *range(40))
        slow.link.capacity = 800
        for number in range(40, 90):
            slow.link.drain()
            await say(node, "h:a", number)
        await read_on(slow)
        assert pushes(slow, "h:a") == list(range(90))
        assert slow.session.statistics()["behind"] == 0


@pytest.mark.parametrize("kept", [10, 100])
@standing
async def test_where_history_no_longer_reaches_back_a_gap_tells(kept: int) -> None:
    rules = {**RULES, "h": replace(RULES["h"], history=kept)}
    async with life(limits=LIMITS, rules=rules) as node:
        slow = await node.client()
        await slow.follow("h:a")
        await say(node, "h:a", 0)
        slow.link.fill()
        count = 3 * kept + 64
        await say(node, "h:a", *range(1, count))
        await read_on(slow)
        await say(node, "h:a", "live")
        assert pushes(slow, "h:a") == [0, ("trimmed", count), "live"]


@standing
async def test_each_of_several_channels_catches_up_though_the_first_cannot() -> None:
    rules = {**RULES, "few": replace(RULES["h"], namespace="few", history=2)}
    async with life(limits=LIMITS, rules=rules) as node:
        slow = await node.client()
        for channel in ("few:a", "few:b", "h:a", "h:b"):
            await slow.follow(channel)
        slow.link.fill()
        for number in range(90):
            for channel in ("few:a", "few:b", "h:a", "h:b"):
                await say(node, channel, number)
        assert slow.session.statistics()["behind"] == 4
        await read_on(slow)
        for channel in ("few:a", "few:b"):
            assert pushes(slow, channel) == [("trimmed", 90)]
        for channel in ("h:a", "h:b"):
            assert pushes(slow, channel) == list(range(90))
        assert slow.session.statistics()["behind"] == 0


@standing
async def test_channels_catch_up_in_turn() -> None:
    async with life(limits=LIMITS) as node:
        slow = await node.client()
        for channel in ("h:a", "h:b"):
            await slow.follow(channel)
        slow.link.fill()
        for number in range(40):
            for channel in ("h:a", "h:b"):
                await say(node, channel, number)
        slow.link.capacity = 3_000
        slow.link.drain()
        await quiet()
        assert len(pushes(slow, "h:a")) == len(pushes(slow, "h:b")) > 0
        await read_on(slow)


@standing
async def test_what_no_history_keeps_is_told_of_and_the_rest_is_replayed() -> None:
    async with life(limits=LIMITS) as node:
        slow = await node.client()
        await slow.follow("h:a")
        slow.link.fill()
        await say(node, "h:a", *range(10))
        await say(node, "h:a", "not kept", retention=None)
        await say(node, "h:a", *range(10, 30))
        await say(node, "h:a", "not kept either", retention=None)
        await say(node, "h:a", 30)
        await read_on(slow)
        await say(node, "h:a", "live", retention=None)
        heard = pushes(slow, "h:a")
        assert [each for each in heard if not isinstance(each, tuple)] == [*range(31), "live"]
        assert ("overflow", 0) in heard, "before the replay, from where it begins"
        assert ("overflow", 31) in heard, "behind it, for what came while it was behind"


@standing
async def test_a_replay_is_cut_to_what_a_socket_takes_in() -> None:
    limits = SessionLimits(catch_up_batch=128)
    async with life(limits=limits) as node:
        slow = await node.client()
        await slow.follow("h:a")
        slow.link.fill()
        for number in range(60):
            await node.publish("h:a", [number, "x" * 30_000])
            await quiet()
        slow.link.capacity = 1
        before = len(slow.link.writes)
        slow.link.drain()
        await quiet()
        while slow.session.statistics()["behind"]:
            assert all(len(data) < 3 * 64 * 1024 for data in slow.link.writes[before:])
            slow.link.drain()
            await quiet()
        await read_on(slow)
        assert pushes(slow, "h:a") == list(range(60))


# ---------------------------------------------------------------- catch_up, and the broker


async def fallen_behind(node: Life, *channels: str, count: int = 80) -> Client:
    """Return a client that is behind in *channels*, further than the hub remembers."""
    client = await node.client()
    for channel in channels:
        await client.follow(channel)
    client.link.fill()
    for number in range(count):
        for channel in channels:
            await say(node, channel, number)
    assert client.session.statistics()["behind"] == len(channels)
    return client


@pytest.mark.parametrize(("error", "wait"), [(unavailable(), 0.5), (BrokerFull("the test wants it so"), 5.0)])
@standing
async def test_a_broker_that_cannot_tell_now_is_asked_again(error: GatewayError, wait: float) -> None:
    broker = RacingBroker(only=frozenset())
    async with life(broker=broker, limits=LIMITS) as node:
        slow = await fallen_behind(node, "h:a")
        broker.only = frozenset({"read"})
        broker.fails["read"] = error
        slow.link.drain()
        for _ in range(3):
            await broker.pass_all()
            assert pushes(slow, "h:a") == []
            await passed(wait)
        broker.fails.clear()
        await broker.pass_all()
        await passed(wait)
        await broker.pass_all()
        assert pushes(slow, "h:a") == list(range(80))


@standing
async def test_who_goes_away_while_it_waits_for_the_broker_is_not_asked_for_again() -> None:
    broker = RacingBroker(only=frozenset())
    async with life(broker=broker, limits=LIMITS) as node:
        slow = await fallen_behind(node, "h:a")
        broker.only = frozenset({"read"})
        broker.fails["read"] = unavailable()
        slow.link.drain()
        await broker.pass_all()
        slow.end()
        await passed(5.0)
        assert broker.calls.count("read") == 1


class Stale(RacingBroker):
    """A broker that reads from a copy which has not heard the newest."""

    async def read(self, channel: str, *, since: MessageId | None = None, **_: Any) -> HistorySlice:
        position = since or MessageId(0, "zero")
        return HistorySlice((), position, recovered=True)


@standing
async def test_a_broker_that_knows_less_than_was_said_here_is_not_waited_for() -> None:
    async with life(broker=Stale(only=frozenset()), limits=LIMITS) as node:
        slow = await fallen_behind(node, "h:a")
        await read_on(slow)
        await say(node, "h:a", "live")
        assert pushes(slow, "h:a") == [("reset", 80), "live"]


@standing
async def test_what_a_gap_covers_is_not_said_behind_it() -> None:
    rules = {**RULES, "h": replace(RULES["h"], history=2)}
    async with life(limits=LIMITS, rules=rules) as node:
        slow = await fallen_behind(node, "h:a")
        await node.publish("h:a", ["in the same turn", ""])
        slow.link.drain()
        await quiet()
        await say(node, "h:a", "live")
        assert pushes(slow, "h:a") == [("trimmed", 81), "live"]


class Failing(RacingBroker):
    """A broker with a bug."""

    async def read(self, *_: Any, **__: Any) -> HistorySlice:
        raise RuntimeError("a bug")


@standing
async def test_who_cannot_be_caught_up_with_for_a_bug_is_sent_away_to_resume() -> None:
    async with life(broker=Failing(only=frozenset()), limits=LIMITS) as node:
        slow = await fallen_behind(node, "h:a")
        slow.link.drain()
        await quiet()
        assert slow.link.closed == (4011, "internal")
        (error,) = node.errors
        assert str(error) == "a bug"
        node.errors.clear()


@standing
async def test_one_that_falls_behind_while_another_waits_for_the_broker_catches_up_too() -> None:
    broker = RacingBroker(only=frozenset())
    async with life(broker=broker, limits=LIMITS) as node:
        slow = await fallen_behind(node, "h:a")
        slow.say(Subscribe(50, "h:b"))
        broker.only = frozenset({"read"})
        slow.link.drain()
        await quiet()
        slow.link.fill()
        await say(node, "h:b", *range(30))
        assert slow.session.statistics()["behind"] == 2
        slow.link.drain()
        await broker.pass_all()
        assert pushes(slow, "h:a") == list(range(80))
        assert pushes(slow, "h:b") == list(range(30))


@standing
async def test_nothing_follows_the_end_of_a_subscription_that_was_behind() -> None:
    broker = RacingBroker(only=frozenset())
    async with life(broker=broker, limits=LIMITS) as node:
        slow = await fallen_behind(node, "h:a")
        broker.only = frozenset({"read"})
        slow.link.drain()
        await quiet()
        reply = await slow.ask(Unsubscribe(50, "h:a"))
        assert reply == Unsubscribed("h:a", id=50)
        await broker.pass_all()
        await say(node, "h:a", "later")
        assert pushes(slow, "h:a") == []
        assert slow.session.statistics()["behind"] == 0


@standing
async def test_what_waits_of_an_ended_subscription_is_not_replayed_to_its_successor() -> None:
    async with life(limits=LIMITS) as node:
        slow = await node.client()
        await slow.follow("h:a")
        slow.link.fill()
        await say(node, "h:a", "old")
        slow.say(Unsubscribe(50, "h:a"), Subscribe(51, "h:a"), Subscribe(52, "h:b"))
        await say(node, "h:b", *range(30))
        assert slow.session.statistics()["behind"] == 1
        await read_on(slow)
        await say(node, "h:a", "new")
        assert pushes(slow, "h:a") == ["new"]
        assert pushes(slow, "h:b") == list(range(30))


@pytest.mark.parametrize("position", [MessageId(500, "new"), MessageId(3, "new"), None])
@standing
async def test_a_history_that_broke_is_told_of_to_who_follows_and_to_who_is_behind(
    position: MessageId | None,
) -> None:
    async with life(limits=LIMITS) as node:
        fast = await node.client()
        await fast.follow("h:a")
        slow = await fallen_behind(node, "h:a")
        node.hub.deliver(Gap("h:a", "reset", position))
        assert slow.session.statistics()["behind"] == 0
        await read_on(slow)
        told = ("reset", position and position.offset)
        assert pushes(fast, "h:a")[-1] == told
        assert pushes(slow, "h:a") == [told]


@standing
async def test_a_position_that_the_broker_lost_is_a_reset() -> None:
    broker = RacingBroker(only=frozenset())
    async with life(broker=broker, limits=LIMITS) as node:
        slow = await fallen_behind(node, "h:a")
        await broker.inner.close()
        reborn = RacingBroker(only=frozenset())
        broker.inner = reborn.inner
        await broker.start(node.hub)
        await read_on(slow)
        assert pushes(slow, "h:a") == [("reset", 80)]


@standing
async def test_what_was_cleared_meanwhile_is_a_gap() -> None:
    async with life(limits=LIMITS) as node:
        slow = await fallen_behind(node, "h:a")
        await node.broker.clear("h:a")
        await say(node, "h:a", "after")
        await read_on(slow)
        assert pushes(slow, "h:a") == [("trimmed", 81)]


@standing
async def test_who_is_behind_is_told_once_it_is_live_that_joins_may_be_missing() -> None:
    async with life(limits=LIMITS) as node:
        slow = await node.client()
        await slow.follow("hp:a")
        slow.link.fill()
        await say(node, "hp:a", *range(30))
        assert slow.session.statistics()["behind"] == 1
        node.hub.deliver(PossibleLoss("hp:a"))
        await read_on(slow)
        await say(node, "hp:a", "live")
        assert pushes(slow, "hp:a") == [*range(30), ("overflow", 30), "live"]
