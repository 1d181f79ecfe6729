-- Add a member; where it is new, its channel hears of it.
-- KEYS: state beats who users route nodes pn
-- ARGV: inboxes bound members_of node connection channel member announce
-- Returns {beat, new}.
local state, beats, who, users, route, nodes, pn = unpack(KEYS)
local inboxes, bound, members_of, node, connection, channel, member, announce = unpack(ARGV)

if not alive(nodes, node) then
  return redis.error_reply('FENCED the lease of ' .. node .. ' is gone')
end
local beat = redis.call('HINCRBY', beats, node, 1)
local entry = connection .. ' ' .. channel
local found = redis.call('HGET', who, connection)
local order
if found then
  local came, owner, before = string.match(found, '^(%d+) (%S+) (.*)$')
  order = came
  if owner ~= node then
    redis.call('SREM', members_of .. owner, entry)
  end
  count(users, before, -1)
else
  order = redis.call('HINCRBY', state, 'n', 1)
end
redis.call('HSET', who, connection, order .. ' ' .. node .. ' ' .. member)
redis.call('SADD', pn, entry)
count(users, member, 1)
if not found and announce == '1' then
  tell(route, inboxes, bound, 'j ' .. channel, member)
end
return {beat, found and 0 or 1}
