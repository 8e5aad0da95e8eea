-- How much lies where in one queue.
-- KEYS: ready, tasks, retry, dead, counter, control
-- ARGV: group
-- Reply: {waiting, running, delayed, dead, occupancy, id time (ms) of the oldest entry that nobody has read or 0,
--   control as a flat list}
-- Repeatable: changes nothing. waiting = XLEN - XPENDING, never XINFO's lag, which is nil once entries are deleted.
local ready, tasks, retry, dead, counter, control = unpack(KEYS)
local group = ARGV[1]

local waiting, running, oldest_ms = 0, 0, 0
for _, stream in ipairs({ready, tasks}) do
  local length, info = redis.call('XLEN', stream), group_info(stream, group)
  local pending = info and info.pending or 0
  running = running + pending
  if length > pending then
    waiting = waiting + length - pending
    local unread = info and '(' .. info['last-delivered-id'] or '-'
    local head = redis.call('XRANGE', stream, unread, '+', 'COUNT', 1)[1]
    local head_ms = head and tonumber(string.match(head[1], '^%d+')) or 0
    if head_ms > 0 and (oldest_ms == 0 or head_ms < oldest_ms) then oldest_ms = head_ms end
  end
end
local taken = tonumber(redis.call('GET', counter) or 0) or 0
local delayed, letters = redis.call('ZCARD', retry), redis.call('XLEN', dead)
return {waiting, running, delayed, letters, taken, oldest_ms, redis.call('HGETALL', control)}
