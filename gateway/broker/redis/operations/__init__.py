"""The operations of a broker on one shard: publishes, history reads, presence, lookups."""
