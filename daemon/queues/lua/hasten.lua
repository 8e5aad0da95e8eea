-- Makes one delayed task due now. KEYS: retry, held, ready. ARGV: taskId. Reply: 1 moved, 0 it is not delayed, -1 its message is gone.
-- Straight to :ready, since the mover of a process sleeps until the time it knows. XADD comes first: a full Redis refuses all of it.
if not redis.call('ZSCORE', KEYS[1], ARGV[1]) then return 0 end
local entry = redis.call('HGET', KEYS[2], ARGV[1])
if not entry then return -1 end
redis.call('XADD', KEYS[3], '*', 'task', entry)
redis.call('ZREM', KEYS[1], ARGV[1])
redis.call('HDEL', KEYS[2], ARGV[1])
return 1
