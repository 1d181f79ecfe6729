-- Remove the entries of an inbox before an id, and their bytes from the count of the inbox.
-- KEYS: state inbox
-- ARGV: node id bytes
--   bytes: of the large bodies (prelude.lua) before the id, the id's own apart; '' if the node does not know: then the
--   entries that are left are counted
-- Returns how many entries were removed.
local state, inbox = KEYS[1], KEYS[2]
local node, id, bytes = ARGV[1], ARGV[2], ARGV[3]

local removed = redis.call('XTRIM', inbox, 'MINID', id)
if bytes == '' then
  local left = 0
  for _, entry in ipairs(redis.call('XRANGE', inbox, '-', '+')) do
    left = left + counted_bytes(entry[2][4])
  end
  redis.call('HSET', state, inbox_bytes_field(node), left)
elseif removed > 0 then
  -- If nothing was removed, this call is repeated because its answer was lost, or the inbox was emptied meanwhile.
  redis.call('HINCRBY', state, inbox_bytes_field(node), '-' .. bytes)
end
return removed
