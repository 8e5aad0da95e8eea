-- Takes over entries whose owner let its lease run out.
-- KEYS: mark, ready, tasks
-- ARGV: group, consumer, lease_ms, count, ready_cursor, tasks_cursor, mark_ms
--   mark_ms: nobody else reclaims in this queue for so long
-- Reply: false while another process does, else {ready, tasks}, each {next cursor, entries, ids that were deleted
--   while pending}
-- Repeatable: what a lost reply took over is pending to us and is found there. The mark is ours if its value is our
--   name: a process may go on at once to follow its cursor. It ends by itself, so a crash leaves nothing behind.
local mark, ready, tasks = unpack(KEYS)
local group, consumer, lease_ms, count, ready_cursor, tasks_cursor, mark_ms = unpack(ARGV)

local holder = redis.call('GET', mark)
if holder and holder ~= consumer then return false end
redis.call('SET', mark, consumer, 'PX', mark_ms)
local function claim(stream, cursor)
  return redis.call('XAUTOCLAIM', stream, group, consumer, lease_ms, cursor, 'COUNT', count)
end
return {claim(ready, ready_cursor), claim(tasks, tasks_cursor)}
