-- Add a member to a channel, or replace the stored member. If the member is new, subscribers get an entry `j`.
-- KEYS: state beats members user_counts route nodes node_members
-- ARGV: inbox_prefix inbox_limit node_members_prefix node connection channel member announce
--   announce: 1 to send the entry `j`, 0 if no entry `l` was sent when the member was lost
-- Returns {beat, 1 if the member is new, else 0}; an error FENCED if the node does not hold a lease.
local state, beats, members, user_counts, route, nodes, node_members = unpack(KEYS)
local inbox_prefix, limit, node_members_prefix, node, connection, channel, member, announce = unpack(ARGV)

if not has_lease(nodes, node) then
  return redis.error_reply('FENCED the lease of ' .. node .. ' is gone')
end
local beat = redis.call('HINCRBY', beats, node, 1)
local node_entry = connection .. ' ' .. channel
local found = redis.call('HGET', members, connection)
-- Members are listed in the order of their joins: a replaced member keeps its number.
local order
if found then
  local old_order, old_node, old_member = string.match(found, '^(%d+) (%S+) (.*)$')
  order = old_order
  if old_node ~= node then
    redis.call('SREM', node_members_prefix .. old_node, node_entry)
  end
  add_to_user_count(user_counts, old_member, -1)
else
  order = redis.call('HINCRBY', state, 'n', 1)
end
redis.call('HSET', members, connection, order .. ' ' .. node .. ' ' .. member)
redis.call('SADD', node_members, node_entry)
add_to_user_count(user_counts, member, 1)
if not found and announce == '1' then
  append_to_routed_inboxes(state, route, inbox_prefix, limit, 'j ' .. channel, member)
end
return {beat, found and 0 or 1}
