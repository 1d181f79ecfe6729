-- Keep the positions of channels that a node follows, however long nobody says anything there.
-- KEYS: of, then meta and route of each   ARGV: node meta_ttl channel...
-- Returns which of the channels are not routed to the node any more, or which nobody would unroute after it: 1, 2, ...
local of, node, meta_ttl = KEYS[1], ARGV[1], ARGV[2]
local lost = {}
for i = 1, #ARGV - 2 do
  local meta, route = KEYS[2 * i], KEYS[2 * i + 1]
  -- Looked at often, but written to seldom: each write also goes to the replicas and to the disk.
  if redis.call('PTTL', meta) < meta_ttl * 2 / 3 then
    redis.call('PEXPIRE', meta, meta_ttl)
  end
  if redis.call('SISMEMBER', route, node) == 0 or redis.call('SISMEMBER', of, ARGV[i + 2]) == 0 then
    lost[#lost + 1] = i
  end
end
return lost
