"""What a node asks of Redis: publish, history, presence, lookups."""
