"""The Lua scripts of the trajectory queue: what must happen as a whole or not at all.

Redis that is full refuses the first write of a script if it may need memory, and no later one. So a script that must
work then (acknowledging is how memory gets free) begins with a write that needs none, and one that adds, with one that
does.

In `known` the value of a group id is "STEP ENTRY": its training step, and its entry in the stream.
"""

from __future__ import annotations

_ENTRY_OF = """
local function entry_of(value) return string.match(value, ' (.+)$') end
"""

_DELETE_DEAD_LETTER = """
local function delete_dead_letter(dead, group_id)
  for _, letter in ipairs(redis.call('XRANGE', dead, '-', '+')) do
    if letter[2][2] == group_id then return redis.call('XDEL', dead, letter[1]) end
  end
  return 0
end
"""

# KEYS known, groups, body, floor, leases, holders; ARGV consumer group, group id, body, step, version, bytes, sha256.
# Answers 1 where the group was added.
PUBLISH = """
local known, groups, body, floor, leases, holders = unpack(KEYS)
local group_id, step = ARGV[2], ARGV[4]
local is_known = redis.call('HEXISTS', known, group_id) == 1
local is_new = not is_known and tonumber(step) >= tonumber(redis.call('GET', floor) or 0)
if is_new then
  redis.call('SET', body, ARGV[3])
  if redis.call('EXISTS', groups) == 0 then redis.call('XGROUP', 'CREATE', groups, ARGV[1], '0', 'MKSTREAM') end
  local entry = redis.call('XADD', groups, '*', 'group_id', group_id, 'step', step, 'version', ARGV[5],
                           'bytes', ARGV[6], 'sha256', ARGV[7])
  redis.call('HSET', known, group_id, step .. ' ' .. entry)
end
redis.call('ZREM', leases, group_id)
redis.call('HDEL', holders, group_id)
return is_new and 1 or 0
"""

# KEYS known, groups, then bodies; ARGV consumer group, then group ids.
ACKNOWLEDGE = (
    _ENTRY_OF
    + """
local known, groups = KEYS[1], KEYS[2]
for i = 2, #ARGV do
  local value = redis.call('HGET', known, ARGV[i])
  if value then
    redis.call('XACK', groups, ARGV[1], entry_of(value))
    redis.call('XDEL', groups, entry_of(value))
    redis.call('DEL', KEYS[i + 1])
  end
end
"""
)

# KEYS known, groups, dead; ARGV consumer group, group id, reason.
DEAD_LETTER = (
    _ENTRY_OF
    + """
local known, groups, dead = unpack(KEYS)
local value = redis.call('HGET', known, ARGV[2])
local found = value and redis.call('XRANGE', groups, entry_of(value), entry_of(value)) or {}
if #found == 0 then return end
redis.call('XACK', groups, ARGV[1], entry_of(value))
redis.call('XDEL', groups, entry_of(value))
local fields = found[1][2]
table.insert(fields, 'reason')
table.insert(fields, ARGV[3])
redis.call('XADD', dead, '*', unpack(fields))
"""
)

# KEYS groups, dead; ARGV consumer group. A script, and no transaction: a Redis that is full refuses any.
SIZES = """
local groups, dead = unpack(KEYS)
if redis.call('EXISTS', groups) == 0 then return {0, 0, redis.call('XLEN', dead)} end
return {redis.call('XLEN', groups), redis.call('XPENDING', groups, ARGV[1])[1], redis.call('XLEN', dead)}
"""

# KEYS floor; ARGV step.
RAISE_FLOOR = """
local step = ARGV[1]
if tonumber(step) > tonumber(redis.call('GET', KEYS[1]) or 0) then
  redis.call('DEL', KEYS[1])
  redis.call('SET', KEYS[1], step)
end
"""

# KEYS known, groups, then bodies; ARGV consumer group, then group ids. The body of a dead letter stays.
FORGET = (
    _ENTRY_OF
    + """
local known, groups = KEYS[1], KEYS[2]
for i = 2, #ARGV do
  local value = redis.call('HGET', known, ARGV[i])
  if value then
    redis.call('XACK', groups, ARGV[1], entry_of(value))
    if redis.call('XDEL', groups, entry_of(value)) == 1 then redis.call('DEL', KEYS[i + 1]) end
    redis.call('HDEL', known, ARGV[i])
  end
end
"""
)

# KEYS known, groups, dead, floor, leases, next, then bodies; ARGV lowest step, then group ids. Answers those reopened.
REOPEN = (
    _ENTRY_OF
    + _DELETE_DEAD_LETTER
    + """
local known, groups, dead, floor, leases, next_slot = unpack(KEYS, 1, 6)
local reopened = {}
for i = 2, #ARGV do
  local group_id = ARGV[i]
  local value = redis.call('HGET', known, group_id)
  if not value or #redis.call('XRANGE', groups, entry_of(value), entry_of(value)) == 0 then
    redis.call('HDEL', known, group_id)
    delete_dead_letter(dead, group_id)
    redis.call('DEL', KEYS[i + 5])
    if redis.call('EXISTS', next_slot) == 1 and not redis.call('ZSCORE', leases, group_id) then
      redis.call('ZADD', leases, 0, group_id)
    end
    table.insert(reopened, group_id)
  end
end
if tonumber(ARGV[1]) < tonumber(redis.call('GET', floor) or 0) then
  redis.call('DEL', floor)
  redis.call('SET', floor, ARGV[1])
end
return reopened
"""
)

# KEYS known, groups, dead, leases, body; ARGV consumer group, group id, id of the slot's next attempt. Answers 1 where
# the group was there to be given back.
GIVE_BACK = (
    _ENTRY_OF
    + _DELETE_DEAD_LETTER
    + """
local known, groups, dead, leases, body = unpack(KEYS)
local value = redis.call('HGET', known, ARGV[2])
if not value then return 0 end
redis.call('XACK', groups, ARGV[1], entry_of(value))
local deleted = redis.call('XDEL', groups, entry_of(value))
if deleted == 0 then deleted = delete_dead_letter(dead, ARGV[2]) end
if deleted == 0 then return 0 end
redis.call('DEL', body)
if redis.call('HEXISTS', known, ARGV[3]) == 0 and not redis.call('ZSCORE', leases, ARGV[3]) then
  redis.call('ZADD', leases, 0, ARGV[3])
end
return 1
"""
)

# KEYS next; ARGV number of a slot.
OPEN_SLOTS = """
if redis.call('EXISTS', KEYS[1]) == 0 then redis.call('SET', KEYS[1], ARGV[1]) end
"""

_NOW_MS = """
local function now_ms()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end
"""

# KEYS next, leases, holders, known; ARGV run id, consumer, lease in ms, count, limit, prompts per step. Answers group
# ids; nil where no slots are open.
RESERVE = (
    _NOW_MS
    + """
local next_slot, leases, holders, known = unpack(KEYS)
local count, limit, prompts = tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6])
local first = tonumber(redis.call('GET', next_slot) or -1)
if first < 0 then return nil end
local now = now_ms()
local found = redis.call('ZRANGEBYSCORE', leases, '-inf', now, 'LIMIT', 0, count)
local number = first
while #found < count and number < limit do
  local group_id = string.format('%s-s%06d-g%03d', ARGV[1], math.floor(number / prompts), number % prompts)
  if redis.call('HEXISTS', known, group_id) == 0 and not redis.call('ZSCORE', leases, group_id) then
    table.insert(found, group_id)
  end
  number = number + 1
end
for _, group_id in ipairs(found) do
  redis.call('ZADD', leases, now + ARGV[3], group_id)
  redis.call('HSET', holders, group_id, ARGV[2])
end
if number > first then redis.call('SET', next_slot, number) end
return found
"""
)

# KEYS leases, holders; ARGV consumer, lease in ms, then group ids. Answers those that the consumer still holds.
RENEW = (
    _NOW_MS
    + """
local leases, holders = unpack(KEYS)
local held = {}
for i = 3, #ARGV do
  if redis.call('HGET', holders, ARGV[i]) == ARGV[1] then
    redis.call('ZREM', leases, ARGV[i])
    redis.call('ZADD', leases, now_ms() + ARGV[2], ARGV[i])
    table.insert(held, ARGV[i])
  end
end
return held
"""
)

# KEYS leases, holders; ARGV consumer.
RELEASE = """
local leases, holders = unpack(KEYS)
local all = redis.call('HGETALL', holders)
for i = 1, #all, 2 do
  if all[i + 1] == ARGV[1] then
    redis.call('HDEL', holders, all[i])
    redis.call('ZREM', leases, all[i])
    redis.call('ZADD', leases, 0, all[i])
  end
end
"""
