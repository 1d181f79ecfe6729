-- Put one entry into the inbox of each of some nodes, as far as they live.
-- KEYS: state nodes   ARGV: inboxes bound head body node...
-- Returns the nodes.
despite_full_memory(KEYS[1])
local reply = {}
for i = 5, #ARGV do
  if alive(KEYS[2], ARGV[i]) then
    post(ARGV[1] .. ARGV[i], ARGV[2], ARGV[3], ARGV[4])
    reply[#reply + 1] = ARGV[i]
  end
end
return reply
