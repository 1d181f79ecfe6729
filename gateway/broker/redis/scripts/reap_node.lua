-- Remove the inbox, then the routes, then the members of a node whose lease has expired, one batch with each call, so
-- that Redis serves other clients in between. Subscribers get an entry `l` for each member.
-- From the first call on the node is fenced: the node's expiry in `nodes` is 0. The last call stores the node's beat:
-- if the node resumes, it can detect whether Redis has lost any of its writes.
-- KEYS: state nodes node_records beats routed_names node_routes node_members inbox
-- ARGV: node batch even_if_alive route_prefix members_prefix inbox_prefix inbox_limit remember tolerance
--   batch: how many routes or members a call removes
--   even_if_alive: 1 if the node itself releases its lease
--   remember: for how many milliseconds Redis remembers that the node was reaped
--   tolerance: as of renew_lease.lua
-- Returns how many routes and members are left; -1 if the lease has not expired, or the node is unknown.
local state, nodes, node_records, beats, routed_names, node_routes, node_members, inbox = unpack(KEYS)
local node, batch, even_if_alive, route_prefix, members_prefix, inbox_prefix, limit, remember, tolerance = unpack(ARGV)

local expiry = redis.call('ZSCORE', nodes, node)
if not expiry or (even_if_alive ~= '1' and tonumber(expiry) > now_ms() - clock_step(state, tolerance)) then
  return -1
end
redis.call('DEL', inbox)
redis.call('HDEL', state, inbox_bytes_field(node), inbox_emptied_field(node))
redis.call('ZADD', nodes, 0, node)
local channels = redis.call('SPOP', node_routes, batch)
for i = 1, #channels do
  local route = route_prefix .. channels[i]
  redis.call('SREM', route, node)
  if redis.call('EXISTS', route) == 0 then
    redis.call('ZREM', routed_names, channels[i])
  end
end
if #channels == 0 then
  local entries = redis.call('SPOP', node_members, batch)
  for i = 1, #entries do
    local connection, channel = string.match(entries[i], '^(%S+) (.*)$')
    local members = members_prefix .. channel
    local found = redis.call('HGET', members, connection)
    if found then
      local owner, member = string.match(found, '^%d+ (%S+) (.*)$')
      if owner == node then
        redis.call('HDEL', members, connection)
        add_to_user_count(members .. '\nusers', member, -1)
        append_to_routed_inboxes(state, route_prefix .. channel, inbox_prefix, limit, 'l ' .. channel, member)
      end
    end
  end
end
local left = redis.call('SCARD', node_routes) + redis.call('SCARD', node_members)
if left == 0 then
  redis.call('ZREM', nodes, node)
  redis.call('HDEL', node_records, node)
  -- Forget nodes that were reaped more than `remember` ago.
  local fields = redis.call('HKEYS', state)
  for i = 1, #fields do
    local reaped = string.match(fields[i], '^gone:(.*)$')
    if reaped and not beat_when_reaped(state, reaped) then
      redis.call('HDEL', state, fields[i])
    end
  end
  local beat = redis.call('HGET', beats, node) or '0'
  redis.call('HSET', state, reaped_field(node), beat .. ' ' .. string.format('%d', now_ms() + remember))
  redis.call('HDEL', beats, node)
end
return left
