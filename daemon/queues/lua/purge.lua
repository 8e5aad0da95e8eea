-- Takes one task that has ended out of its queue, wherever it waits.
-- KEYS: stream, retry, held, waiting, counter, blobs…
-- ARGV: group, entry_id, task_id
--   entry_id: '' when the task is delayed; `stream` is then not looked at
-- Reply: {taken, clamped}; taken 0: a consumer has it and will find it ended
-- Repeatable: it is taken once. ZREM or XDEL comes first, so that this runs when Redis is full.
local stream, retry, held, waiting, counter = unpack(KEYS, 1, 5)
local group, entry_id, task_id = unpack(ARGV)
local blobs = take(KEYS, 6)

local taken
if entry_id == '' then
  taken = redis.call('ZREM', retry, task_id)
  redis.call('HDEL', held, task_id)
else
  local pending = redis.pcall('XPENDING', stream, group, entry_id, entry_id, 1)
  if not pending.err and #pending > 0 then return {0, 0} end
  taken = redis.call('XDEL', stream, entry_id)
end
if taken == 0 then return {0, 0} end
return {1, finish_task(waiting, counter, task_id, blobs)}
