-- A part of a channel's history, all of it or none.
-- KEYS: state meta log   ARGV: fresh meta_ttl since_offset since_uid limit size reverse
-- since_offset, limit and size may be ''. Returns {offset, uid, fault, {offset, uid, body, ...}, floor}; fault 1: trimmed,
-- 2: reset.
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

local top, uid, floor = stand(meta, log, state, fresh, meta_ttl)

-- Drop what is too old; each entry is dropped once, whoever comes first.
local now, count = now_ms(), 1
while true do
  local oldest = redis.call('XRANGE', log, '-', '+', 'COUNT', count)
  local old = 0
  while old < #oldest and tonumber(field(oldest[old + 1], 'x')) <= now do
    old = old + 1
  end
  if old == 0 then
    break
  end
  redis.call('XTRIM', log, 'MINID', string.format('%d', offset_of(oldest[old]) + 1))
  count = 100
end

local from, to = '-', '+'
if since ~= '' then
  local position, fault = tonumber(since), 0
  if position > top or position < floor or (position == top and since_uid ~= uid) then
    fault = 2
  elseif position < top then
    local after = string.format('%d-0', position + 1)
    local follower = redis.call('XRANGE', log, after, after)
    if #follower == 0 then
      fault = 1
    elseif field(follower[1], 'p') ~= since_uid then
      fault = 2
    end
  end
  if fault ~= 0 then
    return {top, uid, fault, {}, floor}
  end
  from = string.format('%d', position + 1)
  to = string.format('%d', math.max(0, position - 1))
end

-- A piece at a time, so that no more is looked at than is told.
local flat, left, room = {}, tonumber(limit) or math.huge, tonumber(size) or math.huge
while left > 0 do
  local count = math.min(left, 100)
  local piece
  if reverse == '1' then
    piece = redis.call('XREVRANGE', log, to, '-', 'COUNT', count)
  else
    piece = redis.call('XRANGE', log, from, '+', 'COUNT', count)
  end
  local offset
  for i = 1, #piece do
    local body = field(piece[i], 'b')
    room = room - #body
    if room < 0 and #flat > 0 then
      return {top, uid, 0, flat, floor}
    end
    offset = offset_of(piece[i])
    flat[#flat + 1] = offset
    flat[#flat + 1] = field(piece[i], 'u')
    flat[#flat + 1] = body
  end
  if #piece < count then
    break
  end
  from, to = string.format('%d', offset + 1), string.format('%d', offset - 1)
  left = left - count
end
return {top, uid, 0, flat, floor}
