-- What several scripts share; put before each of them.

local function now_ms()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

-- Redis refuses the first write of a script when it is out of memory, and none after one that frees some. What
-- must go through all the same (a lease, a leave) begins with a write that needs none.
local function despite_full_memory(key)
  redis.call('PERSIST', key)
end

-- A node whose lease has gone must not be routed for again under its old id: nobody would ever clean up.
local function alive(nodes, node)
  local expiry = redis.call('ZSCORE', nodes, node)
  return expiry and tonumber(expiry) > 0
end

-- That a node was cleaned up after stands in `state`: in a slot of a Cluster that is about to move, a script that names
-- a key which is not there is refused, and a node that lives has no tombstone.
local function tombstone(node)
  return 'gone:' .. node
end

-- How much a node had written when it was cleaned up after; nil where it was not, or so long ago that it is forgotten.
local function buried(state, node)
  local written, forgotten = string.match(redis.call('HGET', state, tombstone(node)) or '', '^(%d+) (%d+)$')
  return forgotten and tonumber(forgotten) > now_ms() and tonumber(written) or nil
end

local function post(inbox, bound, head, body)
  redis.call('XADD', inbox, 'MAXLEN', '~', bound, '*', 'h', head, 'b', body)
end

local function tell(route, inboxes, bound, head, body)
  local nodes = redis.call('SMEMBERS', route)
  for i = 1, #nodes do
    post(inboxes .. nodes[i], bound, head, body)
  end
end

-- A member came to a channel, or left it: its user, who stands in the first line, has a connection more or less there.
local function count(users, member, by)
  local user = string.match(member, '^%[([^\n]*),\n')
  if redis.call('HINCRBY', users, user, by) == 0 then
    redis.call('HDEL', users, user)
  end
end

-- Where a channel stands: offset and uid of its newest message, and the offset below which nothing is confirmed.
-- A channel of an older epoch goes on with its numbers, under a uid that nobody holds: the store has lost writes.
local function stand(meta, log, state, fresh, ttl)
  local epoch = redis.call('HGET', state, 'e')
  local found = redis.call('HMGET', meta, 'o', 'u', 'e', 'f')
  if epoch and found[3] == epoch then
    return tonumber(found[1]), found[2], tonumber(found[4])
  end
  -- Only here, as a Redis that takes no writes at all is read, too. Whoever has more kept was refused before.
  despite_full_memory(state)
  if not epoch then
    epoch = '0.' .. fresh
    redis.call('HSET', state, 'e', epoch)
  end
  if not found[1] then
    redis.call('DEL', log)
    redis.call('HSET', meta, 'o', 0, 'u', fresh, 'e', epoch, 'f', 0)
    redis.call('PEXPIRE', meta, ttl)
    return 0, fresh, 0
  end
  redis.call('HSET', meta, 'u', fresh, 'e', epoch, 'f', found[1])
  return tonumber(found[1]), fresh, tonumber(found[1])
end

local function keep(meta, ttl)
  if redis.call('PTTL', meta) < tonumber(ttl) then
    redis.call('PEXPIRE', meta, ttl)
  end
end
