-- Makes one delayed task run now.
-- KEYS: retry, held, ready
-- ARGV: task_id
-- Reply: 1 moved, 0 it is not delayed, -1 its message is gone
-- Repeatable: it is moved once. Straight to :ready, since the retry scheduler of a process sleeps until the time it
--   knows. XADD comes first: a full Redis refuses all of it.
local retry, held, ready = unpack(KEYS)
local task_id = ARGV[1]

if not redis.call('ZSCORE', retry, task_id) then return 0 end
local entry = redis.call('HGET', held, task_id)
if not entry then return -1 end
run_delayed(retry, held, ready, task_id, entry)
return 1
