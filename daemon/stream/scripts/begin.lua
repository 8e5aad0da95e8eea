-- The task starts: its place in the queue is given back, once. KEYS: stream, waiting, counter. ARGV: group, id, consumer, taskId.
-- Reply: {owned, clamped}. owned 0: the entry is no longer pending to us, nothing was changed. ZREM comes first, so the DECR after it
-- is let through even when Redis is full. A counter that would fall below zero is clamped and the clamp counted by the caller.
local entry = redis.call('XPENDING', KEYS[1], ARGV[1], ARGV[2], ARGV[2], 1)[1]
if not entry or entry[2] ~= ARGV[3] then return {0, 0} end
local clamped = 0
if redis.call('ZREM', KEYS[2], ARGV[4]) == 1 and redis.call('DECR', KEYS[3]) < 0 then
  redis.call('INCR', KEYS[3])
  clamped = 1
end
return {1, clamped}
