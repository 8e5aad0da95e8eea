-- Takes over entries whose owner let its lease run out.
-- KEYS: mark, ready, tasks
-- ARGV: group, consumer, lease_ms, count, ready_cursor, tasks_cursor, mark_ms
--   mark_ms: nobody else reclaims in this queue for so long
-- Reply: {pending}, flat pairs of consumer and how many entries of one stream it has; {pending, ready, tasks} unless
--   another process reclaims, each {next cursor, entries, ids that were deleted while pending}
-- Repeatable: what a lost reply took over is pending to us and is found there. The mark is ours if its value is our
--   name: a process may go on at once to follow its cursor. It ends by itself, so a crash leaves nothing behind.
local mark, ready, tasks = unpack(KEYS)
local group, consumer, lease_ms, count, ready_cursor, tasks_cursor, mark_ms = unpack(ARGV)

local function pending()
  local found = {}
  for _, stream in ipairs({ready, tasks}) do
    for _, owner in ipairs(redis.call('XPENDING', stream, group)[4] or {}) do
      found[#found + 1], found[#found + 2] = owner[1], tonumber(owner[2])
    end
  end
  return found
end

local holder = redis.call('GET', mark)
if holder and holder ~= consumer then return {pending()} end
redis.call('SET', mark, consumer, 'PX', mark_ms)
local function claim(stream, cursor)
  return redis.call('XAUTOCLAIM', stream, group, consumer, lease_ms, cursor, 'COUNT', count)
end
local from_ready, from_tasks = claim(ready, ready_cursor), claim(tasks, tasks_cursor)
return {pending(), from_ready, from_tasks}
