-- What the live nodes say of themselves.
-- KEYS: nodes figures
-- Returns {node, record, ...}, those whose lease is newest last.
local live = redis.call('ZRANGEBYSCORE', KEYS[1], '(' .. string.format('%d', now_ms()), '+inf')
local reply = {}
for i = 1, #live do
  reply[#reply + 1] = live[i]
  reply[#reply + 1] = redis.call('HGET', KEYS[2], live[i]) or ''
end
return reply
