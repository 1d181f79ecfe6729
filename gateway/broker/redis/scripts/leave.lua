-- Remove members from one channel, or begin their grace. For each member that is removed, subscribers get an entry `l`.
-- KEYS: state members user_counts absences route beats graces
-- ARGV: inbox_prefix inbox_limit node_members_prefix channel node, then connection, grace and token of each
--   grace: 0, or for how many milliseconds the member stays listed and may pass to another connection of its user
--   token: identifies the grace that begins; with a grace of 0, the grace that ends: a member without it is not removed
-- Returns {beat}; {0} if no member was changed.
local state, members, user_counts, absences, route, beats, graces = unpack(KEYS)
local inbox_prefix, limit, node_members_prefix, channel, node = unpack(ARGV, 1, 5)

write_despite_full_memory(beats)
local routed = redis.call('SMEMBERS', route)
local changed = false
for i = 6, #ARGV, 3 do
  local connection, grace, token = ARGV[i], tonumber(ARGV[i + 1]), ARGV[i + 2]
  local found = redis.call('HGET', members, connection)
  if found then
    -- The member may have been added by another node, or another incarnation of this one.
    local order, owner, member = string.match(found, '^(%d+) (%S+) (.*)$')
    local node_entry = connection .. ' ' .. channel
    if grace > 0 then
      if not is_absent(owner) then
        redis.call('SREM', node_members_prefix .. owner, node_entry)
        redis.call('HSET', members, connection, order .. ' ' .. absent_owner(token) .. ' ' .. member)
        begin_absence(absences, graces, connection, channel, member, grace)
        changed = true
      end
    elseif token == '' or owner == absent_owner(token) then
      if is_absent(owner) then
        end_absence(absences, graces, connection, channel, member)
      else
        redis.call('SREM', node_members_prefix .. owner, node_entry)
      end
      redis.call('HDEL', members, connection)
      add_to_user_count(user_counts, member, -1)
      for n = 1, #routed do
        append_to_inbox(state, inbox_prefix .. routed[n], routed[n], limit, 'l ' .. channel, member)
      end
      changed = true
    end
  end
end
-- Counted, so that the node notices if Redis loses this write, which would bring the members back.
return {changed and redis.call('HINCRBY', beats, node, 1) or 0}
