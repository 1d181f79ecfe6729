-- How many are in a channel.
-- KEYS: who users
-- Returns {connections, users}.
return {redis.call('HLEN', KEYS[1]), redis.call('HLEN', KEYS[2])}
