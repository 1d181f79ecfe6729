-- Keep one instruction, and put it into the inbox of every node that is routed for one of some names, and of one more.
-- KEYS: state nodes said route...   ARGV: inboxes bound body node kept remembered
-- Returns the nodes. The others read what was kept once they are back.
local state, nodes, said = unpack(KEYS)
local inboxes, bound, body, own, kept, remembered = unpack(ARGV)

despite_full_memory(state)
local id = redis.call('XADD', said, 'MAXLEN', '~', kept, '*', 'b', body)
redis.call('PEXPIRE', said, remembered)
local told = {}
for _, node in ipairs(redis.call('SUNION', unpack(KEYS, 4))) do
  told[node] = true
end
if own ~= '' then
  told[own] = true
end
local reply = {}
for node in pairs(told) do
  if alive(nodes, node) then
    post(inboxes .. node, bound, 'i ' .. id, body)
    reply[#reply + 1] = node
  end
end
return reply
