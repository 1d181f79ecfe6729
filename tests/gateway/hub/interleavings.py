"""A broker whose calls and deliveries wait for the test, and every order in which they may happen."""

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
    """A request that is on its way to the broker, or its response on the way back."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.opened: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def __repr__(self) -> str:
        return f"<Gate {self.name}>"


class GatedBroker:
    """A broker behind a connection on which everything waits until the test lets it pass.

    A call waits once before it takes effect and once before it returns; the test decides which of the `gates`
    opens next. Publishes of the test go to `inner` and take effect at once. Only routed channels are
    delivered, as by a broker for many nodes; with *lag*, deliveries wait as well, until `deliver_next`.
    """

    def __init__(self, *, lag: bool = False, only: frozenset[str] | None = None, **options: Any) -> None:
        self.inner: MemoryBroker = memory_broker(**options)
        self.gates: list[Gate] = []
        self.failures: dict[str, Exception] = {}
        """What a call of that name raises, instead of taking effect."""
        self.calls: list[str] = []
        self.only = only
        """Names of the calls that wait; None for all."""
        self._lag = lag
        self._node: LocalNode | None = None
        self._undelivered: list[Envelope] = []
        self.routes: set[str] = set()
        self.users: set[str] = set()
        """Users that are connected, as far as the broker knows."""

    # ------------------------------------------------------------ for the test

    def open(self, gate: Gate) -> None:
        self.gates.remove(gate)
        gate.opened.set_result(None)

    async def pass_all(self) -> None:
        """Open all gates and deliver everything, until nothing waits."""
        await until_idle()
        while self.gates or self._undelivered:
            self.deliver_next(len(self._undelivered))
            for gate in list(self.gates):
                self.open(gate)
            await until_idle()

    @property
    def undelivered(self) -> int:
        """How many envelopes wait for `deliver_next`."""
        return len(self._undelivered)

    def deliver_next(self, count: int = 1) -> None:
        assert self._node is not None
        for _ in range(count):
            self._node.deliver(self._undelivered.pop(0))

    # ------------------------------------------------------------ what the inner broker calls

    def deliver(self, envelope: Envelope) -> None:
        assert self._node is not None
        channel = envelope.message.channel if isinstance(envelope, Delivery) else envelope.channel
        if not isinstance(envelope, UserCommand) and channel not in self.routes:
            return
        if self._lag and isinstance(envelope, Delivery):
            self._undelivered.append(envelope)
        else:
            self._node.deliver(envelope)

    # ------------------------------------------------------------ what the hub calls

    async def _gated(self, name: str, call: Coroutine[Any, Any, T]) -> T:
        self.calls.append(name)
        if self.only is not None and name not in self.only:
            return await call
        try:
            await self._gate(f"{name} request")
            if name in self.failures:
                raise self.failures[name]
            result = await call
        finally:
            call.close()
        await self._gate(f"{name} response")
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
        return await self._gated("publish", self.inner.publish(publication))

    async def subscribe(self, channel: str, retention: Retention | None) -> MessageId | None:
        return await self._gated("subscribe", self._route(channel, retention))

    async def _route(self, channel: str, retention: Retention | None) -> MessageId | None:
        if channel not in self.routes:
            # What an earlier route has left in the inbox is older than the position of this route.
            self._undelivered = [
                each
                for each in self._undelivered
                if not (isinstance(each, Delivery) and each.message.channel == channel)
            ]
        self.routes.add(channel)
        return await self.inner.subscribe(channel, retention)

    async def unsubscribe(self, channel: str) -> None:
        await self._gated("unsubscribe", self._unroute(channel))

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
        return await self._gated("read", reading)

    async def clear(self, channel: str) -> None:
        await self._gated("clear", self.inner.clear(channel))

    async def join(self, channel: str, member: Member) -> Member:
        return await self._gated("join", self.inner.join(channel, member))

    async def leave(self, channel: str, connection: str, *, grace: float = 0.0) -> None:
        await self._gated("leave", self.inner.leave(channel, connection, grace=grace))

    async def presence(self, channel: str) -> Presence:
        return await self._gated("presence", self.inner.presence(channel))

    async def count(self, channel: str) -> PresenceCount:
        return await self._gated("count", self.inner.count(channel))

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
        await self.inner.start(_GatedNode(self, node))

    async def close(self) -> None:
        await self.inner.close()

    @property
    def flush_delay(self) -> float:
        return self.inner.flush_delay

    def ready(self) -> bool:
        return self.inner.ready()

    def statistics(self) -> dict[str, int]:
        return self.inner.statistics()


class _GatedNode:
    """The node as the inner broker knows it: deliveries go through the gated broker."""

    def __init__(self, broker: GatedBroker, node: LocalNode) -> None:
        self.deliver = broker.deliver
        self.connections = node.connections
        self.subscribed_channels = node.subscribed_channels
        self.subscribers = node.subscribers
        self.as_record = node.as_record


# ---------------------------------------------------------------- interleavings


class Choices:
    """The decisions of one run: those of `given`, then the first option, or with *chance* a random one."""

    def __init__(self, given: list[int], chance: Random | None = None) -> None:
        self.given = given
        self.chance = chance
        self.taken: list[tuple[int, int]] = []

    def one_of(self, options: int) -> int:
        """Return the number of the option to take, less than *options*."""
        index = len(self.taken)
        choice = self.given[index] if index < len(self.given) else 0
        if self.chance is not None:
            choice = self.chance.randrange(options)
        self.taken.append((choice, options))
        return choice

    def next(self) -> list[int] | None:
        """Return the decisions to begin the next run with; None after the last run."""
        taken = list(self.taken)
        while taken:
            choice, options = taken.pop()
            if choice + 1 < options:
                return [each for each, _ in taken] + [choice + 1]
        return None


def all_interleavings() -> Iterator[Choices]:
    """Yield the choices of one run after the other, until every combination of decisions was run."""
    given: list[int] | None = []
    while given is not None:
        choices = Choices(given)
        yield choices
        given = choices.next()


def random_interleavings(count: int) -> Iterator[Choices]:
    """Yield the choices of *count* random runs, always the same ones: where all are too many."""
    for seed in range(count):
        yield Choices([], Random(seed))


async def run_interleaved(
    broker: GatedBroker, choices: Choices, *actions: Callable[[], Awaitable[object]]
) -> None:
    """Run *actions* in their order and, interleaved with them, open gates and deliver, as *choices* say."""
    remaining = list(actions)
    await until_idle()
    while True:
        options: list[Callable[[], object]] = [partial(broker.open, gate) for gate in broker.gates]
        if remaining:
            options.append(remaining[0])
        if broker.undelivered:
            options.append(broker.deliver_next)
        if not options:
            return
        chosen = options[choices.one_of(len(options))]
        if remaining and chosen is remaining[0]:
            await remaining.pop(0)()
        else:
            chosen()
        await until_idle()


async def publish_and_deliver(node: Node, channel: str, value: object) -> None:
    """Publish at the broker, without a gate, and let the node handle the delivery."""
    assert isinstance(node.broker, GatedBroker)
    await node.broker.inner.publish(node.publication(channel, value))
    await until_idle()


def unavailable() -> BrokerUnavailable:
    return BrokerUnavailable("made unavailable by the test", retry_after=0.5)
