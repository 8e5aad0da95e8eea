-- Gives back the place of a message that will never come, once. KEYS: seen, waiting, counter, promise. ARGV: taskId.
-- Reply: {accepted, clamped}; accepted 1: the message came after all and keeps its place. ZREM comes first, so that this runs when Redis
-- is full. A bare INCR of a `counted` producer left no member to remove: the repair of drift takes that one back.
if redis.call('EXISTS', KEYS[1]) == 1 then return {1, 0} end
local clamped = 0
if redis.call('ZREM', KEYS[2], ARGV[1]) == 1 and redis.call('DECR', KEYS[3]) < 0 then
  redis.call('INCR', KEYS[3])
  clamped = 1
end
redis.call('DEL', KEYS[4])
return {0, clamped}
