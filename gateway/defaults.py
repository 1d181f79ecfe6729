"""Defaults that both the settings and the parts of a gateway have, each with its unit and its reason.

The settings (`gateway.settings.sections`) must not import what a gateway is built of: `fanway token` would
then load Redis and uvicorn. The parts must not import the settings. So both take these numbers from here. A
default that only one of them has stands there; limits of the protocol stand in `protocol.limits`.
"""

from __future__ import annotations

# ---------------------------------------------------------------- listen

HEADER_TIMEOUT_SECONDS = 5.0
"""For the head of an HTTP request, on both listeners: uvicorn itself waits without limit (slowloris)."""

LISTEN_BACKLOG = 1024
"""Connections that the kernel keeps for a socket until they are accepted; the public listener has more."""

BODY_SIZE_BYTES = 4 * 1024 * 1024
"""Of a request to the push API; a batch holds 1,000 commands at most, so each may have about 4 KiB."""

# ---------------------------------------------------------------- auth

LEEWAY_SECONDS = 5.0
"""By which the clock of a token's issuer may be ahead of ours."""

TOKEN_MAX_TTL_SECONDS = 86_400.0
"""How far ahead a token's `exp` may lie; no more can be configured, so a leaked token ends within a day."""

# ---------------------------------------------------------------- push and broker

DEV_PUSH_KEY = "dev"
"""The push key that `--dev` adds; commands of `fanway` use it where no other is configured."""

HEARTBEAT_GRACE_SECONDS = 10.0
IDEMPOTENCY_TTL_SECONDS = 300.0
"""For which a publish with the same key is recognized and not published again."""

PUSH_CONCURRENCY = 4_096
"""Requests of backends in progress at once on one node: at 2 s each, while Redis is lost, 2,000 a second."""

PUSH_RATE = 0.0
"""Messages a second for each push key; 0: no bound, because backends are trusted."""

REDIS_PREFIX = "fanway"

SHARDS_PER_SERVER = 1

CLUSTER_SHARDS = 12
"""On a Redis Cluster, whose primaries share them; 2, 3, 4 and 6 primaries get the same number each."""

LEASE_SECONDS = 10.0
"""For which a silent node counts as alive: members of a node that was killed leave presence within it."""

BEAT_SECONDS = 0.0
"""Between renewals of a lease; 0 stands for a third of the lease."""

UNROUTE_DELAY_SECONDS = 3.0
"""For which a channel stays routed after its last subscriber left: reloading a page changes no route."""

MEMORY_BYTES = 256 * 1024 * 1024
"""For the histories and idempotency keys of the memory broker."""

POSITION_TTL_SECONDS = 3_600.0
"""For which the position of a channel outlives its last message, so that returning clients can recover."""

# ---------------------------------------------------------------- one node

NODE_MEMORY_BYTES = 1024 * 1024 * 1024
"""That clients may make a node hold together, where `limits.memory` is not given and no machine is asked."""

PROCESS_BYTES = 100 * 1024 * 1024
"""That a worker takes without clients: 90 MB with CPython 3.11 on Linux."""

CONNECTION_BYTES = 16 * 1024
"""That one connection takes, about, with a subscription or two and nothing in its outbox."""

MIN_NODE_MEMORY_BYTES = 16 * 1024 * 1024
"""The smallest `limits.memory`: each of its parts has room for what it is for (docs/memory.md)."""

# ---------------------------------------------------------------- one connection

OUTBOX_BYTES = 1024 * 1024
"""That may wait for one connection (docs/slow-clients.md)."""

HIGH_WATER_BYTES = 64 * 1024
"""Of unsent data in asyncio's write buffer, at which a socket gets no more: asyncio's own default."""

LOW_WATER_BYTES = 16 * 1024
"""Of unsent data at which it gets more again: a quarter of the high water mark, as in asyncio."""

STALL_TIMEOUT_SECONDS = 20.0
"""Without progress of a full socket, after which it is aborted, whatever `on_slow` says."""

CATCH_UP_BATCH = 128
"""Messages of history that a client which fell behind gets at a time."""

CHANNELS_PER_CONNECTION = 128

COMMANDS_PER_SECOND = 50.0

COMMAND_BURST = 500
"""Units at once: a `connect` (1), a `subscribe` (2) with a token (1) to each of `CHANNELS_PER_CONNECTION`,
and 2,300 messages that these missed (docs/configuration.md#limitscosts)."""

USER_COMMANDS_PER_SECOND = 500.0
"""Of all connections of a user on one node, together: 2 % of a core, at 50 µs a unit."""

USER_COMMAND_BURST = 40_000
"""Units at once: `connections_per_user` connections that subscribe to all their channels."""

ADDRESS_COMMANDS_PER_SECOND = 10_000.0
"""Of all connections from an address on one node, together: half a core. An address may be a large office."""

ADDRESS_COMMAND_BURST = 200_000
"""Units at once: 500 clients in one office that subscribe to all their channels, or 10,000 to five each."""

TOKEN_COST = 1.0
"""Units for a channel token: a signature to verify, 30 µs."""

MESSAGE_COST = 0.05
"""Units for a message of a history: to read and to encode it takes 3 to 8 µs."""

MEMBER_COST = 0.02
"""Units for a member in a list: to read and to encode it takes 1 µs."""

STRIKES = 20
"""Commands over the rate, in a row within 10 s, at which a connection is closed with 4008."""

PRESENCE_REPLY = 1_000
"""Members in one reply."""

PRESENCE_GRACE_SECONDS = 2.0
"""For which a leave waits when a connection has ended: `reconnect` asks for a delay of a second at most."""

REWIND = 100
"""Messages that a `subscribe` may ask for with `rewind`."""

CONNECTS_PER_SECOND = 10_000.0
"""Of one node, on average; more are answered 503 with Retry-After."""

UNCONNECTED = 4_096
"""Connections of clients that have not sent `connect`: as many as the backlog of the public listener; each
takes 20 KiB until it has sent its request."""
