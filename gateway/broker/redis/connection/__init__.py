"""Connections to Redis: where the primary is, pipelines of calls, errors, and the health of a shard."""
