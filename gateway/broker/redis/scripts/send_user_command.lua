-- Log a command for a user's connections, and append the command to the inbox of every node that is routed for the
-- user, and of the node that sends the command. Nodes that are away read the log when they return
-- (read_user_commands.lua).
-- KEYS: state nodes user_commands route...: the routes of the user
-- ARGV: inbox_prefix inbox_limit body node log_limit log_ttl
--   node: the node that sends the command; '' if it has no lease yet. log_ttl in milliseconds
-- Returns the nodes whose inboxes have the command.
local state, nodes, user_commands = unpack(KEYS)
local inbox_prefix, limit, body, own_node, log_limit, log_ttl = unpack(ARGV)

write_despite_full_memory(state)
local id = redis.call('XADD', user_commands, 'MAXLEN', '~', log_limit, '*', 'b', body)
redis.call('PEXPIRE', user_commands, log_ttl)
local receivers = {}
for _, node in ipairs(redis.call('SUNION', unpack(KEYS, 4))) do
  receivers[node] = true
end
if own_node ~= '' then
  receivers[own_node] = true
end
local reached = {}
for node in pairs(receivers) do
  if has_lease(nodes, node) then
    append_to_inbox(state, inbox_prefix .. node, node, limit, 'i ' .. id, body)
    reached[#reached + 1] = node
  end
end
return reached
