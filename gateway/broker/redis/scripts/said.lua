-- Read instructions that were kept.
-- KEYS: said   ARGV: start count
-- Returns {now, entries}.
return {now_ms(), redis.call('XRANGE', KEYS[1], ARGV[1], '+', 'COUNT', ARGV[2])}
