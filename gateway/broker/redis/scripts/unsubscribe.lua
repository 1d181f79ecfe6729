-- Stop routing a channel to a node.
-- KEYS: route of names   ARGV: node channel
local route, of, names = unpack(KEYS)
local node, channel = unpack(ARGV)

redis.call('SREM', route, node)
redis.call('SREM', of, channel)
if redis.call('EXISTS', route) == 0 then
  redis.call('ZREM', names, channel)
end
return 0
