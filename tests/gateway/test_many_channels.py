"""Work per turn of the event loop with very many channels: it must not grow with their number.

What is counted are channels that are touched; a test that counts 0 with 20,000 would count 0 with a million.
"""

import asyncio
from typing import Any, cast

import pytest

from gateway.access.grants import Grant
from gateway.broker.base import AckLevel, Publication, Retention
from gateway.broker.memory.broker import MemoryBroker
from gateway.broker.memory.channel_log import ChannelLog
from gateway.broker.redis.connection.breaker import Breaker
from gateway.broker.redis.connection.health import ShardHealth
from gateway.broker.redis.inbox.held_entries import HeldEntries
from gateway.broker.redis.inbox.route_audit import RouteAudit
from gateway.broker.redis.inbox.routes import Routes
from gateway.broker.redis.keys import Keys
from gateway.broker.redis.options import RedisOptions
from gateway.clock import FakeClock
from gateway.errors import BrokerUnavailable
from gateway.hub.channel import Channel
from gateway.hub.hub import Hub
from gateway.hub.subscription import Subscription
from gateway.tasks import Slicer, Tasks
from protocol.codec import JSON
from protocol.payload import payload_of
from tests.broker.recording_node import RecordingNode
from tests.gateway.node import OPEN
from tests.gateway.turns import WorkPerTurn, work_per_turn

CHANNELS = 20_000
FEW = 1_000
"""Channels in one turn: a slice of 2 ms and one part, with a margin."""


class SubscribedSession:
    """A session without a connection."""

    connection = "c"
    codec = JSON
    outbox = None

    def __init__(self) -> None:
        self.subscriptions: dict[str, Subscription] = {}
        self.behind: dict[Subscription, None] = {}


async def hub_with_channels(count: int) -> Hub:
    tasks = Tasks(lambda _: None)
    broker = MemoryBroker(sweep_interval=0)
    hub = Hub("n1", broker, scheduler=asyncio.get_running_loop(), tasks=tasks)
    await broker.start(hub)
    session = cast("Any", SubscribedSession())
    for number in range(count):
        channel = await hub.acquire_channel(f"room:{number:06}", OPEN)
        channel.add(Subscription(session, channel, watches_presence=False, grant=Grant.RULE))
        hub.release_channel(channel)
    return hub


async def test_listings_lookups_and_records_touch_only_what_they_return(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    hub = await hub_with_channels(CHANNELS)
    work = WorkPerTurn()
    monkeypatch.setattr(Channel, "__len__", work.counting(Channel.__len__))
    assert hub.as_record().subscriptions == CHANNELS
    assert hub.statistics()["channels"] == CHANNELS
    assert work.total == 0
    page = await hub.broker.subscribed_channels("room:01", after="room:010500", limit=100)
    assert [each.channel for each in page.items] == [f"room:{n:06}" for n in range(10_501, 10_601)]
    assert work.total <= 101
    assert hub.subscribers("room:019999") == 1
    page = await hub.broker.subscribed_channels("room:019999", after="", limit=1)
    assert [each.subscribers for each in page.items] == [1]
    assert work.total <= 104


async def test_subscriptions_are_counted_as_channels_come_and_go() -> None:
    hub = await hub_with_channels(10)
    for channel in list(hub.channels.values())[:4]:
        (subscription,) = channel.subscribers[JSON]
        channel.remove(subscription)
        channel.remove(subscription)
        hub.discard_if_idle(channel)
    assert hub.as_record().subscriptions == 6
    assert list(hub.subscribed_channels()) == [f"room:{n:06}" for n in range(4, 10)]


# ---------------------------------------------------------------- the memory broker


def publication(channel: str, key: str | None = None) -> Publication:
    return Publication(channel, payload_of(1), Retention(10, 60.0), key=key, level=AckLevel.STORED)


async def broker_with_channels(clock: FakeClock, *, keys: bool = False) -> MemoryBroker:
    broker = MemoryBroker(
        memory=1 << 30, key_ttl=60.0, meta_ttl=120.0, sweep_interval=0, clock=clock, wall_clock=clock
    )
    await broker.start(RecordingNode())
    for number in range(CHANNELS):
        await broker.publish(publication(f"c{number}", f"k{number}" if keys else None))
    return broker


async def test_a_sweep_looks_only_at_channels_with_something_to_drop(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = FakeClock()
    broker = await broker_with_channels(clock)
    clock.advance(59.0)
    work = WorkPerTurn()
    monkeypatch.setattr(ChannelLog, "expire", work.counting(ChannelLog.expire))
    broker.sweep()
    assert work.total == 0
    clock.advance(1.0)
    slices = 0
    while broker.sweep_slice():
        slices += 1
        work.turn += 1
    assert (work.total, work.most <= FEW, slices > 1) == (CHANNELS, True, True)
    assert broker.statistics()["channels"] == CHANNELS
    clock.advance(120.0)
    broker.sweep()
    figures = broker.statistics()
    assert (figures["channels"], figures["bytes"]) == (0, 0)


async def test_keys_that_expire_together_are_dropped_in_slices() -> None:
    clock = FakeClock()
    broker = await broker_with_channels(clock, keys=True)
    clock.advance(60.0)
    assert not (await broker.publish(publication("c19999", "k19999"))).replayed
    left = broker.statistics()["keys"]
    assert CHANNELS - left <= FEW
    assert (await broker.publish(publication("c19999", "k19999"))).replayed
    broker.sweep()
    assert broker.statistics()["keys"] == 1


# ---------------------------------------------------------------- the Redis broker


class CountingPipeline:
    """Answers each call at once with what `answer` says."""

    def __init__(self, answer: Any) -> None:
        self.answer = answer

    def call(self, command: Any, **__: Any) -> asyncio.Future[Any]:
        future = asyncio.get_running_loop().create_future()
        future.set_result(self.answer)
        return future


class RoutingPipeline(CountingPipeline):
    """Answers each call that adds routes with a position of each."""

    def __init__(self) -> None:
        super().__init__(None)

    def call(self, command: Any, **__: Any) -> asyncio.Future[Any]:
        return CountingPipeline([1, *[[1, b"u"]] * routes_in(command)]).call(command)


def routes_in(command: Any) -> int:
    """Return how many routes the call `add_routes` adds: it has six keys, and three for each."""
    return (int(command[2]) - 6) // 3


async def routes_with_channels(pipeline: CountingPipeline, tasks: Tasks, slicer: Slicer) -> Routes:
    options = RedisOptions(prefix="t", subscribe_timeout=60.0)
    health = ShardHealth(Breaker(), invalidate_primary=lambda: None)
    health.lease_held()
    routes = Routes(
        cast("Any", pipeline),
        health,
        Keys("t", 0, cluster=False),
        options,
        tasks,
        slicer,
        incarnation=lambda: "n~1",
        clock=FakeClock(),
        held=HeldEntries(),
    )
    await asyncio.gather(*(routes.subscribe(f"c{number}", Retention(10, 60.0)) for number in range(CHANNELS)))
    return routes


async def test_a_new_incarnation_routes_all_channels_in_slices() -> None:
    pipeline, errors = RoutingPipeline(), list[BaseException]()
    tasks = Tasks(errors.append)
    routes = await routes_with_channels(pipeline, tasks, Slicer())
    async with work_per_turn() as work:
        pipeline.call = counting(work, pipeline.call)  # type: ignore[method-assign]
        routes.on_new_incarnation()
        assert work.total == 0
        assert routes.resubscribing
        await work.until(lambda: not routes.resubscribing)
    assert work.total == CHANNELS
    assert work.most <= FEW
    assert {channel.routed_era for channel in routes.channels.values()} == {routes.era}
    await tasks.close()
    assert errors == []


async def test_calls_that_failed_are_repeated_in_slices() -> None:
    pipeline, errors = RoutingPipeline(), list[BaseException]()
    tasks = Tasks(errors.append)
    routes = await routes_with_channels(pipeline, tasks, Slicer())
    pipeline.call = failing_call  # type: ignore[method-assign, assignment]
    routes.on_new_incarnation()
    async with work_per_turn() as work:
        await work.until(lambda: not routes.resubscribing)
        for _ in range(5):
            await asyncio.sleep(0)  # until the routes know that their calls failed
        pipeline.call = counting(work, RoutingPipeline().call)  # type: ignore[method-assign]
        routes.retry_failed()
        await work.until(lambda: work.total >= CHANNELS)
        assert work.most <= FEW
    await tasks.close()
    assert errors == []


async def test_an_audit_checks_its_share_in_slices() -> None:
    pipeline, errors = RoutingPipeline(), list[BaseException]()
    tasks, slicer = Tasks(errors.append), Slicer()
    routes = await routes_with_channels(pipeline, tasks, slicer)
    audited = CountingPipeline([])
    audit = RouteAudit(
        cast("Any", audited),
        Keys("t", 0, cluster=False),
        RedisOptions(prefix="t", meta_ttl=10.0),
        tasks,
        slicer,
        routes,
        incarnation=lambda: "n~1",
        interval=1.0,
        on_notice=lambda _: None,
    )
    async with work_per_turn() as work:
        names = set[str]()

        def call(command: Any, **_: Any) -> asyncio.Future[Any]:
            checked = [each for each in command if isinstance(each, str) and each.startswith("c")]
            names.update(checked)
            work.add(len(checked))
            return CountingPipeline([]).call(command)

        cast("Any", audited).call = call
        for _ in range(4):  # 30 % of the channels each time
            audit.check_next()
            await work.until(lambda: tasks.statistics() == {"running": 0})
    assert len(names) == CHANNELS
    assert work.most <= FEW
    await tasks.close()
    assert errors == []


def counting(work: WorkPerTurn, call: Any) -> Any:
    def counted(command: Any, **more: Any) -> Any:
        work.add(routes_in(command))
        return call(command, **more)

    return counted


def failing_call(_: Any, **__: Any) -> asyncio.Future[Any]:
    answer = asyncio.get_running_loop().create_future()
    answer.set_exception(BrokerUnavailable("no Redis"))
    answer.exception()
    return answer
