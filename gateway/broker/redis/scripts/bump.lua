-- Begin a new epoch, unless somebody has done so already.
-- KEYS: state   ARGV: known fresh
despite_full_memory(KEYS[1])
if redis.call('HGET', KEYS[1], 'e') == ARGV[1] then
  redis.call('HSET', KEYS[1], 'e', ARGV[2])
end
return 0
