-- Moves one parked task to :ready because a place is kept for it. KEYS: retry, held, ready, woken. ARGV: taskId, mark_ms.
-- Reply: 1 moved, 0 it is not parked: it may be on its way to being parked, so a mark tells `park` not to let it sleep.
local entry = redis.call('ZSCORE', KEYS[1], ARGV[1]) and redis.call('HGET', KEYS[2], ARGV[1])
if not entry then
  redis.call('SET', KEYS[4], '1', 'PX', ARGV[2])
  return 0
end
redis.call('XADD', KEYS[3], '*', 'task', entry)
redis.call('ZREM', KEYS[1], ARGV[1])
redis.call('HDEL', KEYS[2], ARGV[1])
return 1
