-- Publish one message: number it, store it, and append it to the inbox of every node that is routed for its channel.
-- KEYS: state beats route, then meta and log if it is stored, then receipt if it has an idempotency key
-- ARGV: inbox_prefix inbox_limit channel uid body size ttl meta_ttl fresh key_ttl node [replicate]
--   size, ttl: how many messages the history keeps (0: none), and for how many milliseconds
--   fresh: a new uid for a channel without a position
--   replicate: present if a WAIT follows this script on the connection
--   uid: with an idempotency key its end is a digest of the content, which a repetition is compared with
-- Returns {beat, offset, uid, replayed}: beat 0, replayed 1 and the earlier uid if a publish with the key was made
-- before; offset 0 if the message is not stored.
local state, beats, route = KEYS[1], KEYS[2], KEYS[3]
local inbox_prefix, limit, channel, uid, body = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]
local size, ttl, meta_ttl, fresh = tonumber(ARGV[6]), ARGV[7], ARGV[8], ARGV[9]
local meta, log, receipt
if size > 0 then
  meta, log, receipt = KEYS[4], KEYS[5], KEYS[6]
else
  receipt = KEYS[4]
end

if receipt then
  local earlier = redis.call('GET', receipt)
  if earlier then
    if ARGV[12] then
      -- Since Redis 7.2 WAIT waits only for writes of its own connection, and the receipt may have been written on
      -- another connection: write it again.
      redis.call('PEXPIRE', receipt, math.max(1, redis.call('PTTL', receipt)))
    end
    local earlier_offset, earlier_uid = string.match(earlier, '^(%d+) (%S*)$')
    return {0, tonumber(earlier_offset), earlier_uid, 1}
  end
end

local beat = redis.call('HINCRBY', beats, ARGV[11], 1)
local offset, head = 0, nil
if size > 0 then
  local newest, previous_uid = current_position(meta, log, state, fresh, meta_ttl)
  offset = newest + 1
  local number = string.format('%d', offset)
  redis.call('XADD', log, 'MAXLEN', size, number .. '-0',
    'u', uid, 'p', previous_uid, 'x', string.format('%d', now_ms() + ttl), 'b', body)
  redis.call('PEXPIRE', log, ttl)
  redis.call('HSET', meta, 'o', number, 'u', uid)
  redis.call('PEXPIRE', meta, ttl + meta_ttl)
  head = 'm ' .. number .. ' ' .. uid .. ' ' .. previous_uid .. ' ' .. channel
else
  head = 'm 0 - - ' .. channel
end
append_to_routed_inboxes(state, route, inbox_prefix, limit, head, body)
if receipt then
  redis.call('SET', receipt, string.format('%d', offset) .. ' ' .. uid, 'PX', ARGV[10])
end
return {beat, offset, uid, 0}
