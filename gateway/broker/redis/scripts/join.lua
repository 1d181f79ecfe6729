-- Add members to one channel, or replace stored members. For each new member, subscribers get an entry `j`.
-- A member whose connection has ended, and whose grace has not, passes to a new connection of the same user with the
-- same info: it stays listed as it is, and no entry is sent.
-- A member that has passed to a connection may be stored under the earlier one, if Redis has lost that it has passed:
-- it would be listed twice under one id, and the end of the earlier entry announced as its leave.
-- KEYS: state beats members user_counts absences route nodes node_members graces
-- ARGV: inbox_prefix inbox_limit node_members_prefix node channel may_return, then connection and member of each
--   may_return: 1 if a connection may take over a member whose connection has ended
--   connection: the connection that the member belongs to; it is listed under the connection in `member`
-- Returns {beat, listed, ...}: under which connection each member is listed; an error FENCED if the node does not hold
-- a lease.
local state, beats, members, user_counts, absences, route, nodes, node_members, graces = unpack(KEYS)
local inbox_prefix, limit, node_members_prefix, node, channel, may_return = unpack(ARGV, 1, 6)

if not has_lease(nodes, node) then
  return redis.error_reply('FENCED the lease of ' .. node .. ' is gone')
end
local reply = {redis.call('HINCRBY', beats, node, 1)}
local routed = redis.call('SMEMBERS', route)

-- The connections that members are stored under, by those that they are listed under; read at most once.
local stored_under
local function stored_connection(member)
  if not stored_under then
    stored_under = {}
    local stored = redis.call('HGETALL', members)
    for i = 1, #stored, 2 do
      stored_under[listed_connection(string.match(stored[i + 1], '^%d+ %S+ (.*)$'))] = stored[i]
    end
  end
  return stored_under[listed_connection(member)]
end

for i = 7, #ARGV, 2 do
  local connection, member = ARGV[i], ARGV[i + 1]
  local previous = connection
  local found = redis.call('HGET', members, connection)
  if not found then
    if may_return == '1' then
      previous = first_absent(absences, member)
    elseif listed_connection(member) ~= connection then
      previous = stored_connection(member)
    end
    found = previous and redis.call('HGET', members, previous)
  end
  -- Members are listed in the order of their joins: a member that is replaced keeps its number.
  local order
  if found then
    local old_order, old_owner, old_member = string.match(found, '^(%d+) (%S+) (.*)$')
    order = old_order
    if is_absent(old_owner) then
      end_absence(absences, graces, previous, channel, old_member)
    elseif old_owner ~= node then
      redis.call('SREM', node_members_prefix .. old_owner, previous .. ' ' .. channel)
    end
    if previous ~= connection then
      redis.call('HDEL', members, previous)
    end
    add_to_user_count(user_counts, old_member, -1)
    member = listed_as(member, old_member)
  else
    order = redis.call('HINCRBY', state, 'n', 1)
  end
  redis.call('HSET', members, connection, order .. ' ' .. node .. ' ' .. member)
  redis.call('SADD', node_members, connection .. ' ' .. channel)
  add_to_user_count(user_counts, member, 1)
  if not found then
    for n = 1, #routed do
      append_to_inbox(state, inbox_prefix .. routed[n], routed[n], limit, 'j ' .. channel, member)
    end
  end
  reply[#reply + 1] = listed_connection(member)
end
return reply
