-- Remove the members whose grace has ended, of all channels: their nodes, which would do that, have ended meanwhile.
-- The keys of their channels are not declared: which channels these are, only the script finds out. All of them are in
-- the slot of the declared keys.
-- KEYS: state graces beats
-- ARGV: node inbox_prefix inbox_limit members_prefix route_prefix slack longest batch
--   slack: for how many milliseconds after the end the member's own node has time
--   longest: a grace that ends later than that, in milliseconds, began before Redis' clock was set back
--   batch: how many members a call removes at most
-- Returns {beat, removed or forgotten}; the beat is 0 if there was nothing to remove.
local state, graces, beats = unpack(KEYS)
local node, inbox_prefix, limit, members_prefix, route_prefix, slack, longest, batch = unpack(ARGV)

local function at(ms)
  return string.format('%d', now_ms() + ms)
end

local ended = redis.call('ZRANGEBYSCORE', graces, '-inf', at(-slack), 'LIMIT', 0, batch)
if #ended == 0 then
  ended = redis.call('ZRANGEBYSCORE', graces, at(longest), '+inf', 'LIMIT', 0, batch)
end
for i = 1, #ended do
  redis.call('ZREM', graces, ended[i])
  local connection, channel = string.match(ended[i], '^(%S+) (.*)$')
  local members = members_prefix .. channel
  local found = redis.call('HGET', members, connection)
  if found then
    local owner, member = string.match(found, '^%d+ (%S+) (.*)$')
    if is_absent(owner) then
      end_absence(members .. '\nabsent', graces, connection, channel, member)
      redis.call('HDEL', members, connection)
      add_to_user_count(members .. '\nusers', member, -1)
      append_to_routed_inboxes(state, route_prefix .. channel, inbox_prefix, limit, 'l ' .. channel, member)
    end
  end
end
return {#ended > 0 and redis.call('HINCRBY', beats, node, 1) or 0, #ended}
