-- Delete the stored messages of a channel; the numbering continues. Subscribers get an entry `c`.
-- KEYS: state log route
-- ARGV: inbox_prefix inbox_limit channel
-- Returns 0.
write_despite_full_memory(KEYS[1])
redis.call('DEL', KEYS[2])
append_to_routed_inboxes(KEYS[1], KEYS[3], ARGV[1], ARGV[2], 'c ' .. ARGV[3], '')
return 0
