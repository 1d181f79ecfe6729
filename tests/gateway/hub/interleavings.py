"""A broker that is as slow as a test wants, and every order in which its answers and messages may come."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Sequence
from functools import partial
from random import Random
from typing import Any, TypeVar

from gateway.broker.base import (
    ChannelRecord,
    ConnectionRecord,
    Delivery,
    Envelope,
    HistorySlice,
    LocalNode,
    LookupResult,
    NodeRecord,
    Presence,
    PresenceCount,
    Publication,
    Receipt,
    Retention,
    UserCommand,
)
from gateway.broker.memory.broker import MemoryBroker
from gateway.errors import BrokerUnavailable
from protocol.messages import Member
from protocol.position import MessageId
from tests.gateway.node import Node, memory_broker
from tests.gateway.virtual_time import until_idle

T = TypeVar("T")


class Gate:
    """A call that is on its way to the broker, or its answer on the way back."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.opened: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def __repr__(self) -> str:
        return f"<Gate {self.name}>"


class GatedBroker:
    """A real broker at the other end of a wire on which everything stops until the test lets it go on.

    A call waits once before it has its effect and once before its answer is heard; which of the `gates` opens
    next is up to the test. Publishes of the test go to `inner` and have their effect at once. Only what is
    routed is delivered, as a broker for many nodes does; with *lag*, it waits as well, until `deliver_late`.
    """

    def __init__(self, *, lag: bool = False, only: frozenset[str] | None = None, **options: Any) -> None:
        self.inner: MemoryBroker = memory_broker(**options)
        self.gates: list[Gate] = []
        self.fails: dict[str, Exception] = {}
        """What a call of that name raises, in place of having its effect."""
        self.calls: list[str] = []
        self.only = only
        """The calls that are slow, where not all of them are."""
        self._lag = lag
        self._node: LocalNode | None = None
        self._late: list[Envelope] = []
        self.routes: set[str] = set()
        self.users: set[str] = set()
        """Who is here, as far as the broker has heard."""

    # ------------------------------------------------------------ for the test

    def open(self, gate: Gate) -> None:
        self.gates.remove(gate)
        gate.opened.set_result(None)

    async def pass_all(self) -> None:
        """Open whatever closes, and deliver everything, until nothing is left."""
        await until_idle()
        while self.gates or self._late:
            self.deliver_late(len(self._late))
            for gate in list(self.gates):
                self.open(gate)
            await until_idle()

    @property
    def late(self) -> int:
        """How many envelopes wait for `deliver_late`."""
        return len(self._late)

    def deliver_late(self, count: int = 1) -> None:
        assert self._node is not None
        for _ in range(count):
            self._node.deliver(self._late.pop(0))

    # ------------------------------------------------------------ what the inner broker calls

    def deliver(self, envelope: Envelope) -> None:
        assert self._node is not None
        channel = envelope.message.channel if isinstance(envelope, Delivery) else envelope.channel
        if not isinstance(envelope, UserCommand) and channel not in self.routes:
            return
        if self._lag and isinstance(envelope, Delivery):
            self._late.append(envelope)
        else:
            self._node.deliver(envelope)

    # ------------------------------------------------------------ what the hub calls

    async def _slowly(self, name: str, call: Coroutine[Any, Any, T]) -> T:
        self.calls.append(name)
        if self.only is not None and name not in self.only:
            return await call
        try:
            await self._gate(f"{name} asks")
            if name in self.fails:
                raise self.fails[name]
            result = await call
        finally:
            call.close()
        await self._gate(f"{name} answers")
        return result

    async def _gate(self, name: str) -> None:
        gate = Gate(name)
        self.gates.append(gate)
        try:
            await gate.opened
        finally:
            if gate in self.gates:
                self.gates.remove(gate)

    async def publish(self, publication: Publication) -> Receipt:
        return await self._slowly("publish", self.inner.publish(publication))

    async def subscribe(self, channel: str, retention: Retention | None) -> MessageId | None:
        return await self._slowly("subscribe", self._route(channel, retention))

    async def _route(self, channel: str, retention: Retention | None) -> MessageId | None:
        if channel not in self.routes:
            # What an earlier route has left in the inbox is older than this one.
            self._late = [
                each
                for each in self._late
                if not (isinstance(each, Delivery) and each.message.channel == channel)
            ]
        self.routes.add(channel)
        return await self.inner.subscribe(channel, retention)

    async def unsubscribe(self, channel: str) -> None:
        await self._slowly("unsubscribe", self._unroute(channel))

    async def _unroute(self, channel: str) -> None:
        self.routes.discard(channel)
        await self.inner.unsubscribe(channel)

    async def read(
        self,
        channel: str,
        *,
        since: MessageId | None = None,
        limit: int | None = None,
        size: int | None = None,
        reverse: bool = False,
    ) -> HistorySlice:
        reading = self.inner.read(channel, since=since, limit=limit, size=size, reverse=reverse)
        return await self._slowly("read", reading)

    async def clear(self, channel: str) -> None:
        await self._slowly("clear", self.inner.clear(channel))

    async def join(self, channel: str, member: Member) -> None:
        await self._slowly("join", self.inner.join(channel, member))

    async def leave(self, channel: str, connection: str) -> None:
        await self._slowly("leave", self.inner.leave(channel, connection))

    async def presence(self, channel: str) -> Presence:
        return await self._slowly("presence", self.inner.presence(channel))

    async def count(self, channel: str) -> PresenceCount:
        return await self._slowly("count", self.inner.count(channel))

    async def user_connected(self, user: str) -> None:
        self.users.add(user)

    async def user_disconnected(self, user: str) -> None:
        self.users.discard(user)

    async def connections(self, user: str) -> LookupResult[ConnectionRecord]:
        return await self.inner.connections(user)

    async def send_user_command(self, command: UserCommand) -> None:
        await self.inner.send_user_command(command)

    async def subscribed_channels(
        self, prefix: str, *, after: str, limit: int
    ) -> LookupResult[ChannelRecord]:
        return await self.inner.subscribed_channels(prefix, after=after, limit=limit)

    async def nodes(self) -> Sequence[NodeRecord]:
        return await self.inner.nodes()

    async def start(self, node: LocalNode) -> None:
        self._node = node
        await self.inner.start(_Wire(self, node))

    async def close(self) -> None:
        await self.inner.close()

    @property
    def flush_delay(self) -> float:
        return self.inner.flush_delay

    def ready(self) -> bool:
        return self.inner.ready()

    def statistics(self) -> dict[str, int]:
        return self.inner.statistics()


class _Wire:
    """The node as the inner broker sees it."""

    def __init__(self, broker: GatedBroker, node: LocalNode) -> None:
        self.deliver = broker.deliver
        self.connections = node.connections
        self.subscribed_channels = node.subscribed_channels
        self.record = node.record


# ---------------------------------------------------------------- every order


class Choices:
    """The decisions of one run: those of `given` first, then always the first possibility, or any."""

    def __init__(self, given: list[int], chance: Random | None = None) -> None:
        self.given = given
        self.chance = chance
        self.taken: list[tuple[int, int]] = []

    def one_of(self, options: int) -> int:
        """Return a number below *options*."""
        index = len(self.taken)
        choice = self.given[index] if index < len(self.given) else 0
        if self.chance is not None:
            choice = self.chance.randrange(options)
        self.taken.append((choice, options))
        return choice

    def next(self) -> list[int] | None:
        """Return what to decide in the next run; None after the last."""
        taken = list(self.taken)
        while taken:
            choice, options = taken.pop()
            if choice + 1 < options:
                return [each for each, _ in taken] + [choice + 1]
        return None


def all_interleavings() -> Iterator[Choices]:
    """Yield the choices of one run after the other, until every decision was taken in every way."""
    given: list[int] | None = []
    while given is not None:
        choices = Choices(given)
        yield choices
        given = choices.next()


def random_interleavings(count: int) -> Iterator[Choices]:
    """Yield the choices of *count* runs, taken by chance but always the same: where there are too many."""
    for seed in range(count):
        yield Choices([], Random(seed))


async def run_interleaved(
    broker: GatedBroker, choices: Choices, *acts: Callable[[], Awaitable[object]]
) -> None:
    """Let *acts* happen in their order, and between them whatever closes or waits, in the order chosen."""
    left = list(acts)
    await until_idle()
    while True:
        possible: list[Callable[[], object]] = [partial(broker.open, gate) for gate in broker.gates]
        if left:
            possible.append(left[0])
        if broker.late:
            possible.append(broker.deliver_late)
        if not possible:
            return
        chosen = possible[choices.one_of(len(possible))]
        if left and chosen is left[0]:
            await left.pop(0)()
        else:
            chosen()
        await until_idle()


async def publish_and_deliver(node: Node, channel: str, value: object) -> None:
    """Publish at the broker's end of the wire, and let it be heard."""
    assert isinstance(node.broker, GatedBroker)
    await node.broker.inner.publish(node.publication(channel, value))
    await until_idle()


def unavailable() -> BrokerUnavailable:
    return BrokerUnavailable("the test wants it so", retry_after=0.5)
