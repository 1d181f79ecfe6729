"""What an operator or a test may set."""

from __future__ import annotations

from dataclasses import dataclass

from gateway.broker.base import AckLevel
from gateway.broker.redis import timeouts


@dataclass(frozen=True, slots=True)
class RedisOptions:
    """Numbers of a Redis broker, times in seconds. Every node of a cluster needs the same, `lease` apart."""

    prefix: str = "fanway"
    """What every key starts with: two clusters share a Redis under two prefixes."""
    shards_per_server: int = 1
    cluster_shards: int = 12
    """Shards of a Redis Cluster, whose nodes share them: more than it will ever have primaries."""
    lease: float = 10.0
    """For how long a node that says nothing counts as alive."""
    beat: float = 0.0
    """How often the lease is renewed; 0: three times in one."""
    linger: float = 3.0
    """For how long a channel that nobody here follows any more stays routed: a reload does not flap."""
    key_ttl: float = 300.0
    meta_ttl: float = 3_600.0
    """For how long an idle channel's position outlives its last message."""
    inbox: int = 100_000
    """Entries that may wait for a node; one that falls further behind heals from history or is told."""
    level: AckLevel = AckLevel.STORED
    """What a publish waits for that does not say it."""
    publish_deadline: float = timeouts.PUBLISH
    resume_deadline: float = timeouts.RESUME
    presence_deadline: float = timeouts.PRESENCE
    start_deadline: float = timeouts.START
    """For how long `start` waits for Redis; without it, the broker starts as well, not ready."""
    connect_timeout: float = timeouts.CONNECT
    replication_deadline: float = timeouts.REPLICATION
    """For how long a publish that is to be replicated waits for that."""
    block: float = timeouts.BLOCK
    """For how long one read of an empty inbox waits: how late a half-open connection shows."""
