-- Number one message, keep it, and put it into the inbox of every node that is routed for its channel.
-- KEYS: state beats route, where it is kept meta and log, where it has one key
-- ARGV: inboxes bound channel uid body size ttl meta_ttl fresh key_ttl node [replicate]
-- Returns {beat or 0, offset, uid, replayed}; offset 0 where nothing is kept.
local state, beats, route = KEYS[1], KEYS[2], KEYS[3]
local inboxes, bound, channel, uid, body = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]
local size, ttl, meta_ttl, fresh = tonumber(ARGV[6]), ARGV[7], ARGV[8], ARGV[9]
local meta, log, key
if size > 0 then
  meta, log, key = KEYS[4], KEYS[5], KEYS[6]
else
  key = KEYS[4]
end

if key then
  local earlier = redis.call('GET', key)
  if earlier then
    if ARGV[12] then
      -- WAIT asks since 7.2 who has what this connection has written; another one may have written the receipt.
      redis.call('PEXPIRE', key, math.max(1, redis.call('PTTL', key)))
    end
    local offset, said = string.match(earlier, '^(%d+) (%S*)$')
    return {0, tonumber(offset), said, 1}
  end
end

local beat = redis.call('HINCRBY', beats, ARGV[11], 1)
local offset, head = 0, nil
if size > 0 then
  local top, before = stand(meta, log, state, fresh, meta_ttl)
  offset = top + 1
  local number = string.format('%d', offset)
  redis.call('XADD', log, 'MAXLEN', size, number .. '-0',
    'u', uid, 'p', before, 'x', string.format('%d', now_ms() + ttl), 'b', body)
  redis.call('PEXPIRE', log, ttl)
  redis.call('HSET', meta, 'o', number, 'u', uid)
  redis.call('PEXPIRE', meta, ttl + meta_ttl)
  head = 'm ' .. number .. ' ' .. uid .. ' ' .. before .. ' ' .. channel
else
  uid = ''
  head = 'm 0 - - ' .. channel
end
tell(route, inboxes, bound, head, body)
if key then
  redis.call('SET', key, string.format('%d', offset) .. ' ' .. uid, 'PX', ARGV[10])
end
return {beat, offset, uid, 0}
