"""The eviction policy in an answer to `INFO memory`."""

import pytest

from gateway.broker.redis.connection.maxmemory_policy import eviction_policy


@pytest.mark.parametrize(
    ("info", "policy"),
    [
        (b"# Memory\r\nmaxmemory:104857600\r\nmaxmemory_policy:allkeys-lru\r\n", "allkeys-lru"),
        (b"# Memory\r\nmaxmemory:104857600\r\nmaxmemory_policy:noeviction\r\n", ""),
        (b"# Memory\r\nmaxmemory:0\r\nmaxmemory_policy:allkeys-lru\r\n", ""),
        (b"# Memory\r\n", ""),
    ],
    ids=["evicts", "noeviction", "no memory limit", "unknown"],
)
def test_only_a_policy_with_a_memory_limit_evicts(info: bytes, policy: str) -> None:
    assert eviction_policy(info) == policy
