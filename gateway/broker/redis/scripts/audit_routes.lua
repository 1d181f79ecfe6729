-- Check that channels are still routed to a node, and extend the TTL of the channels' positions, which no other script
-- does if nothing is published.
-- KEYS: node_routes, then meta and route of each channel
-- ARGV: node meta_ttl channel...
-- Returns the numbers (1, 2, ...) of the channels that are missing in `route`, or in `node_routes`, from which the
-- routes of a reaped node are removed.
local node_routes, node, meta_ttl = KEYS[1], ARGV[1], ARGV[2]
local missing = {}
for i = 1, #ARGV - 2 do
  local meta, route = KEYS[2 * i], KEYS[2 * i + 1]
  -- Checked often, but written rarely: each write also goes to the replicas and to the disk.
  if redis.call('PTTL', meta) < meta_ttl * 2 / 3 then
    redis.call('PEXPIRE', meta, meta_ttl)
  end
  if redis.call('SISMEMBER', route, node) == 0 or redis.call('SISMEMBER', node_routes, ARGV[i + 2]) == 0 then
    missing[#missing + 1] = i
  end
end
return missing
