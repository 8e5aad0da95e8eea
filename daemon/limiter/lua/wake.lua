-- Moves one delayed task to :ready because a permit is reserved for it.
-- KEYS: retry, held, ready, woken_mark
-- ARGV: task_id, mark_ms
-- Reply: 1 moved, 0 it is not delayed: it may be on its way there, so a mark tells snooze.lua not to let it sleep
-- Repeatable: it is moved once. XADD comes first: a full Redis refuses all of it.
local retry, held, ready, woken_mark = unpack(KEYS)
local task_id, mark_ms = unpack(ARGV)

local entry = redis.call('ZSCORE', retry, task_id) and redis.call('HGET', held, task_id)
if not entry then
  redis.call('SET', woken_mark, '1', 'PX', mark_ms)
  return 0
end
run_delayed(retry, held, ready, task_id, entry)
return 1
