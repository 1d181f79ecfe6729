"""Timeouts, retry delays and breaker limits of the Redis broker, in seconds unless the name says otherwise.

`connection/pipeline.py` sends a call that Redis has certainly not carried out again, until its deadline. A
call that may have been carried out is retried at one layer only: `operations/publisher.py` retries a publish
once, and only if it has an idempotency key. Any other failed call is reported to its caller at once. Calls
that must succeed eventually (routes, members, leaves) are retried after a later lease renewal.
`connection/error_table.py` says how each kind of error is handled; docs/redis.md#when-something-fails says
what clients see of it.
"""

from __future__ import annotations

# ---------------------------------------------------------------- timeouts of calls

PUBLISH_TIMEOUT_SECONDS = 2.0
SUBSCRIBE_TIMEOUT_SECONDS = 3.0
HISTORY_TIMEOUT_SECONDS = 3.0
"""For a read of a history."""
PRESENCE_TIMEOUT_SECONDS = 1.0
LOOKUP_TIMEOUT_SECONDS = 1.0
"""For a lookup of users, channels or nodes, all its calls together."""
REPLICATION_TIMEOUT_SECONDS = 0.1
"""For a replica to acknowledge a message, once the primary has stored it."""
DEADLINE_TIMER_SLACK_SECONDS = 0.05
"""How much later than its deadline a call may fail. One timer serves all waiting calls. If the timeout of the
pipeline ends at the same moment, the timeout has to come first, because the breaker counts it."""
RENEWAL_TIMEOUT_MIN_SECONDS, RENEWAL_TIMEOUT_MAX_SECONDS = 0.5, 2.0
"""For a lease renewal: a third of the lease, between these bounds. The upper bound equals the timeout of a
publish: a Redis that still answers publishes does not count as lost."""
CONNECT_TIMEOUT_SECONDS = 1.5
"""For a new connection, including finding the primary and loading the scripts: four round trips."""
PROBE_TIMEOUT_SECONDS = 1.0
"""For the answer to a PING over an idle connection. Half of a publish's timeout: a publish that arrives
meanwhile is still sent in time over the connection that replaces this one."""
INBOX_BLOCK_SECONDS = 1.0
"""`BLOCK` of one XREAD of an empty inbox."""
INBOX_BLOCK_GRACE_SECONDS = 1.0
"""How much later than `INBOX_BLOCK_SECONDS` that XREAD may be answered: the sum is how late a half-open
connection is detected."""
START_TIMEOUT_SECONDS = 1.0
"""How long a starting node waits for Redis before it goes on without it, not ready."""
LEASE_RELEASE_TIMEOUT_SECONDS = 1.0
"""For releasing the lease when a node ends."""
PRIMARY_LOOKUP_TIMEOUT_SECONDS = 0.25
"""For a sentinel, or a node of a Cluster, to answer with the primary's address; then the next is asked."""
SENTINEL_CONFIRM_SECONDS = 0.05
"""How long to wait for further sentinels after the first answer: the first sentinel may not yet know of a
failover."""

MEMBER_WRITES_CLOSE_TIMEOUT_SECONDS = 1.0
"""For joins and leaves under way when a node ends."""
BATCH_INTERVAL_SECONDS = 0.01
"""Time between two calls for joins, leaves or routes, at least. What comes meanwhile shares the next call, so
that the calls of a storm do not grow with the number of clients; a single client does not wait."""
GRACE_SLACK_SECONDS = 1.0
"""How long after the end of a grace another node announces the leave, if the member's own node has not."""
GRACE_MAX_SECONDS = 120.0
"""A grace that ends later than that began before Redis' clock was set back: twice the longest grace."""

# ---------------------------------------------------------------- retries

PUBLISH_RETRY_RATIO = 0.1
"""Share of all publishes that may be retried."""
PUBLISH_RETRY_CREDIT_MAX = 10.0
"""Retries that may be saved up."""
PUBLISH_RETRY_JITTER_SECONDS = 0.1
"""A publish is retried after a random delay below this: full jitter."""
RESEND_JITTER_SECONDS = 0.1
"""Calls that were not carried out are sent again at once, and from the second time on after a random delay
below this."""
RECONNECT_SECONDS = 0.2
"""Mean delay between two attempts to reach a Redis that is down; each attempt is one lease renewal."""
RENEWAL_MIN_INTERVAL_SECONDS = 0.02
"""Minimum time between two lease renewals, however often a failure asks for one."""
RENEWAL_RETRY_WINDOW_SECONDS = 0.3
"""A renewal that fails within this time failed because its connection was closed, not because nobody answers:
it is retried at once."""
INBOX_READ_RETRY_SECONDS = 0.1
"""Mean delay before a failed read of the inbox, or of a history that fills a gap, is retried."""
INBOX_UNREADABLE_SECONDS = 3.0
"""How long reads of the inbox may fail before the shard counts as unavailable, even while the lease is
held."""
SENTINEL_RESUBSCRIBE_SECONDS = 0.5
"""Delay before subscribing again after the connection to a sentinel is lost."""
SENTINEL_PING_SECONDS = 5.0
"""Interval at which the connection to a sentinel that announces nothing is tested."""
SENTINEL_RECHECK_SECONDS = 5.0
"""Interval at which sentinels are asked again while no call fails: the primary that this node reaches may be
one that the other nodes have replaced."""
SENTINEL_SILENT_RECHECK_SECONDS = 1.0
"""Interval at which sentinels are asked again if no sentinel answered with the primary."""

# ---------------------------------------------------------------- leases

RENEWALS_PER_LEASE = 3
"""Renewals per lease."""
CLOCK_STEP_LEASE_SHARE = 0.45
"""Share of a lease. If the last renewal of any lease is longer ago by Redis' clock, the clock was stepped.
A shorter step forward takes as much from each lease, of which a living node always has more than half."""
CLOCK_STEP_RENEWALS = 1.25
"""Intervals between renewals that are never a step: also where they are long for the lease."""

# ---------------------------------------------------------------- the breaker, one per shard

BREAKER_TIMEOUTS_IN_A_ROW = 5
"""So many timeouts in a row open the breaker: a Redis that hangs is not asked again."""
BREAKER_WINDOW_SECONDS = 10
"""Failures are counted over this window, in buckets of one second."""
BREAKER_MIN_CALLS = 20
"""Calls in the window below which the share of failures is not judged; from here on, half of them open the
breaker."""
BREAKER_OPEN_SECONDS, BREAKER_OPEN_MAX_SECONDS = 1.0, 10.0
"""How long the breaker stays open: from the first value to the second, doubling each time, ±20 % so that
nodes do not return together."""


def jittered(seconds: float, random: float) -> float:
    """Return *seconds* ±50 %, chosen by *random* (0 … 1)."""
    return seconds * (0.5 + random)
