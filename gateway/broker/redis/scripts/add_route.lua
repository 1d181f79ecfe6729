-- Route a channel to a node, append a marker `s` to the node's inbox, and return the channel's position at that moment:
-- entries before the marker are older than the route.
-- KEYS: state beats meta log route nodes node_routes routed_names inbox
-- ARGV: node channel marker inbox_limit fresh meta_ttl has_history listed
--   marker: a unique token of this marker; fresh: a new uid for a channel without a position
--   has_history: 1 if there is a position to return; listed: 1 for a channel, 0 for the route of a user
-- Returns {beat, offset, uid}, or {beat} without a history; an error FENCED if the node does not hold a lease.
local state, beats, meta, log, route, nodes, node_routes, routed_names, inbox = unpack(KEYS)
local node, channel, marker, limit, fresh, meta_ttl, has_history, listed = unpack(ARGV)

if not has_lease(nodes, node) then
  return redis.error_reply('FENCED the lease of ' .. node .. ' is gone')
end
local beat = redis.call('HINCRBY', beats, node, 1)
redis.call('SADD', route, node)
redis.call('SADD', node_routes, channel)
if listed == '1' then
  redis.call('ZADD', routed_names, 0, channel)
end
if has_history ~= '1' then
  append_to_inbox(state, inbox, node, limit, 's 0 - ' .. marker .. ' ' .. channel, '')
  return {beat}
end
local offset, uid = current_position(meta, log, state, fresh, meta_ttl)
extend_ttl(meta, meta_ttl)
append_to_inbox(state, inbox, node, limit, 's ' .. string.format('%d', offset) .. ' ' .. uid .. ' ' .. marker .. ' ' .. channel, '')
return {beat, offset, uid}
