-- List routed channels by name, and the nodes that at least one of the channels is routed to.
-- KEYS: routed_names
-- ARGV: from to limit route_prefix: `from` and `to` as arguments of ZRANGEBYLEX
-- Returns {{channel, ...}, {node, ...}}.
local channels = redis.call('ZRANGEBYLEX', KEYS[1], ARGV[1], ARGV[2], 'LIMIT', 0, ARGV[3])
local seen, nodes = {}, {}
for i = 1, #channels do
  for _, node in ipairs(redis.call('SMEMBERS', ARGV[4] .. channels[i])) do
    if not seen[node] then
      seen[node] = true
      nodes[#nodes + 1] = node
    end
  end
end
return {channels, nodes}
