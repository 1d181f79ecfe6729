-- Route a channel to a node; mark in its inbox where that begins, and tell the position at that moment.
-- KEYS: state beats meta log route nodes of names inbox
-- ARGV: node channel token bound fresh meta_ttl numbered listed
-- Returns {beat} or {beat, offset, uid}.
local state, beats, meta, log, route, nodes, of, names, inbox = unpack(KEYS)
local node, channel, token, bound, fresh, meta_ttl, numbered, listed = unpack(ARGV)

if not alive(nodes, node) then
  return redis.error_reply('FENCED the lease of ' .. node .. ' is gone')
end
local beat = redis.call('HINCRBY', beats, node, 1)
redis.call('SADD', route, node)
redis.call('SADD', of, channel)
if listed == '1' then
  redis.call('ZADD', names, 0, channel)
end
if numbered ~= '1' then
  post(inbox, bound, 's 0 - ' .. token .. ' ' .. channel, '')
  return {beat}
end
local offset, uid = stand(meta, log, state, fresh, meta_ttl)
keep(meta, meta_ttl)
post(inbox, bound, 's ' .. string.format('%d', offset) .. ' ' .. uid .. ' ' .. token .. ' ' .. channel, '')
return {beat, offset, uid}
