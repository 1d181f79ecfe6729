"""Options of a Redis broker, set by an operator or a test."""

from __future__ import annotations

from dataclasses import dataclass

from gateway import defaults
from gateway.broker.base import AckLevel
from gateway.broker.redis import timeouts

PENDING_MAX_CALLS = 100_000
PENDING_MAX_BYTES = 128 * 1024 * 1024
"""The maximum of calls that wait to be sent or answered, over all connections; further calls are rejected."""

HELD_MAX_BYTES = 64 * 1024 * 1024
"""The maximum that all channels hold together while their missing messages are read from history; further
entries are dropped, and history is read once more."""


@dataclass(frozen=True, slots=True)
class RedisOptions:
    """Options of a Redis broker, times in seconds; all nodes need the same options, except for `lease`."""

    prefix: str = defaults.REDIS_PREFIX
    """The beginning of every key: clusters of nodes can share a Redis under different prefixes."""
    shards_per_server: int = defaults.SHARDS_PER_SERVER
    cluster_shards: int = defaults.CLUSTER_SHARDS
    """Shards on a Redis Cluster, spread over its primaries; should exceed the number of primaries."""
    lease: float = defaults.LEASE_SECONDS
    """How long a node counts as alive after its last renewal."""
    beat: float = defaults.BEAT_SECONDS
    """Interval of lease renewals; 0: three per lease."""
    linger: float = defaults.UNROUTE_DELAY_SECONDS
    """How long a route is kept after the channel's last subscriber left: a page reload does not remove it."""
    key_ttl: float = defaults.IDEMPOTENCY_TTL_SECONDS
    """How long an idempotency key is remembered."""
    meta_ttl: float = defaults.POSITION_TTL_SECONDS
    """How long an idle channel's position is kept after its last message expired."""
    inbox_limit: int = 100_000
    """Entries that an inbox may hold; a node further behind recovers from history, or reports a gap. The
    bytes that it may hold follow from it (scripts/prelude.lua)."""
    pending_max_calls: int = PENDING_MAX_CALLS
    pending_max_bytes: int = PENDING_MAX_BYTES
    """Calls that may wait for Redis, and their bytes, over all shards."""
    held_max_bytes: int = HELD_MAX_BYTES
    """Bytes that channels may hold, all together, while their missing messages are read from history."""
    default_level: AckLevel = AckLevel.STORED
    """The acknowledgement level of a publish that does not set a level."""
    publish_timeout: float = timeouts.PUBLISH_TIMEOUT_SECONDS
    subscribe_timeout: float = timeouts.SUBSCRIBE_TIMEOUT_SECONDS
    history_timeout: float = timeouts.HISTORY_TIMEOUT_SECONDS
    presence_timeout: float = timeouts.PRESENCE_TIMEOUT_SECONDS
    lookup_timeout: float = timeouts.LOOKUP_TIMEOUT_SECONDS
    start_timeout: float = timeouts.START_TIMEOUT_SECONDS
    """How long `start` waits for Redis before the broker starts without it, not ready."""
    connect_timeout: float = timeouts.CONNECT_TIMEOUT_SECONDS
    replication_timeout: float = timeouts.REPLICATION_TIMEOUT_SECONDS
    """How long a publish with level `replicated` waits for a replica."""
    inbox_block: float = timeouts.INBOX_BLOCK_SECONDS
    """How long one read of an empty inbox waits; this limits how late a half-open connection is detected."""

    @property
    def renewal_interval(self) -> float:
        """Seconds between two renewals of the lease, at most."""
        return self.beat or self.lease / timeouts.RENEWALS_PER_LEASE

    @property
    def clock_step_tolerance(self) -> float:
        """Seconds between two renewals beyond which Redis' clock counts as stepped."""
        return max(
            timeouts.CLOCK_STEP_LEASE_SHARE * self.lease,
            timeouts.CLOCK_STEP_RENEWALS * self.renewal_interval,
        )
