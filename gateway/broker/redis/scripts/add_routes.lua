-- Route channels and users to a node. For each channel, append a marker `s` to the node's inbox, and return the channel's
-- position at that moment: entries before the marker are older than the route.
-- KEYS: state beats nodes node_routes routed_names inbox, then meta, log and route of each name
-- ARGV: node inbox_limit meta_ttl, then name, marker, fresh and kind of each
--   name: a channel, or the name of a user's route; marker: a unique token of this marker
--   fresh: a new uid for a channel without a position
--   kind: 0 for a user, 1 for a channel, 2 for a channel with a history, of which there is a position to return
-- Returns {beat, {offset, uid} or {} without a history, ...}; an error FENCED if the node does not hold a lease.
local state, beats, nodes, node_routes, routed_names, inbox = unpack(KEYS, 1, 6)
local node, limit, meta_ttl = unpack(ARGV, 1, 3)

if not has_lease(nodes, node) then
  return redis.error_reply('FENCED the lease of ' .. node .. ' is gone')
end
local reply = {redis.call('HINCRBY', beats, node, 1)}
for n = 1, (#KEYS - 6) / 3 do
  local meta, log, route = unpack(KEYS, 3 * n + 4, 3 * n + 6)
  local name, marker, fresh, kind = unpack(ARGV, 4 * n, 4 * n + 3)
  redis.call('SADD', route, node)
  redis.call('SADD', node_routes, name)
  local position = {}
  if kind ~= '0' then
    redis.call('ZADD', routed_names, 0, name)
    local offset, uid = 0, '-'
    if kind == '2' then
      offset, uid = current_position(meta, log, state, fresh, meta_ttl)
      extend_ttl(meta, meta_ttl)
      position = {offset, uid}
    end
    local head = 's ' .. string.format('%d', offset) .. ' ' .. uid .. ' ' .. marker .. ' ' .. name
    append_to_inbox(state, inbox, node, limit, head, '')
  end
  reply[#reply + 1] = position
end
return reply
