-- Takes a task that has ended before it ran out of its queue.
-- KEYS: retry, held, seen, tasks, reservation, waiting, counter, blobs…
-- ARGV: task_id, group, seen_ttl_s
-- Reply: {withdrawn, clamped}; withdrawn 0: it is pending or in :ready, and whoever reads it finds it ended
-- Repeatable: it is withdrawn once. One that was reserved for and that was not delivered leaves a `seen` behind, so
--   that its message is a duplicate when it comes. ZREM comes first, so that this runs when Redis is full.
local retry, held, seen, tasks, reservation, waiting, counter = unpack(KEYS, 1, 7)
local task_id, group, seen_ttl_s = unpack(ARGV)
local blobs = take(KEYS, 8)

local withdrawn = redis.call('ZREM', retry, task_id)
redis.call('HDEL', held, task_id)
local accepted = redis.call('GET', seen)
if accepted and withdrawn == 0 then
  local entry_id = string.match(accepted, '^(%d+%-%d+):')
  local pending = entry_id and redis.pcall('XPENDING', tasks, group, entry_id, entry_id, 1)
  if entry_id and (pending.err or #pending == 0) then withdrawn = redis.call('XDEL', tasks, entry_id) end
elseif not accepted then
  redis.call('SET', seen, '0-0:' .. (redis.call('GET', reservation) or ''), 'EX', seen_ttl_s)
  withdrawn = 1
end
if withdrawn == 0 then return {0, 0} end
return {1, finish_task(waiting, counter, task_id, blobs)}
