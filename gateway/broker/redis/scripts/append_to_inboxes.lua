-- Append one entry to the inboxes of the given nodes, except for nodes that do not hold a lease.
-- KEYS: state nodes
-- ARGV: inbox_prefix inbox_limit head body node...
-- Returns the nodes whose inboxes have the entry.
write_despite_full_memory(KEYS[1])
local reached = {}
for i = 5, #ARGV do
  if has_lease(KEYS[2], ARGV[i]) then
    append_to_inbox(ARGV[1] .. ARGV[i], ARGV[2], ARGV[3], ARGV[4])
    reached[#reached + 1] = ARGV[i]
  end
end
return reached
