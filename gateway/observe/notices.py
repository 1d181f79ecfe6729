"""Notices of the Redis broker in the log: a line for each change in the state of a shard."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from gateway.broker.notices import (
    CallRejected,
    EvictionEnabled,
    LeaseLost,
    NodeReaped,
    Notice,
    RedisLost,
    RedisRestored,
    RoutesMissing,
    WritesLost,
)
from gateway.clock import Clock, monotonic

EVENTS: Mapping[type[Notice], str] = {
    RedisLost: "redis lost",
    RedisRestored: "redis regained",
    WritesLost: "redis lost writes",
    LeaseLost: "lease lost",
    NodeReaped: "node reaped",
    RoutesMissing: "routes gone from redis",
    EvictionEnabled: "redis may evict",
    CallRejected: "redis refuses",
}


class NoticeLog:
    """Logs the notices of one node about its shards; called with the shard's number and the notice."""

    def __init__(self, log: Any, node: str, clock: Clock = monotonic) -> None:
        """Write to *log*, a structlog logger; every line names *node* and the shard."""
        self._log = log
        self._node = node
        self._clock = clock
        self._lost_at: dict[int, float] = {}
        """When contact was lost, for each shard without contact."""
        self._eviction_logged: set[Notice] = set()
        """What was logged about servers: many shards may be on one of them, which is logged once."""

    def __call__(self, shard: int, notice: Notice) -> None:
        """Log *notice* about *shard*."""
        event, details = EVENTS[type(notice)], asdict(notice)
        if isinstance(notice, EvictionEnabled):
            if notice in self._eviction_logged:
                return
            self._eviction_logged.add(notice)
        elif isinstance(notice, RedisLost):
            event = "redis still lost" if shard in self._lost_at else event
            self._lost_at.setdefault(shard, self._clock())
        elif isinstance(notice, RedisRestored):
            details["after"] = round(self._clock() - self._lost_at.pop(shard), 3)
        self._log.warning(event, node=self._node, shard=shard, **details)
