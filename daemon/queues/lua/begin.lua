-- The task starts: its occupancy of the queue is released, once, and the pace of starts noted.
-- KEYS: stream, waiting, counter, pace
-- ARGV: group, entry_id, consumer, task_id, interval_max_ms, interval_first_ms, newest_weight, pace_ttl_s
--   interval_max_ms: an interval in which nobody waited says nothing of how fast the queue drains: it is cut to this
--   interval_first_ms: stands for the interval before the first start
--   newest_weight: of the newest interval in the mean
-- Reply: {owned, clamped}; owned 0: the entry is not pending to us, and nothing was changed
-- Repeatable: the occupancy is released once. ZREM comes first, so what follows is let through even when Redis is full.
local stream, waiting, counter, pace = unpack(KEYS)
local group, entry_id, consumer, task_id, interval_max_ms, interval_first_ms, newest_weight, pace_ttl_s = unpack(ARGV)

if not is_owner(stream, group, entry_id, consumer) then return {0, 0} end
local released, clamped = release_occupancy(waiting, counter, task_id)
if released == 0 then return {1, 0} end
local now = server_ms()
local last, mean = unpack(redis.call('HMGET', pace, 'last', 'mean'))
local interval = last and math.min(tonumber(interval_max_ms), math.max(0, now - last)) or tonumber(interval_first_ms)
mean = (1 - newest_weight) * (mean or interval) + newest_weight * interval
redis.call('HSET', pace, 'last', string.format('%d', now), 'mean', string.format('%.1f', mean))
redis.call('EXPIRE', pace, pace_ttl_s)
return {1, clamped}
