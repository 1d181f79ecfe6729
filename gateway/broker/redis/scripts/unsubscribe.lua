-- Stop routing a channel to a node.
-- KEYS: state route of names   ARGV: node channel
local state, route, of, names = unpack(KEYS)
local node, channel = unpack(ARGV)

despite_full_memory(state)
redis.call('SREM', route, node)
redis.call('SREM', of, channel)
if redis.call('EXISTS', route) == 0 then
  redis.call('ZREM', names, channel)
end
return {redis.call('HINCRBY', state, 'n', 1)}
