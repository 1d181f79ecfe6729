-- Acquire a lease, or renew a lease that the node still holds; a reaped node cannot renew its lease.
-- KEYS: state nodes node_records beats layout
-- ARGV: node ttl record fresh take layout cautious tolerance
--   tolerance: milliseconds since the last renewal of any lease beyond which Redis' clock counts as stepped
--   ttl: milliseconds; record: the record of the node; fresh: a new uid for a shard without an epoch
--   take: 1 for the first lease of an incarnation
--   layout: the servers and shards of the node; all nodes of the cluster must have the same
--   cautious: 1 if the node was rejected for its layout before, and must not be the first to set a layout
-- Returns {beat, held, epoch, now, other node, its expiry, written}:
--   held is 1; 0 if the node was reaped, after `written` writes; -1 if Redis does not know the node's lease: then Redis
--   has lost writes.
--   The other node is the node whose lease expires first; '' and 0 if there is no other node. now: Unix milliseconds.
-- Or {0, -2, layout} if the other nodes have another layout; layout is '' if no layout is set and the node is cautious.
local state, nodes, node_records, beats, layout = unpack(KEYS)
local node, ttl, record, fresh, take, own_layout, cautious, tolerance = unpack(ARGV)

local present_layout = redis.call('GET', layout) or ''
if present_layout ~= own_layout and (present_layout ~= '' or cautious == '1') then
  return {0, -2, present_layout}
end
write_despite_full_memory(state)
redis.call('SET', layout, own_layout, 'PX', ttl)
local now = now_ms()
local step = clock_step(state, tolerance)
if step ~= 0 then
  -- Every lease lasts as long as it would have without the step.
  local leases = redis.call('ZRANGE', nodes, 0, -1, 'WITHSCORES')
  for i = 1, #leases, 2 do
    if tonumber(leases[i + 1]) > 0 then
      redis.call('ZINCRBY', nodes, string.format('%d', step), leases[i])
    end
  end
end
redis.call('HSET', state, 't', string.format('%d', now))
local held, beat, written = 1, 0, 0
if take == '1' then
  -- Remove the beats of nodes without a lease: a node that was paused and reaped may have continued counting.
  for _, other in ipairs(redis.call('HKEYS', beats)) do
    if not redis.call('ZSCORE', nodes, other) then
      redis.call('HDEL', beats, other)
    end
  end
elseif not has_lease(nodes, node) then
  local reaped_beat = beat_when_reaped(state, node)
  held = (reaped_beat or redis.call('ZSCORE', nodes, node)) and 0 or -1
  written = reaped_beat or tonumber(redis.call('HGET', beats, node) or 0)
end
if held == 1 then
  redis.call('ZADD', nodes, string.format('%d', now + ttl), node)
  redis.call('HSET', node_records, node, record)
  beat = redis.call('HINCRBY', beats, node, 1)
end
redis.call('HSETNX', state, 'e', '0.' .. fresh)
local reply = {beat, held, redis.call('HGET', state, 'e'), now, '', 0, written}
local first = redis.call('ZRANGE', nodes, 0, 1, 'WITHSCORES')
for i = 1, #first, 2 do
  if first[i] ~= node then
    reply[5], reply[6] = first[i], tonumber(first[i + 1])
    break
  end
end
return reply
