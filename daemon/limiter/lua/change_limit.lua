-- The limit of a limiter has changed: waiters that fit now are notified.
-- KEYS: notified, waits, permits, waiters
-- ARGV: limit, reservation_ms, wake_max
-- Reply: woken…
-- Repeatable: reserves only permits that are free.
local notified, waits, permits, waiters = unpack(KEYS)
local limit, reservation_ms, wake_max = unpack(ARGV)

if redis.call('EXISTS', waiters) == 0 then return {} end
redis.call('HSET', waits, permits, limit)
hand_over(permits, waiters, tonumber(limit), notified, tonumber(reservation_ms), tonumber(wake_max))
return woken
