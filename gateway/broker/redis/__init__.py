"""Many nodes behind one Redis, several, or a Cluster: interest-routed inbox streams (docs/redis.md)."""

from gateway.broker.redis.broker import RedisBroker
from gateway.broker.redis.options import RedisOptions
from gateway.broker.redis.servers import Credentials, Server

__all__ = ["Credentials", "RedisBroker", "RedisOptions", "Server"]
