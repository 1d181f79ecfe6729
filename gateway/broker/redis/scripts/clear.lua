-- Forget a channel's history; its numbering goes on.
-- KEYS: state log route   ARGV: inboxes bound channel
despite_full_memory(KEYS[1])
redis.call('DEL', KEYS[2])
tell(KEYS[3], ARGV[1], ARGV[2], 'c ' .. ARGV[3], '')
return 0
