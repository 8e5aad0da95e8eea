-- Takes one task that has ended out of its queue, wherever it waits. KEYS: stream ('' entry: any), retry, held, waiting, counter, blobs….
-- ARGV: group, entry id ('' when it is parked), taskId. Reply: {taken, clamped}; taken 0: somebody reads it now, and will find it ended.
-- ZREM or XDEL comes first, so that this runs when Redis is full.
local taken
if ARGV[2] == '' then
  taken = redis.call('ZREM', KEYS[2], ARGV[3])
  redis.call('HDEL', KEYS[3], ARGV[3])
else
  local pending = redis.pcall('XPENDING', KEYS[1], ARGV[1], ARGV[2], ARGV[2], 1)
  if not pending.err and #pending > 0 then return {0, 0} end
  taken = redis.call('XDEL', KEYS[1], ARGV[2])
end
if taken == 0 then return {0, 0} end
local clamped = 0
if redis.call('ZREM', KEYS[4], ARGV[3]) == 1 and redis.call('DECR', KEYS[5]) < 0 then
  redis.call('INCR', KEYS[5])
  clamped = 1
end
for i = 6, #KEYS do redis.call('DEL', KEYS[i]) end
return {1, clamped}
