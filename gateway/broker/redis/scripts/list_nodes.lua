-- List the nodes that hold a lease, and the record of each node.
-- KEYS: state nodes node_records
-- ARGV: tolerance, as of renew_lease.lua
-- Returns {node, record, node, record, ...}, in the order in which leases end; record is '' if a node has none.
local state, nodes, node_records = unpack(KEYS)

local now = now_ms() - clock_step(state, ARGV[1])
local live = redis.call('ZRANGEBYSCORE', nodes, '(' .. string.format('%d', now), '+inf')
local reply = {}
for i = 1, #live do
  reply[#reply + 1] = live[i]
  reply[#reply + 1] = redis.call('HGET', node_records, live[i]) or ''
end
return reply
