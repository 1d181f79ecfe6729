-- List the nodes that hold a lease, and what each of them reports about itself.
-- KEYS: nodes node_records
-- Returns {node, record, node, record, ...}, by the end of their leases; the record is '' where there is none.
local live = redis.call('ZRANGEBYSCORE', KEYS[1], '(' .. string.format('%d', now_ms()), '+inf')
local reply = {}
for i = 1, #live do
  reply[#reply + 1] = live[i]
  reply[#reply + 1] = redis.call('HGET', KEYS[2], live[i]) or ''
end
return reply
