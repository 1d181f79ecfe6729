-- Remove the route of a channel to a node.
-- KEYS: route node_routes routed_names
-- ARGV: node channel
-- Returns 0.
local route, node_routes, routed_names = unpack(KEYS)
local node, channel = unpack(ARGV)

redis.call('SREM', route, node)
redis.call('SREM', node_routes, channel)
if redis.call('EXISTS', route) == 0 then
  redis.call('ZREM', routed_names, channel)
end
return 0
