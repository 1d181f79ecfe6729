"""Many nodes behind one Redis, several, or a Cluster: interest-routed inbox streams (docs/redis.md)."""

from gateway.broker.redis.broker import RedisBroker
from gateway.broker.redis.connection.server import Credentials, Server
from gateway.broker.redis.options import RedisOptions

__all__ = ["Credentials", "RedisBroker", "RedisOptions", "Server"]
