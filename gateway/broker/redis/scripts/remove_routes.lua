-- Remove the routes of channels and users to a node.
-- KEYS: node_routes routed_names, then the route of each name
-- ARGV: node, then each name
-- Returns 0.
local node_routes, routed_names, node = KEYS[1], KEYS[2], ARGV[1]
for n = 2, #ARGV do
  local route, name = KEYS[n + 1], ARGV[n]
  redis.call('SREM', route, node)
  redis.call('SREM', node_routes, name)
  if redis.call('EXISTS', route) == 0 then
    redis.call('ZREM', routed_names, name)
  end
end
return 0
