"""Connections to Redis: the address of the primary, pipelines of calls, errors, the health of a shard."""
