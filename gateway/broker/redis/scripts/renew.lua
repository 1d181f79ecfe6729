-- Take a lease, or renew it while it is there: one that was taken away stays away.
-- KEYS: state nodes figures beats   ARGV: node ttl record fresh take
-- Returns {writes, held, epoch, beat, now, another node, its expiry}: the one whose lease ends first.
local state, nodes, figures, beats = unpack(KEYS)
local node, ttl, record, fresh, take = unpack(ARGV)

despite_full_memory(state)
local now = now_ms()
local held = take == '1' or alive(nodes, node)
local beat = 0
if held then
  redis.call('ZADD', nodes, string.format('%d', now + ttl), node)
  redis.call('HSET', figures, node, record)
  beat = redis.call('HINCRBY', beats, node, 1)
end
redis.call('HSETNX', state, 'e', fresh)
local writes = redis.call('HINCRBY', state, 'n', 1)
local reply = {writes, held and 1 or 0, redis.call('HGET', state, 'e'), beat, now, '', 0}
local first = redis.call('ZRANGE', nodes, 0, 1, 'WITHSCORES')
for i = 1, #first, 2 do
  if first[i] ~= node then
    reply[6], reply[7] = first[i], tonumber(first[i + 1])
    break
  end
end
return reply
