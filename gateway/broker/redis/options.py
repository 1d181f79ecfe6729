"""What an operator or a test may set."""

from __future__ import annotations

from dataclasses import dataclass

from gateway.broker.base import Level
from gateway.broker.redis import patience


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
    level: Level = Level.STORED
    """What a publish waits for that does not say it."""
    publish_deadline: float = patience.PUBLISH
    resume_deadline: float = patience.RESUME
    presence_deadline: float = patience.PRESENCE
    start_deadline: float = patience.START
    """For how long `start` waits for Redis; without it, the broker starts as well, not ready."""
    connect_timeout: float = patience.CONNECT
    replication_deadline: float = patience.REPLICATION
    """For how long a publish that is to be replicated waits for that."""
    block: float = patience.BLOCK
    """For how long one read of an empty inbox waits: how late a half-open connection shows."""
