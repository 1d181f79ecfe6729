-- Read consecutive messages of a channel's history.
-- KEYS: state meta log
-- ARGV: fresh meta_ttl since_offset since_uid limit size reverse
--   fresh: a new uid for a channel without a position
--   since_offset, since_uid: read after this message, with reverse before this message; '' for all
--   limit, size: the maximum number of messages, and of bytes, but at least one message is returned; '' for all
--   reverse: 1 for newest first
-- Returns {offset, uid, gap, {offset, uid, body, offset, uid, body, ...}, floor}:
--   offset, uid: the channel's position
--   gap: 0 if the messages begin right after `since`; 1 if the history no longer reaches back to `since` (trimmed);
--   2 if `since` is not a message of this history (reset); with 1 and 2 no messages are returned
--   floor: the offset below which no position is confirmed
local state, meta, log = unpack(KEYS)
local fresh, meta_ttl, since, since_uid, limit, size, reverse = unpack(ARGV)

local function field(entry, name)
  for i = 1, #entry[2], 2 do
    if entry[2][i] == name then
      return entry[2][i + 1]
    end
  end
end

local function offset_of(entry)
  return tonumber(string.match(entry[1], '^%d+'))
end

local newest, uid, floor = current_position(meta, log, state, fresh, meta_ttl)

-- Remove expired messages: each is removed once, by the first read after its expiry.
local now, count = now_ms(), 1
while true do
  local oldest = redis.call('XRANGE', log, '-', '+', 'COUNT', count)
  local expired = 0
  while expired < #oldest and tonumber(field(oldest[expired + 1], 'x')) <= now do
    expired = expired + 1
  end
  if expired == 0 then
    break
  end
  redis.call('XTRIM', log, 'MINID', string.format('%d', offset_of(oldest[expired]) + 1))
  count = 100
end

local from, to = '-', '+'
if since ~= '' then
  local position, gap = tonumber(since), 0
  if position > newest or position < floor or (position == newest and since_uid ~= uid) then
    gap = 2
  elseif position < newest then
    -- The next message contains the uid of the message before it.
    local next_id = string.format('%d-0', position + 1)
    local next_entry = redis.call('XRANGE', log, next_id, next_id)
    if #next_entry == 0 then
      gap = 1
    elseif field(next_entry[1], 'p') ~= since_uid then
      gap = 2
    end
  end
  if gap ~= 0 then
    return {newest, uid, gap, {}, floor}
  end
  from = string.format('%d', position + 1)
  to = string.format('%d', math.max(0, position - 1))
end

-- Up to 100 messages at a time: with a limit in bytes, few more messages are read than are returned.
local flat, left, bytes_left = {}, tonumber(limit) or math.huge, tonumber(size) or math.huge
while left > 0 do
  local count = math.min(left, 100)
  local entries
  if reverse == '1' then
    entries = redis.call('XREVRANGE', log, to, '-', 'COUNT', count)
  else
    entries = redis.call('XRANGE', log, from, '+', 'COUNT', count)
  end
  local offset
  for i = 1, #entries do
    local body = field(entries[i], 'b')
    bytes_left = bytes_left - #body
    if bytes_left < 0 and #flat > 0 then
      return {newest, uid, 0, flat, floor}
    end
    offset = offset_of(entries[i])
    flat[#flat + 1] = offset
    flat[#flat + 1] = field(entries[i], 'u')
    flat[#flat + 1] = body
  end
  if #entries < count then
    break
  end
  from, to = string.format('%d', offset + 1), string.format('%d', offset - 1)
  left = left - count
end
return {newest, uid, 0, flat, floor}
