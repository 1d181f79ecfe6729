-- Append one entry to the inboxes of the given nodes, except for nodes that do not hold a lease.
-- KEYS: state nodes, then the inbox of each node
-- ARGV: inbox_limit head body node...
-- Returns the nodes whose inboxes have the entry.
write_despite_full_memory(KEYS[1])
local reached = {}
for i = 1, #ARGV - 3 do
  local inbox, node = KEYS[i + 2], ARGV[i + 3]
  if has_lease(KEYS[2], node) then
    append_to_inbox(KEYS[1], inbox, node, ARGV[1], ARGV[2], ARGV[3])
    reached[#reached + 1] = node
  end
end
return reached
