-- Re-notifies waiters that missed their turn, and hands over permits that came free without a release (a holder
-- died).
-- KEYS: mark, cursor, notified, waits
-- ARGV: reservation_ms, mark_ms, page, wake_max
--   mark_ms: no other process sweeps for so long; it only learns whether somebody still waits
--   page: limiters that are looked at, about
-- Reply: {left, woken…}; left 0: nobody waits any more
-- Repeatable: the mark makes a second call do nothing; it ends by itself. The limiters behind `waits`
--   share its hash slot.
local mark, cursor, notified, waits = unpack(KEYS)
local reservation_ms, mark_ms, page, wake_max = unpack(ARGV)

local function left() return redis.call('HLEN', waits) + redis.call('ZCARD', notified) end
if left() == 0 or not redis.call('SET', mark, '1', 'NX', 'PX', mark_ms) then return {left()} end

for _, waiter in ipairs(redis.call('ZRANGEBYSCORE', notified, '-inf', now, 'LIMIT', 0, wake_max)) do
  redis.call('ZREM', notified, waiter)
  woken[#woken + 1] = waiter
end
local next_cursor, found = unpack(redis.call('HSCAN', waits, redis.call('GET', cursor) or '0', 'COUNT', page))
redis.call('SET', cursor, next_cursor, 'PX', SLACK_MS)
for _, limiter in ipairs((take_records(found, 1, {'permits', 'limit'}))) do
  local waiters = waiters_of(limiter.permits)
  if redis.call('EXISTS', waiters) == 0 then
    redis.call('HDEL', waits, limiter.permits)
  else
    local limit = tonumber(limiter.limit)
    reserve_for_waiters(limiter.permits, waiters, limit, notified, tonumber(reservation_ms), 2 * wake_max)
  end
end
return {left(), unpack(woken)}
