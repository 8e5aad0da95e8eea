-- Settles an entry: XACK + XDEL, only if it is pending to us. KEYS: stream, waiting, counter, blobs…. ARGV: group, id, consumer, taskId,
-- whole (1: the task is over, so its place, if it still has one, is given back and its blobs go; 0: only this entry goes).
-- Reply: {owned, clamped}. XACK comes first, so that it runs when Redis is full.
local entry = redis.call('XPENDING', KEYS[1], ARGV[1], ARGV[2], ARGV[2], 1)[1]
if not entry or entry[2] ~= ARGV[3] then return {0, 0} end
redis.call('XACK', KEYS[1], ARGV[1], ARGV[2])
redis.call('XDEL', KEYS[1], ARGV[2])
local clamped = 0
if ARGV[5] == '1' then
  if redis.call('ZREM', KEYS[2], ARGV[4]) == 1 and redis.call('DECR', KEYS[3]) < 0 then
    redis.call('INCR', KEYS[3])
    clamped = 1
  end
  for i = 4, #KEYS do redis.call('DEL', KEYS[i]) end
end
return {1, clamped}
