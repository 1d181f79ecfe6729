-- Clean up after a node whose lease is over, a batch at a time, so that Redis stays there for others.
-- KEYS: state nodes figures beats names of pn inbox
-- ARGV: node batch willing routes who_of inboxes bound remembered
-- From the first batch on the node is fenced: its expiry is 0. Returns how much is left; -1 where it lives.
local state, nodes, figures, beats, names, of, pn, inbox = unpack(KEYS)
local node, batch, willing, routes, who_of, inboxes, bound, remembered = unpack(ARGV)

local expiry = redis.call('ZSCORE', nodes, node)
if not expiry or (willing ~= '1' and tonumber(expiry) > now_ms()) then
  return -1
end
redis.call('DEL', inbox)
redis.call('ZADD', nodes, 0, node)
local channels = redis.call('SPOP', of, batch)
for i = 1, #channels do
  local route = routes .. channels[i]
  redis.call('SREM', route, node)
  if redis.call('EXISTS', route) == 0 then
    redis.call('ZREM', names, channels[i])
  end
end
if #channels == 0 then
  local entries = redis.call('SPOP', pn, batch)
  for i = 1, #entries do
    local connection, channel = string.match(entries[i], '^(%S+) (.*)$')
    local who = who_of .. channel
    local found = redis.call('HGET', who, connection)
    if found then
      local owner, member = string.match(found, '^%d+ (%S+) (.*)$')
      if owner == node then
        redis.call('HDEL', who, connection)
        count(who .. '\nusers', member, -1)
        tell(routes .. channel, inboxes, bound, 'l ' .. channel, member)
      end
    end
  end
end
local left = redis.call('SCARD', of) + redis.call('SCARD', pn)
if left == 0 then
  redis.call('ZREM', nodes, node)
  redis.call('HDEL', figures, node)
  local fields = redis.call('HKEYS', state)
  for i = 1, #fields do
    local dead = string.match(fields[i], '^gone:(.*)$')
    if dead and not buried(state, dead) then
      redis.call('HDEL', state, fields[i])
    end
  end
  local written = redis.call('HGET', beats, node) or '0'
  redis.call('HSET', state, tombstone(node), written .. ' ' .. string.format('%d', now_ms() + remembered))
  redis.call('HDEL', beats, node)
end
return left
