"""The broker of a cluster: many nodes, one Redis or several."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import TypeVar

from gateway.broker.base import (
    ChannelRecord,
    ConnectionRecord,
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
from gateway.broker.notices import Notice
from gateway.broker.redis.connection.servers import Server
from gateway.broker.redis.connection.topology import primary_locators
from gateway.broker.redis.keys import Keys, shard_of
from gateway.broker.redis.membership.layout_check import LayoutCheck
from gateway.broker.redis.operations.lookups import NAMES_AT_ONCE, interest
from gateway.broker.redis.options import RedisOptions
from gateway.broker.redis.shard import Shard
from gateway.clock import Clock, wall
from gateway.errors import BrokerUnavailable, GatewayError
from gateway.tasks import Tasks
from protocol.channels import personal
from protocol.messages import Member
from protocol.position import MessageId

T = TypeVar("T")

NOT_STARTED = "the broker is not started"

FLUSH_DELAY = 0.004
"""Seconds, see `Broker.flush_delay`: a few times the millisecond that a publish over Redis takes.

With the 1 ms of the embedded broker, messages of a flood travelled nearly alone, at five times the CPU
(docs/performance.md#many-nodes).
"""


class RedisBroker:
    """A broker for one of many nodes.

    Each of *servers* is one of its own, or with *cluster* a node of one Redis Cluster. A channel belongs to
    one of their shards, by its name: every node needs the same servers in the same order.
    """

    flush_delay = FLUSH_DELAY

    def __init__(
        self,
        servers: Sequence[Server | str],
        options: RedisOptions | None = None,
        *,
        cluster: bool = False,
        on_error: Callable[[BaseException], None] | None = None,
        on_notice: Callable[[int, Notice], None] = lambda _, __: None,
        wall_clock: Clock = wall,
    ) -> None:
        """Report to *on_error*, by default the loop's handler, what goes wrong where nobody waits for it.

        *on_notice* hears the number of a shard and what happened to it.
        """
        if not servers:
            raise ValueError("broker.urls: expected at least one redis:// URL, found none")
        self._servers = [each if isinstance(each, Server) else Server.from_url(each) for each in servers]
        self._cluster = cluster
        self._options = options or RedisOptions()
        self._tasks = Tasks(on_error or _report)
        self._on_notice = on_notice
        self._wall = wall_clock
        self._node: LocalNode | None = None
        self._shards: list[Shard] = []
        self._refused = 0

    async def start(self, node: LocalNode) -> None:
        """Begin to serve *node*; wait a moment for Redis, and go on connecting where that is not enough."""
        self._node = node
        options = self._options
        count = options.cluster_shards if self._cluster else len(self._servers) * options.shards_per_server
        keys = [Keys(options.prefix, number, cluster=self._cluster) for number in range(count)]
        locators = primary_locators(self._servers, [each.base for each in keys], cluster=self._cluster)
        layout_check = LayoutCheck()
        self._shards = [
            Shard(
                locator,
                own,
                node,
                options,
                self._tasks,
                layout=self._layout(number),
                layout_check=layout_check,
                wall_clock=self._wall,
                on_notice=partial(self._on_notice, number),
            )
            for number, (locator, own) in enumerate(zip(locators, keys, strict=True))
        ]
        for locator in set(locators):
            self._tasks.spawn(locator.watch_failovers())
        for shard in self._shards:
            shard.start()
        waiting = [self._tasks.spawn(shard.lease.wait_until_held()) for shard in self._shards]
        _, late = await asyncio.wait(waiting, timeout=self._options.start_timeout)
        for task in late:
            task.cancel()

    async def close(self) -> None:
        """Stop; nothing is delivered afterwards. Members of this node leave, its lease ends."""
        self._node = None
        shards, self._shards = self._shards, []
        await asyncio.gather(*(shard.close() for shard in shards))
        await self._tasks.close()

    def ready(self) -> bool:
        """Return whether publishes are taken now: by one server at least, where there are several."""
        return any(shard.health.available for shard in self._shards)

    # ------------------------------------------------------------ streams

    async def publish(self, publication: Publication) -> Receipt:
        """Store *publication* and hand it to every node with a subscriber, in the order of the calls.

        `BrokerUnavailable` after two seconds at most. Whether it was published then is not known; with a
        key it may safely be published again.
        """
        try:
            return await self._shard(publication.channel).publisher.publish(publication)
        except GatewayError:
            self._refused += 1
            raise

    async def subscribe(self, channel: str, retention: Retention | None) -> MessageId | None:
        """Route *channel* to this node; return its position at that moment."""
        return await self._shard(channel).routes.subscribe(channel, retention)

    async def unsubscribe(self, channel: str) -> None:
        """Deliver nothing more of *channel*; it stays routed for a few seconds."""
        self._shard(channel).routes.unsubscribe(channel)

    async def read(
        self,
        channel: str,
        *,
        since: MessageId | None = None,
        limit: int | None = None,
        size: int | None = None,
        reverse: bool = False,
    ) -> HistorySlice:
        """Return what is kept of *channel*."""
        return await self._shard(channel).history.read(channel, since, limit, size, reverse=reverse)

    async def clear(self, channel: str) -> None:
        """Forget the history of *channel*."""
        await self._shard(channel).clear(channel)

    # ------------------------------------------------------------ presence

    async def join(self, channel: str, member: Member) -> None:
        """Add *member*; it leaves with this node's lease at the latest."""
        await self._shard(channel).presence.join(channel, member)

    async def leave(self, channel: str, connection: str) -> None:
        """Remove the member: now, or as soon as Redis can be told."""
        if self._shards:
            await self._shard(channel).presence.leave(channel, connection)

    async def presence(self, channel: str) -> Presence:
        """Return who is in *channel*."""
        return await self._shard(channel).presence.presence(channel)

    async def count(self, channel: str) -> PresenceCount:
        """Return how many are in *channel*; Redis looks at none of them for that."""
        return await self._shard(channel).presence.count(channel)

    # ------------------------------------------------------------ directory

    async def user_connected(self, user: str) -> None:
        """Hear that *user* has a first connection here; never fails, and Redis hears of it when it can."""
        if self._shards:
            self._shard(personal(user)).routes.want(interest(user))

    async def user_disconnected(self, user: str) -> None:
        """Hear that *user* has no connection here any more."""
        if self._shards:
            self._shard(personal(user)).routes.unsubscribe(interest(user))

    async def connections(self, user: str) -> LookupResult[ConnectionRecord]:
        """Return the connections of *user*, oldest first; partial without a node that is silent for 1 s."""
        elsewhere = await self._shard(personal(user)).lookups.connections(user)
        every = [*self._serving().connections(user), *elsewhere.items]
        return LookupResult(sorted(every, key=lambda each: (each.since, each.connection)), elsewhere.error)

    async def send_user_command(self, command: UserCommand) -> None:
        """Hand *command* to every node where that user is connected."""
        await self._shard(personal(command.user)).lookups.send_user_command(command)

    async def subscribed_channels(
        self, prefix: str, *, after: str, limit: int
    ) -> LookupResult[ChannelRecord]:
        """Return channels with subscribers, by name, behind *after*; partial without a shard or a node."""
        self._shard(prefix)
        lost: dict[int, GatewayError] = {}
        silent: list[GatewayError] = []
        page: list[ChannelRecord] = []
        more = limit > 0
        while more and len(page) < limit:
            found, end, more = await self._followed(prefix, after, limit, lost, silent)
            page += found
            after = end
        if not lost:
            return LookupResult(page[:limit], silent[0] if silent else None)
        count, error = len(self._shards), next(iter(lost.values()))
        if len(lost) == count:
            raise error
        return LookupResult(page[:limit], error, lambda name: shard_of(name, count) in lost)

    async def nodes(self) -> Sequence[NodeRecord]:
        """Return the live nodes: this one as it is, others as they were at their last renewal."""
        self._shard("")
        error: GatewayError | None = None
        for shard in self._shards:
            try:
                others = await shard.lookups.nodes(shard.lease.past_incarnations)
            except GatewayError as failed:
                error = failed
                continue
            return [self._serving().record(), *others]
        raise error or BrokerUnavailable(NOT_STARTED)

    def statistics(self) -> dict[str, int]:
        """Return counters and sizes, summed over the shards."""
        sums: dict[str, int] = {"shards": len(self._shards), "refused": self._refused}
        for shard in self._shards:
            for name, figure in shard.statistics().items():
                sums[name] = sums.get(name, 0) + figure
        return sums

    # ------------------------------------------------------------ inside

    def _layout(self, shard: int) -> str:
        """Return what this node takes *shard*'s server for; every node has to take it for the same."""
        options, servers = self._options, len(self._servers)
        if self._cluster:
            return f"a Cluster with {options.cluster_shards} shards"
        return f"server {shard % servers + 1} of {servers} with {options.shards_per_server} shards each"

    def _serving(self) -> LocalNode:
        if self._node is None:
            raise BrokerUnavailable(NOT_STARTED)
        return self._node

    def _shard(self, name: str) -> Shard:
        if not self._shards:
            raise BrokerUnavailable(NOT_STARTED)
        return self._shards[shard_of(name, len(self._shards))]

    async def _followed(
        self, prefix: str, after: str, limit: int, lost: dict[int, GatewayError], silent: list[GatewayError]
    ) -> tuple[list[ChannelRecord], str, bool]:
        """Return the followed channels between *after* and the name returned, and whether there are more.

        Without those of *lost* shards, to which this adds, as to what *silent* nodes are lacking for.
        """
        shards = [(number, shard) for number, shard in enumerate(self._shards) if number not in lost]
        answers = await asyncio.gather(
            *(
                self._told(shard.lookups.subscribed_channels(prefix, after=after, limit=limit))
                for _, shard in shards
            )
        )
        elsewhere: dict[str, int] = {}
        end = ""
        for (number, _), answer in zip(shards, answers, strict=True):
            if isinstance(answer, GatewayError):
                lost[number] = answer
                continue
            names, counts, lacking = answer
            elsewhere |= counts
            if lacking is not None:
                silent.append(lacking)
            if len(names) >= min(limit, NAMES_AT_ONCE):
                end = min(end or names[-1], names[-1])
        own = self._serving().subscribed_channels(prefix)
        records = [
            ChannelRecord(name, count)
            for name in sorted({*own, *elsewhere})
            if (count := own.get(name, 0) + elsewhere.get(name, 0))
            and name > after
            and (not end or name <= end)
            and shard_of(name, len(self._shards)) not in lost
        ]
        return records, end, bool(end)

    @staticmethod
    async def _told(answer: Awaitable[T]) -> T | GatewayError:
        """Return *answer*, or why there is none."""
        try:
            return await answer
        except GatewayError as error:
            return error

    def __repr__(self) -> str:
        return f"<RedisBroker {self._shards}>"


def _report(error: BaseException) -> None:
    loop = asyncio.get_running_loop()
    loop.call_exception_handler({"message": "a task of the Redis broker failed", "exception": error})
