"""The decisions of a lease: whether it is held, when it starts a new incarnation, whom it reaps."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from gateway.broker.redis.connection.breaker import Breaker
from gateway.broker.redis.connection.health import ShardHealth
from gateway.broker.redis.keys import Keys
from gateway.broker.redis.membership.layout_check import LayoutCheck
from gateway.broker.redis.membership.lease import Lease, LeaseStatus
from gateway.broker.redis.membership.reaper import Reaper
from gateway.broker.redis.options import RedisOptions
from gateway.broker.redis.scripts.registry import BUMP_EPOCH, REAP_NODE, RENEW_LEASE, Command
from gateway.clock import FakeClock

LEASE_SECONDS = 3.0


def renewed(
    *,
    beat: int = 1,
    status: int = LeaseStatus.HELD,
    epoch: bytes = b"0.a",
    other: bytes = b"",
    expiry: int = 0,
    beat_when_reaped: int = 0,
) -> list[Any]:
    """Return an answer of the script `renew_lease`, given at 1000 ms by Redis' clock."""
    return [beat, status, epoch, 1_000, other, expiry, beat_when_reaped]


class ManualPipeline:
    """A pipeline whose calls the test answers."""

    def __init__(self) -> None:
        self.calls: asyncio.Queue[tuple[Command, asyncio.Future[Any]]] = asyncio.Queue()

    def call(self, command: Command) -> asyncio.Future[Any]:
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self.calls.put_nowait((command, answer))
        return answer

    async def answer(self, script: object, answer: Any) -> Command:
        """Answer the next call, which has to be one of *script*; return it."""
        async with asyncio.timeout(10):
            command, future = await self.calls.get()
        assert command[1] == script.digest  # type: ignore[attr-defined]
        future.set_result(answer)
        return command


class Observer:
    """Records what a lease reports."""

    def __init__(self) -> None:
        self.events: asyncio.Queue[str] = asyncio.Queue()

    def incarnation_started(self, incarnation: str, *, lease_expired: bool) -> None:
        name = incarnation.partition("~")[0]
        self.events.put_nowait(f"{name} started{' after its lease expired' if lease_expired else ''}")

    def lease_renewed(self) -> None:
        self.events.put_nowait("renewed")

    def writes_lost(self) -> None:
        self.events.put_nowait("writes lost")

    async def next(self) -> str:
        async with asyncio.timeout(10):
            return await self.events.get()


class Node:
    """A lease that runs, and everything around it."""

    def __init__(self) -> None:
        self.clock, self.pipeline, self.observer = FakeClock(), ManualPipeline(), Observer()
        self.health = ShardHealth(Breaker(), invalidate_primary=lambda: None)
        self.layout_check = LayoutCheck()
        keys, options = Keys("fanway", 0), RedisOptions(lease=LEASE_SECONDS)
        pipeline: Any = self.pipeline
        self.lease = Lease(
            pipeline,
            keys,
            self.health,
            Reaper(pipeline, keys, options),
            options,
            self.layout_check,
            self.observer,
            name="n",
            layout="one server",
            record=lambda: b"",
            on_error=lambda error: pytest.fail(repr(error)),
            clock=self.clock,
        )

    async def take_lease(self, **answer: Any) -> str:
        """Answer the call that takes the first lease; return the id of the incarnation."""
        command = await self.pipeline.answer(RENEW_LEASE, renewed(**answer))
        assert await self.observer.next() == "n started"
        return str(incarnation_of(command))

    async def renew(self, **answer: Any) -> Command:
        """Have the lease renewed now, and answer that."""
        self.health.renewal_due.set()
        return await self.pipeline.answer(RENEW_LEASE, renewed(**answer))


def incarnation_of(command: Command) -> object:
    """Return the id for which *command*, a call of `renew_lease`, asks."""
    return command[3 + int(command[2])]


@pytest_asyncio.fixture
async def node() -> AsyncIterator[Node]:
    node = Node()
    running = asyncio.ensure_future(node.lease.run())
    yield node
    running.cancel()
    await asyncio.wait([running])


async def test_an_answer_that_arrives_after_the_lease_has_ended_does_not_hold_it(node: Node) -> None:
    waiting = asyncio.ensure_future(node.lease.wait_until_held())
    _, answer = await node.pipeline.calls.get()
    node.clock.advance(3 * LEASE_SECONDS)  # the process was stopped between the call and its answer
    answer.set_result(renewed())
    node.health.renewal_due.set()
    _, second = await node.pipeline.calls.get()
    held = [node.lease.held, waiting.done()]
    second.set_result(renewed())
    await waiting
    assert [*held, node.lease.held] == [False, False, True]


async def test_a_held_lease_is_renewed_under_the_same_incarnation(node: Node) -> None:
    incarnation = await node.take_lease()
    command = await node.renew(beat=2)
    assert await node.observer.next() == "renewed"
    assert incarnation_of(command) == incarnation == node.lease.incarnation
    assert (node.lease.incarnations, node.lease.resets, node.lease.renewed_at_ms) == (1, 0, 1_000)


async def test_a_node_that_was_reaped_starts_a_new_incarnation_without_lost_writes(node: Node) -> None:
    first = await node.take_lease(beat=4)
    await node.renew(status=LeaseStatus.REAPED, beat_when_reaped=4)
    command = await node.pipeline.answer(RENEW_LEASE, renewed())
    assert await node.observer.next() == "n started after its lease expired"
    assert incarnation_of(command) != first
    assert list(node.lease.past_incarnations) == [first, node.lease.incarnation]
    assert node.lease.resets == 0


@pytest.mark.parametrize(
    ("answer", "event"),
    [
        ({"status": LeaseStatus.UNKNOWN}, "n started"),
        ({"status": LeaseStatus.REAPED, "beat_when_reaped": 3}, "n started after its lease expired"),
    ],
    ids=["the lease is unknown", "the beat when it was reaped is too low"],
)
async def test_lost_writes_start_a_new_epoch_and_a_new_incarnation(
    node: Node, answer: dict[str, int], event: str
) -> None:
    await node.take_lease(beat=4)
    await node.renew(**answer)
    await node.pipeline.answer(BUMP_EPOCH, 0)
    await node.pipeline.answer(RENEW_LEASE, renewed(epoch=b"1.b"))
    assert [await node.observer.next() for _ in range(2)] == ["writes lost", event]
    assert (node.lease.incarnations, node.lease.resets) == (2, 1)


async def test_a_beat_that_went_back_starts_a_new_epoch(node: Node) -> None:
    await node.take_lease(beat=4)
    node.health.beat_received(2, previous=4)
    await node.pipeline.answer(RENEW_LEASE, renewed(beat=3))
    await node.pipeline.answer(BUMP_EPOCH, 0)
    await node.pipeline.answer(RENEW_LEASE, renewed(epoch=b"1.b"))
    assert [await node.observer.next() for _ in range(2)] == ["writes lost", "n started"]


async def test_an_epoch_that_another_node_began_starts_a_new_incarnation(node: Node) -> None:
    await node.take_lease()
    await node.renew(beat=2, epoch=b"1.b")
    await node.pipeline.answer(RENEW_LEASE, renewed(epoch=b"1.b"))
    assert [await node.observer.next() for _ in range(2)] == ["writes lost", "n started"]


async def test_a_rejected_layout_is_reported_until_it_is_accepted(node: Node) -> None:
    await node.pipeline.answer(RENEW_LEASE, [0, LeaseStatus.LAYOUT_REJECTED, b"two servers"])
    command = await node.pipeline.answer(RENEW_LEASE, [0, LeaseStatus.LAYOUT_REJECTED, b"two servers"])
    assert str(node.layout_check.error).endswith("(others have two servers, this node has one server)")
    assert command[-3:-1] == ("one server", 1), "it may not set the layout"
    await node.take_lease()
    assert node.layout_check.error is None


async def test_a_rejected_node_sets_its_layout_once_nobody_has_had_one_for_a_lease(node: Node) -> None:
    await node.pipeline.answer(RENEW_LEASE, [0, LeaseStatus.LAYOUT_REJECTED, b"two servers"])
    for _ in range(2):
        command = await node.pipeline.answer(RENEW_LEASE, [0, LeaseStatus.LAYOUT_REJECTED, b""])
        assert command[-2] == 1
    node.clock.advance(LEASE_SECONDS)
    command = await node.pipeline.answer(RENEW_LEASE, renewed())
    assert command[-2] == 0
    assert await node.observer.next() == "n started"


async def test_another_node_is_reaped_when_its_lease_has_ended_but_not_in_the_first_lease(node: Node) -> None:
    await node.take_lease(other=b"m~1", expiry=500)
    await node.renew(beat=2, other=b"m~1", expiry=500)
    assert await node.observer.next() == "renewed"
    assert node.pipeline.calls.empty(), "after an outage every node has the time of one lease to return"
    for beat in (3, 4):
        assert node.pipeline.calls.empty()
        node.clock.advance(LEASE_SECONDS / 2)
        await node.renew(beat=beat, other=b"m~1", expiry=500)
        assert await node.observer.next() == "renewed"
    command = await node.pipeline.answer(REAP_NODE, 0)
    assert command[3 + int(command[2])] == "m~1"


async def test_after_a_suspension_others_have_a_lease_to_return_as_well(node: Node) -> None:
    await node.take_lease(other=b"m~1", expiry=500)
    for beat in (2, 3):
        node.clock.advance(LEASE_SECONDS / 2)
        await node.renew(beat=beat, other=b"m~1", expiry=5_000)
        assert await node.observer.next() == "renewed"
    node.clock.advance(3_600.0)  # the machine was suspended, perhaps with Redis and every other node
    assert not node.lease.held, "no stale message is delivered"
    await node.renew(beat=4, other=b"m~1", expiry=500)
    assert await node.observer.next() == "renewed"
    assert node.pipeline.calls.empty(), "nobody is reaped now"
    for beat in (5, 6):
        node.clock.advance(LEASE_SECONDS / 2)
        await node.renew(beat=beat, other=b"m~1", expiry=500)
        assert await node.observer.next() == "renewed"
    assert incarnation_of(await node.pipeline.answer(REAP_NODE, 0)) == "m~1"


async def test_the_time_since_the_last_renewal_is_no_step_of_the_clock_of_redis(node: Node) -> None:
    await node.take_lease()
    usual = (await node.renew(beat=2))[-1]
    assert 1_000 < int(usual) < 1_000 * LEASE_SECONDS / 2
    node.clock.advance(LEASE_SECONDS)  # Redis did not answer in between, and no other node runs
    late = (await node.renew(beat=3))[-1]
    assert int(late) > 1_000 * LEASE_SECONDS
