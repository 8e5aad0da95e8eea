-- Puts a task back that Redis has lost.
-- KEYS: retry, ready, mark
-- ARGV: task_id, entry, mark_ms
--   entry: JSON
-- Reply: 1 put back, 0 it is delayed, or somebody put it back just now
-- Repeatable: the mark keeps two rescuers, or one whose reply was lost, from doubling it. XADD is the first write: a
--   full Redis refuses all of it.
local retry, ready, mark = unpack(KEYS)
local task_id, entry, mark_ms = unpack(ARGV)

if redis.call('ZSCORE', retry, task_id) or redis.call('EXISTS', mark) == 1 then return 0 end
redis.call('XADD', ready, '*', 'task', entry)
redis.call('SET', mark, '1', 'PX', mark_ms)
return 1
