-- Count the members of a channel.
-- KEYS: members user_counts
-- Returns {connections, users}.
return {redis.call('HLEN', KEYS[1]), redis.call('HLEN', KEYS[2])}
