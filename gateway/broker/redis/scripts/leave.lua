-- Remove a member from a channel. If the connection was a member, subscribers get one entry `l`.
-- KEYS: state members user_counts route beats
-- ARGV: inbox_prefix inbox_limit node_members_prefix connection channel node
-- Returns {beat}; {0} if the connection was not a member.
local state, members, user_counts, route, beats = unpack(KEYS)
local inbox_prefix, limit, node_members_prefix, connection, channel, node = unpack(ARGV)

local found = redis.call('HGET', members, connection)
local beat = 0
if found then
  -- The member may have been added by another node, or another incarnation of this one.
  local owner, member = string.match(found, '^%d+ (%S+) (.*)$')
  redis.call('HDEL', members, connection)
  add_to_user_count(user_counts, member, -1)
  redis.call('SREM', node_members_prefix .. owner, connection .. ' ' .. channel)
  append_to_routed_inboxes(state, route, inbox_prefix, limit, 'l ' .. channel, member)
  -- Counted, so that the node notices if Redis loses this write, which would bring the member back.
  beat = redis.call('HINCRBY', beats, node, 1)
end
return {beat}
