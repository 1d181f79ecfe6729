"""Connections to the Redis servers of one shard: where they are, what travels, what errors mean."""
