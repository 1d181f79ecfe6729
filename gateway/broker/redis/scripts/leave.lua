-- Remove a member from a channel. Where it was one, subscribers get an entry `l`, once.
-- KEYS: members user_counts route beats
-- ARGV: inbox_prefix inbox_limit node_members_prefix connection channel node
-- Returns {beat}; {0} where the connection was no member.
local members, user_counts, route, beats = unpack(KEYS)
local inbox_prefix, limit, node_members_prefix, connection, channel, node = unpack(ARGV)

local found = redis.call('HGET', members, connection)
local beat = 0
if found then
  -- The member may have been added by another node, or another incarnation of this one.
  local owner, member = string.match(found, '^%d+ (%S+) (.*)$')
  redis.call('HDEL', members, connection)
  add_to_user_count(user_counts, member, -1)
  redis.call('SREM', node_members_prefix .. owner, connection .. ' ' .. channel)
  append_to_routed_inboxes(route, inbox_prefix, limit, 'l ' .. channel, member)
  -- Counted, so that a Redis that loses this write, and so brings the member back, is noticed.
  beat = redis.call('HINCRBY', beats, node, 1)
end
return {beat}
