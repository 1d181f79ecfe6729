"""What happens to the shards of a Redis broker, in the log: a line for each thing that happens."""

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
    """Logs what one node hears of its shards."""

    def __init__(self, log: Any, node: str, clock: Clock = monotonic) -> None:
        """Write to *log*, a structlog logger; every line names *node* and the shard."""
        self._log = log
        self._node = node
        self._clock = clock
        self._lost: dict[int, float] = {}
        """When each shard that is out of contact was lost."""
        self._may_evict: set[Notice] = set()
        """Servers of which that was said: many shards may be on one of them."""

    def __call__(self, shard: int, news: Notice) -> None:
        """Log *news* of *shard*."""
        event, details = EVENTS[type(news)], asdict(news)
        if isinstance(news, EvictionEnabled):
            if news in self._may_evict:
                return
            self._may_evict.add(news)
        elif isinstance(news, RedisLost):
            event = "redis still lost" if shard in self._lost else event
            self._lost.setdefault(shard, self._clock())
        elif isinstance(news, RedisRestored):
            details["after"] = round(self._clock() - self._lost.pop(shard), 3)
        self._log.warning(event, node=self._node, shard=shard, **details)
