"""What an operator or a test may set."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class RedisOptions:
    """Numbers of a Redis broker, times in seconds. Every node of a cluster needs the same, `lease` apart."""

    prefix: str = "fanway"
    """What every key starts with: two clusters share a Redis under two prefixes."""
    shards_per_server: int = 1
    lease: float = 10.0
    """For how long a node that says nothing counts as alive."""
    linger: float = 3.0
    """For how long a channel that nobody here follows any more stays routed: a reload does not flap."""
    key_ttl: float = 300.0
    meta_ttl: float = 3_600.0
    """For how long an idle channel's position outlives its last message."""
    inbox: int = 100_000
    """Entries that may wait for a node; one that falls further behind heals from history or is told."""
    publish_deadline: float = 2.0
    resume_deadline: float = 3.0
    presence_deadline: float = 1.0
    start_deadline: float = 1.0
    """For how long `start` waits for Redis; without it, the broker starts as well, not ready."""
    connect_timeout: float = 0.8
    block: float = 1.0
    """For how long one read of an empty inbox waits: how late a half-open connection shows."""
