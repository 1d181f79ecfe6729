"""One shard: its connections, and everything that speaks over them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from gateway.broker.base import Envelope, LocalNode
from gateway.broker.notices import (
    CallRejected,
    LeaseLost,
    NodeReaped,
    Notice,
    RedisLost,
    RedisRestored,
    RoutesMissing,
    WritesLost,
)
from gateway.broker.redis import timeouts
from gateway.broker.redis.connection.breaker import Breaker
from gateway.broker.redis.connection.connection import RedisConnection
from gateway.broker.redis.connection.health import ShardHealth
from gateway.broker.redis.connection.pipeline import Pipeline, within
from gateway.broker.redis.connection.topology import PrimaryLocator
from gateway.broker.redis.inbox.dispatcher import InboxDispatcher
from gateway.broker.redis.inbox.reader import InboxReader
from gateway.broker.redis.inbox.route_audit import RouteAudit
from gateway.broker.redis.inbox.routes import Routes
from gateway.broker.redis.inbox.user_commands import UserCommandLog
from gateway.broker.redis.keys import Keys
from gateway.broker.redis.membership.eviction_check import evicting
from gateway.broker.redis.membership.layout_check import LayoutCheck
from gateway.broker.redis.membership.lease import Lease
from gateway.broker.redis.membership.reaper import Reaper
from gateway.broker.redis.operations.history import HistoryReader
from gateway.broker.redis.operations.lookups import Lookups, record_of
from gateway.broker.redis.operations.presence import PresenceStore
from gateway.broker.redis.operations.publisher import Publisher
from gateway.broker.redis.options import RedisOptions
from gateway.broker.redis.scripts.registry import (
    BUMP,
    CLEAR,
    COUNT,
    PUBLISH,
    READ,
    REAP,
    RENEW,
    SCRIPTS,
    Command,
    Script,
)
from gateway.clock import Clock, monotonic
from gateway.tasks import Tasks

REPLICAS = 1
"""That have a message before it counts as replicated."""


class Shard:
    """One shard of the channels, on one primary."""

    def __init__(
        self,
        place: PrimaryLocator,
        keys: Keys,
        layout: str,
        node: LocalNode,
        options: RedisOptions,
        tasks: Tasks,
        wall: Clock,
        membership: LayoutCheck,
        news: Callable[[Notice], None],
    ) -> None:
        """Serve *node*; nothing is connected before `start`. Tell *news* what happens."""
        self._place = place
        self._options = options
        self._tasks = tasks
        self._node = node
        self._news = news
        self._closed = False
        self.keys = keys
        self.contact = ShardHealth(
            Breaker(),
            place.doubt,
            self._told,
            forgot=lambda: news(WritesLost()),
            odd=lambda why: news(CallRejected(why)),
            membership=membership,
        )
        # Each kind of call has its own connection: a long history delays no publish, and nothing a renewal.
        self._publishes = self._line(options.publish_deadline, PUBLISH)
        wait = ("WAIT", REPLICAS, int(options.replication_deadline * 1000))
        self._replicated = self._line(options.publish_deadline, PUBLISH, last=wait)
        self._control = self._line(options.resume_deadline, *SCRIPTS)
        self._reads = self._line(options.resume_deadline, READ, COUNT)
        renewal = max(timeouts.RENEWAL_LEAST, min(timeouts.RENEWAL_MOST, options.lease / 3))
        self._leases = self._line(renewal, RENEW, BUMP, REAP, exempt=True)
        self._lines = (self._publishes, self._replicated, self._control, self._reads, self._leases)
        self.publisher = Publisher(self._publishes, self._replicated, self.contact, self.keys, options, wall)
        self.history = HistoryReader(self._reads, self.keys, options)
        self.rosters = PresenceStore(self._control, self._reads, self.keys, options)
        self.directory = Lookups(self._control, self.keys, options, node)
        self.said = UserCommandLog(self._control, self.keys, node, tasks, wall, deliver=self._deliver)
        self.reaper = Reaper(self._leases, self.keys, options, reaped=lambda node: news(NodeReaped(node)))
        self.lease = Lease(
            self._leases,
            self.keys,
            self.contact,
            self.reaper,
            options,
            name=_printable(node.record().node),
            layout=layout,
            record=lambda: record_of(node),
            begun=self._begun,
            renewed=self._renewed,
            report=tasks.report,
            clock=monotonic,
        )
        self.routes = Routes(
            self._control,
            self.keys,
            options,
            tasks,
            node=lambda: self.lease.node,
            clock=monotonic,
            missed=self.said.missed,
        )
        self.rounds = RouteAudit(
            self._control,
            self.keys,
            options,
            tasks,
            self.routes,
            node=lambda: self.lease.node,
            every=self.lease.every,
            gone=lambda routes: news(RoutesMissing(routes)),
        )
        self.intake = InboxDispatcher(
            self.routes, self.history, self.lease, tasks, deliver=self._deliver, questions=self._hear
        )
        self.reader = InboxReader(
            self._wire(), self.routes, self.keys, options, tasks, self.contact, self.lease, self.intake
        )
        self._running: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Connect, and stay connected, in the background."""
        self._running = [self._tasks.spawn(self.lease.run())]

    async def close(self) -> None:
        """Give everything up; nothing is delivered from now on."""
        self._closed = True
        for task in self._running:
            task.cancel()
        if self._running:
            await asyncio.wait(self._running)
        await self.reader.close()
        try:
            async with asyncio.timeout(timeouts.CLOSING):
                await self.lease.retire()
        except TimeoutError:
            pass
        self.contact.close()
        for line in self._lines:
            await line.close()

    async def clear(self, channel: str) -> None:
        """Forget the history of *channel*; who follows it hears of that."""
        keys = self.keys
        command = CLEAR(
            [keys.state, keys.log(channel), keys.route(channel)], keys.inboxes, self._options.inbox, channel
        )
        await within(self._control.call(command), self._options.publish_deadline)

    def statistics(self) -> dict[str, int]:
        """Return counters and sizes."""
        lines = self._lines
        return {
            "up": int(self.contact.serving),
            "leases": int(self.lease.held),
            "breakers_open": int(not self.contact.breaker.closed),
            "published": self.publisher.published,
            "replayed": self.publisher.replayed,
            "retried": self.publisher.retried,
            "channels": len(self.routes.followed),
            "entries": self.reader.entries,
            "healed": self.intake.healed,
            "mended": self.rounds.mended,
            "gaps": self.intake.gaps,
            "inbox": self.reader.unread,
            "reads": self.history.reads,
            "reads_shared": self.history.shared,
            "incarnations": self.lease.incarnations,
            "resets": self.lease.resets,
            "reaped": self.reaper.count,
            "breaker_opened": self.contact.breaker.opened,
            "calls": sum(line.calls for line in lines),
            "trips": sum(line.trips for line in lines),
            "failures": sum(line.failures for line in lines) + self.reader.failures,
            "waiting": sum(line.statistics()["waiting"] for line in lines),
        }

    # ------------------------------------------------------------ inside

    def _wire(self, *scripts: Script, watchful: bool = False) -> RedisConnection:
        timeout = self._options.connect_timeout
        return RedisConnection(self._place, connect_timeout=timeout, scripts=scripts, watchful=watchful)

    def _line(
        self, deadline: float, *scripts: Script, exempt: bool = False, last: Command | None = None
    ) -> Pipeline:
        # It is the lease that must not go on with a primary that others have given up.
        wire = self._wire(*scripts, watchful=exempt)
        return Pipeline(wire, self.contact, self._tasks, patience=deadline, exempt=exempt, last=last)

    def _deliver(self, envelope: Envelope) -> None:
        if not self._closed:
            self._node.deliver(envelope)

    def _begun(self, node: str, missed: bool) -> None:  # noqa: FBT001 (a callback's arguments)
        """Go on under another id: another inbox, everything routed and everybody present again."""
        if missed:
            self._news(LeaseLost())
        self._tasks.spawn(self._look_at_eviction())
        self.directory.incarnation = self.rosters.node = node
        self.reader.switch(node)
        self.routes.reroute()
        # Where Redis has only lost its members, nobody was told that they left.
        self._tasks.spawn(self.rosters.rejoin(announce=missed))

    def _told(self, why: str | None) -> None:
        self._news(RedisRestored() if why is None else RedisLost(why))
        if why is None:  # perhaps it is another Redis, with settings of its own
            self._tasks.spawn(self._look_at_eviction())

    async def _look_at_eviction(self) -> None:
        news = await evicting(self._wire(), self._options.resume_deadline)
        if news is not None:
            self._news(news)

    def _hear(self, kind: bytes, head: list[bytes], body: bytes) -> None:
        """Take what stands in the inbox and is of no channel."""
        if kind == b"i":
            self.said.hear(head, body)
        else:
            self.directory.hear(kind, head, body)

    def _renewed(self) -> None:
        self.routes.settle()
        self.rounds.go_on()
        self.rosters.settle()
        if self.contact.up:  # else the inbox cannot be read
            self.said.settle(self.lease.now)

    def __repr__(self) -> str:
        return f"<Shard {self.keys.base} {self.contact}>"


def _printable(name: str) -> str:
    """Return *name* without what parts the words of an entry."""
    return "_".join(name.split()) or "node"
