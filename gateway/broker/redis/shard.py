"""One shard of a Redis broker: creates and connects the parts that work on it."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from gateway.broker.base import Envelope, LocalNode
from gateway.broker.notices import LeaseLost, Notice, OnNotice, RedisRestored, WritesLost
from gateway.broker.redis import timeouts
from gateway.broker.redis.connection.breaker import Breaker
from gateway.broker.redis.connection.health import ShardHealth
from gateway.broker.redis.connection.maxmemory_policy import check_maxmemory_policy
from gateway.broker.redis.connection.pending_calls import PendingCalls
from gateway.broker.redis.connection.pipeline import wait_for
from gateway.broker.redis.connection.shard_connections import ShardConnections
from gateway.broker.redis.connection.topology import PrimaryLocator
from gateway.broker.redis.inbox.held_entries import HeldEntries
from gateway.broker.redis.inbox.ordered_delivery import OrderedDelivery
from gateway.broker.redis.inbox.reader import InboxReader
from gateway.broker.redis.inbox.route_audit import RouteAudit
from gateway.broker.redis.inbox.routes import Routes
from gateway.broker.redis.inbox.user_command_log import UserCommandLog
from gateway.broker.redis.keys import Keys
from gateway.broker.redis.membership.layout_check import LayoutCheck
from gateway.broker.redis.membership.lease import Lease
from gateway.broker.redis.membership.reaper import Reaper
from gateway.broker.redis.operations.history import HistoryReader
from gateway.broker.redis.operations.lookups import Lookups, encode_record
from gateway.broker.redis.operations.presence import PresenceStore
from gateway.broker.redis.operations.publisher import Publisher
from gateway.broker.redis.options import RedisOptions
from gateway.broker.redis.scripts.registry import CLEAR_HISTORY, TRIM_INBOX
from gateway.clock import Clock, elapsed, monotonic
from gateway.tasks import Slicer, Tasks


@dataclass(frozen=True, slots=True)
class BrokerTotals:
    """What all shards of a broker hold in memory together."""

    pending: PendingCalls
    held: HeldEntries

    def statistics(self) -> dict[str, int]:
        """Return sizes and counters by name."""
        return {**self.pending.statistics(), **self.held.statistics()}


class Shard:
    """One shard of the channels, on one primary; observes its own lease (`LeaseObserver`)."""

    def __init__(  # noqa: PLR0913 (what all shards of a broker share)
        self,
        primary: PrimaryLocator,
        keys: Keys,
        node: LocalNode,
        options: RedisOptions,
        tasks: Tasks,
        slicer: Slicer,
        *,
        layout: str,
        layout_check: LayoutCheck,
        wall_clock: Clock,
        on_notice: OnNotice,
        totals: BrokerTotals,
    ) -> None:
        """Serve *node*; nothing is connected before `start`.

        Args:
            primary: Locates the server of the shard.
            keys: The keys of the shard.
            node: Receives the envelopes of the shard.
            options: The same for all shards of a broker.
            tasks: Owns the background tasks.
            slicer: Shared by all long work of the node.
            layout: The servers and shards of this node, as text.
            layout_check: Shared by all shards of a broker.
            wall_clock: Unix seconds, for the times of messages.
            on_notice: Gets the notices of the shard (`gateway.broker.notices`).
            totals: Shared by all shards of a broker.
        """
        self.keys = keys
        self._node = node
        self._options = options
        self._tasks = tasks
        self._slicer = slicer
        self._on_notice = on_notice
        self._closed = False
        self._running: list[asyncio.Task[None]] = []
        self.health = ShardHealth(
            Breaker(),
            invalidate_primary=primary.invalidate,
            layout_error=lambda: layout_check.error,
            on_notice=self._notify,
        )
        self.connections = ShardConnections(primary, self.health, options, tasks, totals.pending)
        self._held = totals.held
        self._create_lease(layout, layout_check)
        self._create_operations(wall_clock)
        self._create_inbox()

    def _create_lease(self, layout: str, layout_check: LayoutCheck) -> None:
        leases, keys, node = self.connections.leases, self.keys, self._node
        self.reaper = Reaper(leases, keys, self._options, on_notice=self._notify)
        self.lease = Lease(
            leases,
            keys,
            self.health,
            self.reaper,
            self._options,
            layout_check,
            self,
            name=_without_blanks(node.as_record().node),
            layout=layout,
            record=lambda: encode_record(node),
            on_error=self._tasks.report,
            clock=elapsed,
        )

    def _create_operations(self, wall_clock: Clock) -> None:
        connections, keys, options = self.connections, self.keys, self._options
        control, reads = connections.control, connections.reads
        self.publisher = Publisher(
            connections.publishes, connections.replicated_publishes, self.health, keys, options, wall_clock
        )
        self.history = HistoryReader(reads, keys, options, self._slicer)
        self.presence = PresenceStore(control, reads, self.health, keys, options, self._slicer)
        self.lookups = Lookups(control, keys, options, self._node)

    def _create_inbox(self) -> None:
        control, keys, options, tasks = self.connections.control, self.keys, self._options, self._tasks
        self.user_commands = UserCommandLog(
            control,
            keys,
            options,
            self._node,
            tasks,
            elapsed,
            incarnation=self._incarnation,
            deliver=self._deliver,
        )
        self.routes = Routes(
            control,
            self.health,
            keys,
            options,
            tasks,
            self._slicer,
            incarnation=self._incarnation,
            clock=monotonic,
            held=self._held,
            on_resubscribed=self.user_commands.on_resubscribed,
        )
        self.route_audit = RouteAudit(
            control,
            keys,
            options,
            tasks,
            self._slicer,
            self.routes,
            incarnation=self._incarnation,
            interval=self.lease.renewal_interval,
            on_notice=self._notify,
        )
        self.ordered_delivery = OrderedDelivery(
            self.routes, self.history, self.lease, tasks, deliver=self._deliver, on_node_entry=self._receive
        )
        self.reader = InboxReader(
            self.connections.connection(TRIM_INBOX),
            self.routes,
            keys,
            options,
            tasks,
            self.health,
            self.lease,
            self.ordered_delivery,
        )

    def start(self) -> None:
        """Connect, and stay connected, in the background."""
        self._running = [self._tasks.spawn(self.lease.run())]

    async def close(self) -> None:
        """Release the lease and close all connections; no envelope is delivered from now on."""
        self._closed = True
        for task in self._running:
            task.cancel()
        if self._running:
            await asyncio.wait(self._running)
        await self.reader.close()
        await self.presence.close()
        try:
            async with asyncio.timeout(timeouts.LEASE_RELEASE_TIMEOUT_SECONDS):
                await self.lease.release()
        except TimeoutError:
            pass
        self.health.close()
        await self.connections.close()

    async def clear(self, channel: str) -> None:
        """Clear the history of *channel*; the channel's subscribers get a `HistoryCleared`."""
        keys = self.keys
        command = CLEAR_HISTORY(
            [keys.state, keys.log(channel), keys.route(channel)],
            keys.inbox_prefix,
            self._options.inbox_limit,
            channel,
        )
        await wait_for(self.connections.control.call(command), self._options.publish_timeout)

    def statistics(self) -> dict[str, int]:
        """Return counters and sizes by name (docs/operations.md#metrics-of-the-redis-broker)."""
        connections = self.connections.statistics()
        return {
            "up": int(self.health.available),
            "leases": int(self.lease.held),
            "breakers_open": int(not self.health.breaker.closed),
            "published": self.publisher.published,
            "replayed": self.publisher.replayed,
            "retried": self.publisher.retried,
            "keys_reused": self.publisher.keys_reused,
            "channels": len(self.routes.channels),
            "entries": self.reader.entries,
            "healed": self.ordered_delivery.backfilled,
            "mended": self.route_audit.resubscribed,
            "gaps": self.ordered_delivery.gaps,
            "inbox": self.reader.unread,
            "inbox_bytes": self.reader.unread_bytes,
            "inbox_overflows": self.reader.overflows,
            "keys": self.publisher.recent_keys.value,
            "reads": self.history.reads,
            "reads_shared": self.history.shared,
            "incarnations": self.lease.incarnations,
            "resets": self.lease.resets,
            "absent": self.presence.absent,
            "graces_refused": self.presence.graces_refused,
            "reaped": self.reaper.expired_nodes_reaped,
            "breaker_opened": self.health.breaker.times_opened,
            **connections,
            "failures": connections["failures"] + self.reader.failures,
            "replaced": connections["replaced"] + self.reader.replaced,
        }

    # ------------------------------------------------------------ LeaseObserver

    def incarnation_started(self, incarnation: str, *, lease_expired: bool) -> None:
        """Switch to the inbox of *incarnation*, and register every route and member again under its id."""
        if lease_expired:
            self._notify(LeaseLost())
        self._tasks.spawn(self._check_maxmemory_policy())
        self.lookups.incarnation = self.presence.incarnation = incarnation
        self.reader.switch_inbox(incarnation)
        self.routes.on_new_incarnation()
        self._tasks.spawn(self.presence.rejoin())

    def lease_renewed(self) -> None:
        """Test idle connections; retry the failed calls for routes, members, leaves and user commands."""
        self.connections.probe_idle()
        self.routes.retry_failed()
        self.route_audit.check_next()
        self.presence.on_lease_renewed()
        if self.health.connected:  # otherwise the inbox may be unreadable
            self.user_commands.on_lease_renewed(self.lease.renewed_at_ms)

    def writes_lost(self) -> None:
        """Give a `WritesLost` notice; the new epoch causes the gaps for subscribers."""
        self._notify(WritesLost())

    # ------------------------------------------------------------ inside

    def _incarnation(self) -> str:
        return self.lease.incarnation

    def _deliver(self, envelope: Envelope) -> None:
        if not self._closed:
            self._node.deliver(envelope)

    def _receive(self, kind: bytes, head: list[bytes], body: bytes) -> None:
        """Receive an inbox entry that does not belong to a channel."""
        if kind == b"i":
            self.user_commands.on_inbox_entry(head, body)
        else:
            self.lookups.on_inbox_entry(kind, head, body)

    def _notify(self, notice: Notice) -> None:
        self._on_notice(notice)
        if isinstance(notice, RedisRestored):  # it may be another Redis, with other settings
            self._tasks.spawn(self._check_maxmemory_policy())

    async def _check_maxmemory_policy(self) -> None:
        notice = await check_maxmemory_policy(self.connections.connection(), self._options.history_timeout)
        if notice is not None:
            self._notify(notice)

    def __repr__(self) -> str:
        return f"<Shard {self.keys.base} {self.health}>"


def _without_blanks(name: str) -> str:
    """Return *name* with its blanks replaced: blanks separate the words of an inbox entry."""
    return "_".join(name.split()) or "node"
