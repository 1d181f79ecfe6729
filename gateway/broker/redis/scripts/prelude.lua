-- Functions that several scripts share. The registry (registry.py) puts this file before each script, so that every
-- script is one source with one digest.
--
-- The keys and what they hold: gateway/broker/redis/keys.py and docs/redis.md#what-is-in-it.
-- The entries of an inbox: docs/redis.md#entries-of-an-inbox.
--
-- Redis runs a script as one step: no other command runs in between, and no write is undone. Numbers that may be
-- large are written with string.format('%d'), because Lua would write them as 1e+15.

-- The time by Redis' own clock, in Unix milliseconds: the nodes' clocks may differ.
local function now_ms()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

-- By how many milliseconds Redis' clock was stepped since the last renewal of any lease; 0 if it was not. A renewal
-- follows the last one after at most `tolerance` milliseconds, so a longer time, or a negative one, is a step. What is
-- subtracted from now_ms() when leases are compared.
local function clock_step(state, tolerance)
  local last = redis.call('HGET', state, 't')
  local step = last and now_ms() - tonumber(last) or 0
  return (step < 0 or step > tonumber(tolerance)) and step or 0
end

-- Let the script write although Redis is out of memory. Redis rejects a script if its first write needs memory; after a
-- first write that needs no memory, Redis rejects no later write. So scripts that must succeed in any case (a lease, a
-- leave) begin with this function.
local function write_despite_full_memory(key)
  redis.call('PERSIST', key)
end

-- Whether a node holds a lease. A reaped node must not be routed under the same id again: no other node would remove
-- these routes. An expiry of 0 means that the node is being reaped.
local function has_lease(nodes, node)
  local expiry = redis.call('ZSCORE', nodes, node)
  return expiry and tonumber(expiry) > 0
end

-- The field of `state` that says that a node was reaped: the node's beat at that time, and until when to remember it.
-- It is not a separate key, because a live node has no such entry, and a Cluster rejects a script that names a missing
-- key while the slot is moved.
local function reaped_field(node)
  return 'gone:' .. node
end

-- The beat that a node had when it was reaped; nil if it was not reaped, or too long ago to be remembered.
local function beat_when_reaped(state, node)
  local beat, until_ms = string.match(redis.call('HGET', state, reaped_field(node)) or '', '^(%d+) (%d+)$')
  return until_ms and tonumber(until_ms) > now_ms() and tonumber(beat) or nil
end

-- An inbox is bounded in entries, and in bytes: BYTES_PER_ENTRY for each entry that it may have. Bodies of up to
-- LARGE_BODY bytes are bounded by the number of entries, and are not counted. Python reads these two numbers
-- (registry.py).
local LARGE_BODY, BYTES_PER_ENTRY = 1024, 640

-- The fields of `state` with the bytes of an inbox's large bodies, and how often the inbox was emptied.
local function inbox_bytes_field(node)
  return 'in:' .. node
end

local function inbox_emptied_field(node)
  return 'emptied:' .. node
end

local function counted_bytes(body)
  return #body > LARGE_BODY and #body or 0
end

-- Append an entry to the inbox of a node. An inbox with too many bytes is emptied: its node finds that out, and recovers
-- every channel from history.
local function append_to_inbox(state, inbox, node, limit, head, body)
  if #body > LARGE_BODY then
    local bytes = redis.call('HINCRBY', state, inbox_bytes_field(node), #body)
    if bytes > limit * BYTES_PER_ENTRY then
      -- Not deleted, because a stream that is created again might begin with an id before the reader's cursor.
      redis.call('XTRIM', inbox, 'MAXLEN', 0)
      redis.call('HSET', state, inbox_bytes_field(node), #body)
      redis.call('HINCRBY', state, inbox_emptied_field(node), 1)
    end
  end
  redis.call('XADD', inbox, 'MAXLEN', '~', limit, '*', 'h', head, 'b', body)
end

-- Append an entry to the inbox of every node that is routed for a channel.
local function append_to_routed_inboxes(state, route, inbox_prefix, limit, head, body)
  local nodes = redis.call('SMEMBERS', route)
  for i = 1, #nodes do
    append_to_inbox(state, inbox_prefix .. nodes[i], nodes[i], limit, head, body)
  end
end

-- Add `by` to the number of connections that a member's user has in a channel. The user is the first line of a packed
-- member (codec.py, pack_member), still encoded as JSON.
local function add_to_user_count(user_counts, member, by)
  local user = string.match(member, '^%[([^\n]*),\n')
  if redis.call('HINCRBY', user_counts, user, by) == 0 then
    redis.call('HDEL', user_counts, user)
  end
end

-- The user, the connection and the info of a packed member, each still encoded as JSON.
local function parts_of(member)
  return string.match(member, '^%[([^\n]*),\n%[("[^"]*"),(.*)%]%]$')
end

-- The id of the connection under which a packed member is listed.
local function listed_connection(member)
  local _, connection = parts_of(member)
  return string.sub(connection, 2, -2)
end

-- A packed member, listed under the connection of `old`.
local function listed_as(member, old)
  local user, _, info = parts_of(member)
  local _, connection = parts_of(old)
  return '[' .. user .. ',\n[' .. connection .. ',' .. info .. ']]'
end

-- A member whose connection has ended, and whose user may return, belongs to no node: instead of a node its entry in
-- `members` has the token of its grace. The id of no node ends with a tilde.
local function absent_owner(token)
  return token .. '~'
end

local function is_absent(owner)
  return string.sub(owner, -1) == '~'
end

-- The field of `absences` for all absent members of one user with one info; it holds the connections, each behind a
-- blank.
local function absences_field(member)
  local user, _, info = parts_of(member)
  return redis.sha1hex(user .. '\n' .. info)
end

-- The connection of an absent member with the same user and info; nil if there is none.
local function first_absent(absences, member)
  return string.match(redis.call('HGET', absences, absences_field(member)) or '', '^ (%S+)')
end

local function begin_absence(absences, graces, connection, channel, member, grace)
  local field = absences_field(member)
  redis.call('HSET', absences, field, (redis.call('HGET', absences, field) or '') .. ' ' .. connection)
  redis.call('ZADD', graces, string.format('%d', now_ms() + grace), connection .. ' ' .. channel)
end

local function end_absence(absences, graces, connection, channel, member)
  local field, rest = absences_field(member), ''
  for each in string.gmatch(redis.call('HGET', absences, field) or '', '%S+') do
    if each ~= connection then
      rest = rest .. ' ' .. each
    end
  end
  if rest == '' then
    redis.call('HDEL', absences, field)
  else
    redis.call('HSET', absences, field, rest)
  end
  redis.call('ZREM', graces, connection .. ' ' .. channel)
end

-- The position of a channel, created if it does not exist: offset and uid of the newest message, and the floor, the
-- offset below which no position is confirmed. If the position is of an older epoch, Redis has lost writes since
-- then: the numbering continues, with a uid that no client has, and the floor rises to the present offset.
-- `fresh` is a new uid, `ttl` in milliseconds.
local function current_position(meta, log, state, fresh, ttl)
  local epoch = redis.call('HGET', state, 'e')
  local found = redis.call('HMGET', meta, 'o', 'u', 'e', 'f')
  if epoch and found[3] == epoch then
    return tonumber(found[1]), found[2], tonumber(found[4])
  end
  -- Not called earlier, because a history can be read even while Redis accepts no writes. A publish that needs more
  -- memory was rejected before this line: its script has already written.
  write_despite_full_memory(state)
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

-- Extend the TTL of a channel's position to at least `ttl` milliseconds.
local function extend_ttl(meta, ttl)
  if redis.call('PTTL', meta) < tonumber(ttl) then
    redis.call('PEXPIRE', meta, ttl)
  end
end
