-- How much lies where in one queue; changes nothing. KEYS: ready, tasks, retry, dead, counter, control. ARGV: group.
-- Reply: {waiting, running, delayed, dead, places, id time (ms) of the oldest entry that nobody has read or 0, control as a flat list}.
-- waiting = XLEN - XPENDING, never XINFO's lag, which is nil once entries are deleted.
local waiting, running, oldest = 0, 0, 0
for i = 1, 2 do
  local length = redis.call('XLEN', KEYS[i])
  local pending, last = 0, nil
  local groups = redis.pcall('XINFO', 'GROUPS', KEYS[i])
  if not groups.err then
    for _, group in ipairs(groups) do
      local known = {}
      for at = 1, #group, 2 do known[group[at]] = group[at + 1] end
      if known.name == ARGV[1] then pending, last = known.pending, known['last-delivered-id'] end
    end
  end
  running = running + pending
  if length > pending then
    waiting = waiting + length - pending
    local head = redis.call('XRANGE', KEYS[i], last and '(' .. last or '-', '+', 'COUNT', 1)[1]
    local at = head and tonumber(string.match(head[1], '^%d+')) or 0
    if at > 0 and (oldest == 0 or at < oldest) then oldest = at end
  end
end
return {waiting, running, redis.call('ZCARD', KEYS[3]), redis.call('XLEN', KEYS[4]), tonumber(redis.call('GET', KEYS[5]) or 0) or 0,
  oldest, redis.call('HGETALL', KEYS[6])}
