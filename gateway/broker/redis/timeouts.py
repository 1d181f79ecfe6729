"""How long we wait for Redis, when we ask again, and when we stop asking: all such numbers, in seconds.

Retries happen at one layer: a publish under an idempotency key is made again, once, by `publisher`. What
else fails is told to its caller at once. What Redis has to hear in any case (routes, members, leaves) it
hears with a later renewal of the lease; `faults` says what each kind of error means (DESIGN section 6).
"""

from __future__ import annotations

# ---------------------------------------------------------------- deadlines

PUBLISH = 2.0
RESUME = 3.0
"""For a subscribe, and for what is read of a history."""
PRESENCE = 1.0
"""For presence, and for what the cluster is asked about users and channels."""
REPLICATION = 0.1
"""For a replica that is to have a message, once the primary has it."""
COARSE = 0.05
"""By which a publish may outlive its deadline: one timer looks after all that wait, and a pipeline that ends
with it, of which the breaker hears, ends first."""
RENEWAL_LEAST, RENEWAL_MOST = 0.5, 2.0
"""For a renewal of the lease: a third of the lease, between these. A Redis as slow as a publish may be is not
lost."""
CONNECT = 1.5
"""For a connection, the search for the primary and the loading of scripts included: four round trips."""
BLOCK = 1.0
"""For which one read of an empty inbox waits ..."""
GRACE = 1.0
"""... and what Redis may take beyond that: how late a half-open connection shows."""
START = 1.0
"""For Redis, before a node goes on without it, not ready."""
CLOSING = 1.0
"""For giving up the lease when a node ends."""
SENTINEL = 0.25
"""For the sentinels, or for one node of a Cluster before another is asked, to tell where the primary is."""
SECOND_OPINION = 0.05
"""For other sentinels, once one has told: it may not have heard yet of a failover that they know of."""

# ---------------------------------------------------------------- asking again

BUDGET = 0.1
"""Of all publishes, the part that may be made again."""
CREDIT = 10.0
"""Retries that may be saved up."""
JITTER = 0.1
"""Within which a publish is made again, anywhere: full jitter."""
RECONNECT = 0.2
"""Between two attempts to reach a Redis that is not there, about: each is one renewal of one lease."""
RENEW = 0.02
"""Between two renewals at least, however often something goes wrong."""
QUICK = 0.3
"""Within which a renewal fails because its connection was closed, not because nobody answers: then it is made
again at once."""
READ = 0.1
"""Until a failed read of the inbox, or of a history that heals a hole, is made again, about."""
DEAF = 3.0
"""For which reading the inbox may fail; then a node is out of contact, though it may hold its lease."""
LISTEN = 0.5
"""Until another sentinel is listened to when one is gone."""
RECHECK = 5.0
"""After which sentinels are asked again though nothing seems wrong: the primary that this node reaches may be
one that the others have given up."""
UNKNOWN = 1.0
"""After which they are asked again where none of them knew."""

# ---------------------------------------------------------------- the breaker, one per shard

TIMEOUTS = 5
"""In a row, and it opens: what hangs is not asked again."""
WINDOW = 10
"""Over which failures are counted, in as many buckets."""
CALLS = 20
"""In a window, of which half have to fail to open it; the failures of fewer say nothing."""
FIRST, LONGEST = 1.0, 10.0
"""For which it stays open: doubling, each ±20 %, so that nodes do not come back together."""


def some(seconds: float, chance: float) -> float:
    """Return about *seconds*, ±50 %; *chance* is 0 … 1."""
    return seconds * (0.5 + chance)
