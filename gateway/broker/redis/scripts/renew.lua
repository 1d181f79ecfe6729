-- Take a lease, or renew it while it is there: one that was taken away stays away.
-- KEYS: state nodes figures beats layout   ARGV: node ttl record fresh take layout wary
-- Returns {beat, held, epoch, now, another node, its expiry, written}: the one whose lease ends first. `held` is 0 where
-- the node was cleaned up after, when it had written `written` times, and -1 where Redis does not know of it: then it
-- has lost writes. Or {0, -2, layout} where others have another layout; it is '' where nobody has any and the node is
-- wary of being the first.
local state, nodes, figures, beats, layout = unpack(KEYS)
local node, ttl, record, fresh, take, own, wary = unpack(ARGV)

local others = redis.call('GET', layout) or ''
if others ~= own and (others ~= '' or wary == '1') then
  return {0, -2, others}
end
despite_full_memory(state)
redis.call('SET', layout, own, 'PX', ttl)
local now = now_ms()
local held, beat, written = 1, 0, 0
if take == '1' then
  -- A zombie may have gone on counting.
  for _, other in ipairs(redis.call('HKEYS', beats)) do
    if not redis.call('ZSCORE', nodes, other) then
      redis.call('HDEL', beats, other)
    end
  end
elseif not alive(nodes, node) then
  local before = buried(state, node)
  held = (before or redis.call('ZSCORE', nodes, node)) and 0 or -1
  written = before or tonumber(redis.call('HGET', beats, node) or 0)
end
if held == 1 then
  redis.call('ZADD', nodes, string.format('%d', now + ttl), node)
  redis.call('HSET', figures, node, record)
  beat = redis.call('HINCRBY', beats, node, 1)
end
redis.call('HSETNX', state, 'e', '0.' .. fresh)
local reply = {beat, held, redis.call('HGET', state, 'e'), now, '', 0, written}
local first = redis.call('ZRANGE', nodes, 0, 1, 'WITHSCORES')
for i = 1, #first, 2 do
  if first[i] ~= node then
    reply[5], reply[6] = first[i], tonumber(first[i + 1])
    break
  end
end
return reply
