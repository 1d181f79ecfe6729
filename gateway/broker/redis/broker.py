"""The broker of many nodes, over one Redis, several independent servers, or a Cluster (docs/redis.md)."""

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
from gateway.broker.redis.connection.pending_calls import PendingCalls
from gateway.broker.redis.connection.server import Server
from gateway.broker.redis.connection.topology import primary_locators
from gateway.broker.redis.inbox.held_entries import HeldEntries
from gateway.broker.redis.keys import Keys, shard_of, user_route
from gateway.broker.redis.membership.layout_check import LayoutCheck
from gateway.broker.redis.operations.lookups import CHANNELS_PER_LOOKUP
from gateway.broker.redis.options import RedisOptions
from gateway.broker.redis.shard import BrokerTotals, Shard
from gateway.clock import Clock, wall
from gateway.errors import BrokerUnavailable, GatewayError, KeyReused
from gateway.tasks import Slicer, Tasks, call_exception_handler
from protocol.channels import personal_channel
from protocol.messages import Member
from protocol.position import MessageId

T = TypeVar("T")

NOT_STARTED = "the broker is not started"

FLUSH_DELAY = 0.004
"""Seconds, see `Broker.flush_delay`: a few times the duration of a publish over Redis, 1 ms.

With the 1 ms of the embedded broker, most messages of a flood were written singly, at five times the CPU
(docs/performance.md#many-nodes).
"""


class RedisBroker:
    """The broker of one node of a cluster. The name of a channel determines the shard of the channel."""

    flush_delay = FLUSH_DELAY

    def __init__(
        self,
        servers: Sequence[Server | str],
        options: RedisOptions | None = None,
        *,
        cluster: bool = False,
        slicer: Slicer | None = None,
        on_error: Callable[[BaseException], None] | None = None,
        on_notice: Callable[[int, Notice], None] = lambda _, __: None,
        wall_clock: Clock = wall,
    ) -> None:
        """Create it; nothing is connected before `start`.

        Args:
            servers: Independent servers, which share the shards; with *cluster*, nodes of one Redis Cluster.
                Every node of the gateway needs the same servers in the same order.
            options: The same for every node.
            cluster: Whether the servers are a Redis Cluster.
            slicer: Shared by all long work of the node; by default one of this broker alone.
            on_error: Gets exceptions of background tasks; by default the event loop's exception handler.
            on_notice: Gets the number of a shard and a notice of that shard.
            wall_clock: Unix seconds, for the times of messages.
        """
        if not servers:
            raise ValueError("broker.urls: expected at least one redis:// URL, found none")
        self._servers = [
            server if isinstance(server, Server) else Server.from_url(server) for server in servers
        ]
        self._cluster = cluster
        self._options = options or RedisOptions()
        self._tasks = Tasks(on_error or partial(call_exception_handler, "a task of the Redis broker failed"))
        self._slicer = slicer or Slicer()
        self._on_notice = on_notice
        self._wall_clock = wall_clock
        self._node: LocalNode | None = None
        self._shards: list[Shard] = []
        self._refused = 0
        self._totals = BrokerTotals(
            PendingCalls(self._options.pending_max_calls, self._options.pending_max_bytes),
            HeldEntries(self._options.held_max_bytes),
        )

    async def start(self, node: LocalNode) -> None:
        """Serve *node*; return once every lease is held, or after the start timeout, still connecting."""
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
                self._slicer,
                layout=self._layout_of(number),
                layout_check=layout_check,
                wall_clock=self._wall_clock,
                on_notice=partial(self._on_notice, number),
                totals=self._totals,
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
        """Release the leases, so that the members of this node leave; no envelope is delivered afterwards."""
        self._node = None
        shards, self._shards = self._shards, []
        await asyncio.gather(*(shard.close() for shard in shards))
        await self._tasks.close()

    def ready(self) -> bool:
        """Return whether at least one shard accepts publishes now."""
        return any(shard.health.available for shard in self._shards)

    # ------------------------------------------------------------ streams

    async def publish(self, publication: Publication) -> Receipt:
        """Store *publication* and send it to every node with a subscriber, in the order of the calls.

        Raises:
            BrokerUnavailable: after two seconds at most. It is unknown whether the message was published;
                with an idempotency key it is safe to publish the message again.
            BrokerFull: Redis is out of memory; the message was not published.
            KeyReused: the key belongs to another message; this message was not published.
        """
        try:
            return await self._shard(publication.channel).publisher.publish(publication)
        except KeyReused:
            raise
        except GatewayError:
            self._refused += 1
            raise

    async def subscribe(self, channel: str, retention: Retention | None) -> MessageId | None:
        """Route *channel* to this node; return the channel's position at that moment."""
        return await self._shard(channel).routes.subscribe(channel, retention)

    async def unsubscribe(self, channel: str) -> None:
        """Stop delivering *channel*; its route is kept for `RedisOptions.linger` seconds."""
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
        """Return a part of the history of *channel*."""
        return await self._shard(channel).history.read(channel, since, limit, size, reverse=reverse)

    async def clear(self, channel: str) -> None:
        """Clear the history of *channel*."""
        await self._shard(channel).clear(channel)

    # ------------------------------------------------------------ presence

    async def join(self, channel: str, member: Member) -> Member:
        """Add *member*, return it as listed; it leaves when this node's lease ends, at the latest."""
        return await self._shard(channel).presence.join(channel, member)

    async def leave(self, channel: str, connection: str, *, grace: float = 0.0) -> None:
        """Remove the member, now or after *grace*, or as soon as Redis is reachable; never fails."""
        if self._shards:
            await self._shard(channel).presence.leave(channel, connection, grace=grace)

    async def presence(self, channel: str) -> Presence:
        """Return the members of *channel*."""
        return await self._shard(channel).presence.presence(channel)

    async def count(self, channel: str) -> PresenceCount:
        """Return how many members *channel* has; the cost does not grow with the number of members."""
        return await self._shard(channel).presence.count(channel)

    # ------------------------------------------------------------ lookups

    async def user_connected(self, user: str) -> None:
        """Route *user*, who has a first connection here, to this node: now or when Redis is available."""
        if self._shards:
            self._shard(personal_channel(user)).routes.subscribe_later(user_route(user))

    async def user_disconnected(self, user: str) -> None:
        """Remove the route of *user* to this node: the last connection has closed."""
        if self._shards:
            self._shard(personal_channel(user)).routes.unsubscribe(user_route(user))

    async def connections(self, user: str) -> LookupResult[ConnectionRecord]:
        """Return the connections of *user*, oldest first; partial if a node does not answer within 1 s."""
        elsewhere = await self._shard(personal_channel(user)).lookups.connections(user)
        every = [*self._require_node().connections(user), *elsewhere.items]
        return LookupResult(sorted(every, key=lambda each: (each.since, each.connection)), elsewhere.error)

    async def send_user_command(self, command: UserCommand) -> None:
        """Send *command* to every node that has a connection of its user."""
        await self._shard(personal_channel(command.user)).user_commands.send(command)

    async def subscribed_channels(
        self, prefix: str, *, after: str, limit: int
    ) -> LookupResult[ChannelRecord]:
        """Return channels with subscribers, by name, after *after*; partial if a shard or node fails."""
        self._shard(prefix)
        lost: dict[int, GatewayError] = {}
        silent: list[GatewayError] = []
        page: list[ChannelRecord] = []
        more = limit > 0
        while more and len(page) < limit:
            found, end, more = await self._next_page(prefix, after, limit, lost, silent)
            page += found
            after = end
        if not lost:
            return LookupResult(page[:limit], silent[0] if silent else None)
        count, error = len(self._shards), next(iter(lost.values()))
        if len(lost) == count:
            raise error
        return LookupResult(page[:limit], error, lambda name: shard_of(name, count) in lost)

    async def nodes(self) -> Sequence[NodeRecord]:
        """Return the live nodes: this node as it is now, other nodes as of their last lease renewal."""
        self._shard("")
        error: GatewayError | None = None
        for shard in self._shards:
            try:
                others = await shard.lookups.nodes(shard.lease.past_incarnations)
            except GatewayError as failed:
                error = failed
                continue
            return [self._require_node().as_record(), *others]
        raise error or BrokerUnavailable(NOT_STARTED)

    def statistics(self) -> dict[str, int]:
        """Return counters and sizes, summed over the shards."""
        sums: dict[str, int] = {
            "shards": len(self._shards),
            "refused": self._refused,
        }
        for shard in self._shards:
            for name, figure in shard.statistics().items():
                sums[name] = sums.get(name, 0) + figure
        sums.update(self._totals.statistics())
        return sums

    # ------------------------------------------------------------ inside

    def _layout_of(self, shard: int) -> str:
        """Describe where *shard* is; nodes with other descriptions do not run together (`LayoutCheck`)."""
        options, servers = self._options, len(self._servers)
        if self._cluster:
            return f"a Cluster with {options.cluster_shards} shards"
        return f"server {shard % servers + 1} of {servers} with {options.shards_per_server} shards each"

    def _require_node(self) -> LocalNode:
        if self._node is None:
            raise BrokerUnavailable(NOT_STARTED)
        return self._node

    def _shard(self, name: str) -> Shard:
        if not self._shards:
            raise BrokerUnavailable(NOT_STARTED)
        return self._shards[shard_of(name, len(self._shards))]

    async def _next_page(
        self, prefix: str, after: str, limit: int, lost: dict[int, GatewayError], silent: list[GatewayError]
    ) -> tuple[list[ChannelRecord], str, bool]:
        """Return the next page of channels with subscribers, its last name, and whether there are more.

        Shards in *lost* are left out. Shards that fail now are added to it, and to *silent* the errors of
        nodes that do not answer.
        """
        shards = [(number, shard) for number, shard in enumerate(self._shards) if number not in lost]
        answers = await asyncio.gather(
            *(
                self._result_or_error(shard.lookups.subscribed_channels(prefix, after=after, limit=limit))
                for _, shard in shards
            )
        )
        elsewhere: dict[str, int] = {}
        end = ""
        for (number, _), answer in zip(shards, answers, strict=True):
            if isinstance(answer, GatewayError):
                lost[number] = answer
                continue
            names, counts, partial_error = answer
            elsewhere |= counts
            if partial_error is not None:
                silent.append(partial_error)
            if len(names) >= min(limit, CHANNELS_PER_LOOKUP):
                end = min(end or names[-1], names[-1])
        own = self._require_node().subscribed_channels(prefix, after=after, limit=limit)
        if len(own) >= limit:
            *_, last = own
            end = min(end or last, last)
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
    async def _result_or_error(result: Awaitable[T]) -> T | GatewayError:
        """Return *result*, or the error that it raises."""
        try:
            return await result
        except GatewayError as error:
            return error

    def __repr__(self) -> str:
        return f"<RedisBroker {self._shards}>"
