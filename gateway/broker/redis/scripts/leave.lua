-- Remove a member; where it was there, its channel hears of it, once.
-- KEYS: who users route beats   ARGV: inboxes bound members_of connection channel node
-- Returns {beat or 0}.
local who, users, route, beats = unpack(KEYS)
local inboxes, bound, members_of, connection, channel, node = unpack(ARGV)

local found = redis.call('HGET', who, connection)
local beat = 0
if found then
  local owner, member = string.match(found, '^%d+ (%S+) (.*)$')
  redis.call('HDEL', who, connection)
  count(users, member, -1)
  redis.call('SREM', members_of .. owner, connection .. ' ' .. channel)
  tell(route, inboxes, bound, 'l ' .. channel, member)
  -- A Redis that loses this has a ghost.
  beat = redis.call('HINCRBY', beats, node, 1)
end
return {beat}
