"""The connections of one shard: one for each kind of call, so that no kind delays another."""

from __future__ import annotations

from gateway.broker.redis import timeouts
from gateway.broker.redis.connection.connection import RedisConnection
from gateway.broker.redis.connection.health import ShardHealth
from gateway.broker.redis.connection.pending_calls import PendingCalls
from gateway.broker.redis.connection.pipeline import Pipeline
from gateway.broker.redis.connection.topology import PrimaryLocator
from gateway.broker.redis.options import RedisOptions
from gateway.broker.redis.scripts.registry import (
    BUMP_EPOCH,
    COUNT_MEMBERS,
    PUBLISH,
    READ_HISTORY,
    REAP_NODE,
    RENEW_LEASE,
    SCRIPTS,
    Command,
    Script,
)
from gateway.tasks import Tasks

REPLICAS = 1
"""The number of replicas that must have a message before the message counts as replicated."""


class ShardConnections:
    """The pipelines of one shard; the inbox is read over a separate `connection`."""

    def __init__(
        self,
        primary: PrimaryLocator,
        health: ShardHealth,
        options: RedisOptions,
        tasks: Tasks,
        pending: PendingCalls,
    ) -> None:
        """Connect to *primary* on first use; notify *health* of the outcome of every call.

        *pending* counts the calls, together with those of other shards.
        """
        self._pending = pending
        self._primary = primary
        self._health = health
        self._options = options
        self._tasks = tasks
        self.publishes = self._pipeline(options.publish_timeout, PUBLISH)
        wait = ("WAIT", REPLICAS, int(options.replication_timeout * 1000))
        self.replicated_publishes = self._pipeline(
            options.publish_timeout, PUBLISH, trailing_command=wait, after=self.publishes
        )
        """Separate from `publishes`, because each batch waits for a replica."""
        self.control = self._pipeline(options.subscribe_timeout, *SCRIPTS)
        """Routes, members, lookups."""
        self.reads = self._pipeline(options.history_timeout, READ_HISTORY, COUNT_MEMBERS)
        """Reads of histories and presence, so that a long history does not delay a publish."""
        renewal_timeout = max(
            timeouts.RENEWAL_TIMEOUT_MIN_SECONDS,
            min(timeouts.RENEWAL_TIMEOUT_MAX_SECONDS, options.lease / 3),
        )
        self.leases = self._pipeline(renewal_timeout, RENEW_LEASE, BUMP_EPOCH, REAP_NODE, ignores_health=True)
        """Lease calls, the only calls to a Redis that counts as lost: a renewal shows that Redis is back."""
        self._pipelines = (
            self.publishes,
            self.replicated_publishes,
            self.control,
            self.reads,
            self.leases,
        )

    def connection(self, *scripts: Script, rechecks_primary: bool = False) -> RedisConnection:
        """Return a separate connection, which the caller closes."""
        return RedisConnection(
            self._primary,
            connect_timeout=self._options.connect_timeout,
            scripts=scripts,
            rechecks_primary=rechecks_primary,
        )

    def probe_idle(self) -> None:
        """Test the connections that were not used since the last call; called after each lease renewal."""
        for pipeline in self._pipelines:
            pipeline.probe_if_idle()

    async def close(self) -> None:
        """Fail all calls and close all pipelines."""
        for pipeline in self._pipelines:
            await pipeline.close()

    def statistics(self) -> dict[str, int]:
        """Return counters and sizes, summed over the pipelines."""
        return {
            "calls": sum(pipeline.calls for pipeline in self._pipelines),
            "trips": sum(pipeline.round_trips for pipeline in self._pipelines),
            "failures": sum(pipeline.failures for pipeline in self._pipelines),
            "resent": sum(pipeline.resent for pipeline in self._pipelines),
            "replaced": sum(pipeline.replaced for pipeline in self._pipelines),
            "waiting": sum(pipeline.waiting for pipeline in self._pipelines),
        }

    def _pipeline(
        self,
        timeout: float,
        *scripts: Script,
        ignores_health: bool = False,
        trailing_command: Command | None = None,
        after: Pipeline | None = None,
    ) -> Pipeline:
        return Pipeline(
            # The lease must not be renewed at a former primary that the other nodes have already replaced.
            self.connection(*scripts, rechecks_primary=ignores_health),
            self._health,
            self._tasks,
            self._pending,
            timeout=timeout,
            ignores_health=ignores_health,
            trailing_command=trailing_command,
            after=after,
        )

    def __repr__(self) -> str:
        return f"<ShardConnections {self._pipelines}>"
