-- Begin a new epoch of the shard because Redis has lost writes, unless another node has already begun a new epoch.
-- Epochs are numbered: if Redis went back to an older epoch, it has lost writes as well, and positions that were
-- returned in the older epoch must not be confirmed again.
-- KEYS: state
-- ARGV: known fresh: the epoch that the node knows, and a new uid
-- Returns 0.
local function number_of(epoch)
  return tonumber(string.match(epoch or '', '^(%d+)%.')) or 0
end

write_despite_full_memory(KEYS[1])
local known = number_of(ARGV[1])
if number_of(redis.call('HGET', KEYS[1], 'e')) <= known then
  redis.call('HSET', KEYS[1], 'e', string.format('%d.%s', known + 1, ARGV[2]))
end
return 0
