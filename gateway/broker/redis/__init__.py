"""Many nodes behind one Redis, or a list of them: interest-routed inbox streams (docs/redis.md)."""

from gateway.broker.redis.broker import RedisBroker
from gateway.broker.redis.options import RedisOptions

__all__ = ["RedisBroker", "RedisOptions"]
