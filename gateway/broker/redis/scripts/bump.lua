-- Begin a new epoch, unless somebody has done so already. Epochs are numbered: a Redis that went back to an older one
-- has lost writes, too, and what was told in that one before must not be confirmed again.
-- KEYS: state   ARGV: known fresh
local function number(epoch)
  return tonumber(string.match(epoch or '', '^(%d+)%.')) or 0
end

despite_full_memory(KEYS[1])
local known = number(ARGV[1])
if number(redis.call('HGET', KEYS[1], 'e')) <= known then
  redis.call('HSET', KEYS[1], 'e', string.format('%d.%s', known + 1, ARGV[2]))
end
return 0
