-- Remove a member; where it was there, its channel hears of it, once.
-- KEYS: who route   ARGV: inboxes bound members_of connection channel
local who, route = unpack(KEYS)
local inboxes, bound, members_of, connection, channel = unpack(ARGV)

local found = redis.call('HGET', who, connection)
if found then
  local owner, member = string.match(found, '^%d+ (%S+) (.*)$')
  redis.call('HDEL', who, connection)
  redis.call('SREM', members_of .. owner, connection .. ' ' .. channel)
  tell(route, inboxes, bound, 'l ' .. channel, member)
end
return found and 1 or 0
