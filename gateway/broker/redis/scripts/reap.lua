-- Clean up after a node whose lease is over, a batch at a time, so that Redis stays there for others.
-- KEYS: state nodes figures beats names of pn inbox
-- ARGV: node batch willing routes who_of inboxes bound
-- From the first batch on the node is fenced: its expiry is 0. Returns {writes, left}; left is -1 where it lives.
local state, nodes, figures, beats, names, of, pn, inbox = unpack(KEYS)
local node, batch, willing, routes, who_of, inboxes, bound = unpack(ARGV)

local expiry = redis.call('ZSCORE', nodes, node)
if not expiry or (willing ~= '1' and tonumber(expiry) > now_ms()) then
  return {tonumber(redis.call('HGET', state, 'n') or 0), -1}
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
    local found = redis.call('HGET', who_of .. channel, connection)
    if found then
      local owner, member = string.match(found, '^%d+ (%S+) (.*)$')
      if owner == node then
        redis.call('HDEL', who_of .. channel, connection)
        tell(routes .. channel, inboxes, bound, 'l ' .. channel, member)
      end
    end
  end
end
local left = redis.call('SCARD', of) + redis.call('SCARD', pn)
if left == 0 then
  redis.call('ZREM', nodes, node)
  redis.call('HDEL', figures, node)
  redis.call('HDEL', beats, node)
end
return {redis.call('HINCRBY', state, 'n', 1), left}
