-- The task starts: its place in the queue is given back, once, and the pace of starts noted. KEYS: stream, waiting, counter, pace.
-- ARGV: group, id, consumer, taskId. Reply: {owned, clamped}. owned 0: the entry is no longer pending to us, nothing was changed. ZREM
-- comes first, so what follows is let through even when Redis is full. A counter that would fall below zero is clamped and the clamp
-- counted by the caller.
local entry = redis.call('XPENDING', KEYS[1], ARGV[1], ARGV[2], ARGV[2], 1)[1]
if not entry or entry[2] ~= ARGV[3] then return {0, 0} end
if redis.call('ZREM', KEYS[2], ARGV[4]) == 0 then return {1, 0} end
local clamped = 0
if redis.call('DECR', KEYS[3]) < 0 then
  redis.call('INCR', KEYS[3])
  clamped = 1
end
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
local last, mean = unpack(redis.call('HMGET', KEYS[4], 'last', 'mean'))
-- An interval in which nobody waited says nothing of how fast the queue drains: it is cut to a minute.
local interval = last and math.min(60000, math.max(0, now - last)) or 1000
redis.call('HSET', KEYS[4], 'last', string.format('%d', now), 'mean', string.format('%.1f', 0.9 * (mean or interval) + 0.1 * interval))
redis.call('EXPIRE', KEYS[4], 86400)
return {1, clamped}
