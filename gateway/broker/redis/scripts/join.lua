-- Add a member; where it is new, its channel hears of it.
-- KEYS: state who route nodes pn   ARGV: inboxes bound members_of node connection channel member announce
-- Returns {writes, new}.
local state, who, route, nodes, pn = unpack(KEYS)
local inboxes, bound, members_of, node, connection, channel, member, announce = unpack(ARGV)

if not alive(nodes, node) then
  return redis.error_reply('FENCED the lease of ' .. node .. ' is gone')
end
local writes = redis.call('HINCRBY', state, 'n', 1)
local entry = connection .. ' ' .. channel
local order = string.format('%d', writes)
local found = redis.call('HGET', who, connection)
if found then
  local came, owner = string.match(found, '^(%d+) (%S+) ')
  order = came
  if owner ~= node then
    redis.call('SREM', members_of .. owner, entry)
  end
end
redis.call('HSET', who, connection, order .. ' ' .. node .. ' ' .. member)
redis.call('SADD', pn, entry)
if not found and announce == '1' then
  tell(route, inboxes, bound, 'j ' .. channel, member)
end
return {writes, found and 0 or 1}
