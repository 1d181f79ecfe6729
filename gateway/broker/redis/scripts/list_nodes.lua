-- List the nodes that hold a lease, and the record of each node.
-- KEYS: nodes node_records
-- Returns {node, record, node, record, ...}, in the order in which leases end; record is '' if a node has none.
local live = redis.call('ZRANGEBYSCORE', KEYS[1], '(' .. string.format('%d', now_ms()), '+inf')
local reply = {}
for i = 1, #live do
  reply[#reply + 1] = live[i]
  reply[#reply + 1] = redis.call('HGET', KEYS[2], live[i]) or ''
end
return reply
