"""Whether a Redis evicts what is in use when it is full: that only who runs it can change."""

from __future__ import annotations

from redis import exceptions

from gateway.broker.notices import EvictionEnabled
from gateway.broker.redis.connection.connection import RedisConnection

HARMLESS = "noeviction"


async def evicting(wire: RedisConnection, within: float) -> EvictionEnabled | None:
    """Return what there is to be told of the Redis behind *wire*, asked for *within* seconds; close *wire*.

    None where it evicts nothing, does not let us ask (an ACL may forbid INFO), or cannot be reached.
    """
    try:
        (answer,) = await wire.exchange([wire.pack(("INFO", "memory"))], within)
    except (exceptions.RedisError, OSError):
        return None
    finally:
        await wire.close()
    policy = policy_in(answer) if isinstance(answer, bytes) else ""
    return EvictionEnabled(wire.server, policy) if policy else None


def policy_in(info: bytes) -> str:
    """Return the policy that `INFO memory` tells of; empty where nothing is evicted."""
    figures = dict(line.partition(":")[::2] for line in info.decode().splitlines())
    policy = figures.get("maxmemory_policy", HARMLESS)
    return "" if policy == HARMLESS or figures.get("maxmemory", "0") == "0" else policy
