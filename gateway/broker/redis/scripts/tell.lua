-- Put one entry into the inbox of every node that is routed for one of some names, and of one more.
-- KEYS: state nodes route...   ARGV: inboxes bound head body node
-- Returns the nodes.
local routes = {}
for i = 3, #KEYS do
  routes[#routes + 1] = KEYS[i]
end
despite_full_memory(KEYS[1])
local told = {}
for _, node in ipairs(redis.call('SUNION', unpack(routes))) do
  told[node] = true
end
if ARGV[5] ~= '' then
  told[ARGV[5]] = true
end
local reply = {}
for node in pairs(told) do
  if alive(KEYS[2], node) then
    post(ARGV[1] .. node, ARGV[2], ARGV[3], ARGV[4])
    reply[#reply + 1] = node
  end
end
return reply
