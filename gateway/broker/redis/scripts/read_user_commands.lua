-- Read commands for users' connections from the shard's log.
-- KEYS: user_commands
-- ARGV: start count: `start` as an argument of XRANGE
-- Returns {Redis' time in Unix milliseconds, entries as XRANGE returns them}.
return {now_ms(), redis.call('XRANGE', KEYS[1], ARGV[1], '+', 'COUNT', ARGV[2])}
