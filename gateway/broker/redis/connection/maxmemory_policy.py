"""Checks whether a Redis evicts keys when its memory is full; only the operator of the Redis can change that.

docs/redis.md#how-to-run-the-redis says what an eviction does.
"""

from __future__ import annotations

from redis import exceptions

from gateway.broker.notices import EvictionEnabled
from gateway.broker.redis.connection.connection import RedisConnection

NO_EVICTION = "noeviction"


async def check_maxmemory_policy(
    connection: RedisConnection, timeout_seconds: float
) -> EvictionEnabled | None:
    """Ask the Redis behind *connection* for its eviction policy, and close *connection*.

    Returns:
        The notice to give; None if Redis evicts no keys, rejects INFO (an ACL may forbid it), or cannot be
        reached in time.
    """
    try:
        (answer,) = await connection.execute([connection.pack_command(("INFO", "memory"))], timeout_seconds)
    except (exceptions.RedisError, OSError):
        return None
    finally:
        await connection.close()
    policy = eviction_policy(answer) if isinstance(answer, bytes) else ""
    return EvictionEnabled(connection.server, policy) if policy else None


def eviction_policy(info: bytes) -> str:
    """Return the policy in *info*, an answer to `INFO memory`; empty if keys are never evicted."""
    fields = dict(line.partition(":")[::2] for line in info.decode().splitlines())
    policy = fields.get("maxmemory_policy", NO_EVICTION)
    return "" if policy == NO_EVICTION or fields.get("maxmemory", "0") == "0" else policy
