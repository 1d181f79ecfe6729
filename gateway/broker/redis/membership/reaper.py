"""Reaping: removing the routes, members and inbox of a node whose lease has expired, batch by batch."""

from __future__ import annotations

from gateway.broker.notices import NodeReaped, OnNotice
from gateway.broker.redis.connection.pipeline import Pipeline
from gateway.broker.redis.keys import Keys
from gateway.broker.redis.options import RedisOptions
from gateway.broker.redis.scripts.registry import REAP_NODE, milliseconds

TOMBSTONE_SECONDS = 86_400.0
"""How long Redis remembers that a node was reaped: longer than any paused process is expected to resume
after."""

BATCH_SIZE = 200
"""Routes or members that one call removes at most."""


class Reaper:
    """Reaps nodes on one shard."""

    def __init__(
        self, pipeline: Pipeline, keys: Keys, options: RedisOptions, *, on_notice: OnNotice = lambda _: None
    ) -> None:
        """Give `NodeReaped` to *on_notice* for each node whose lease had expired."""
        self._pipeline = pipeline
        self._keys = keys
        self._inbox_limit = options.inbox_limit
        self._clock_step_tolerance = milliseconds(options.clock_step_tolerance)
        self._on_notice = on_notice
        self.expired_nodes_reaped = 0

    async def reap(self, incarnation: str, *, even_if_alive: bool) -> None:
        """Remove the routes, members and inbox of *incarnation*, if its lease has expired or *even_if_alive*.

        Subscribers get a `Leave` for each member that is removed from their channels.

        Raises:
            GatewayError: a call failed; the incarnation may be reaped in part, and can be reaped again.
        """
        keys, left = self._keys, 1
        command = REAP_NODE(
            [
                keys.state,
                keys.nodes,
                keys.node_records,
                keys.beats,
                keys.routed_names,
                keys.node_routes(incarnation),
                keys.node_members(incarnation),
                keys.inbox(incarnation),
            ],
            incarnation,
            BATCH_SIZE,
            int(even_if_alive),
            keys.route_prefix,
            keys.members_prefix,
            keys.inbox_prefix,
            self._inbox_limit,
            milliseconds(TOMBSTONE_SECONDS),
            self._clock_step_tolerance,
        )
        while left > 0:
            left = await self._pipeline.call(command)
        if left == 0 and not even_if_alive:
            self.expired_nodes_reaped += 1
            self._on_notice(NodeReaped(incarnation))

    def __repr__(self) -> str:
        return f"<Reaper {self.expired_nodes_reaped} expired nodes reaped>"
