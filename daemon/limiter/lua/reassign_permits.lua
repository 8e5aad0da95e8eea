-- Hands permits on that nobody releases: owners are proved dead, or a limit has changed.
-- KEYS: notified, waits, limiters[permits, waiters]…
-- ARGV: reservation_ms, wake_max, taken_ms, limiters_count, dead_count, limits…, dead…, taken…
--   dead: nonces of owners that are proved dead; each begins the second part of their tokens (task id:nonce…)
--   taken: tasks that were taken over, as waiters (queue/task id): what a dead owner held for one of them, a permit or
--     the probe, is reserved for it for `taken_ms`
-- Reply: woken…
-- Repeatable: a dead owner's permit is taken from it once; reserves only permits that are free.
local notified, waits = unpack(KEYS, 1, 2)
local reservation_ms, wake_max, taken_ms, limiters_count, dead_count = unpack(ARGV, 1, 5)
local limiters = take_records(KEYS, 3, {'permits', 'waiters'}, limiters_count)
local limits, dead_at = take(ARGV, 6, limiters_count)
local dead, taken_at = take(ARGV, dead_at, dead_count)
local taken = take(ARGV, taken_at)

local is_dead, waiter_of = {}, {}
for _, nonce in ipairs(dead) do is_dead[nonce] = true end
for _, waiter in ipairs(taken) do waiter_of[string.match(waiter, '[^/]*$')] = waiter end

local function free(permits)
  for _, token in ipairs(redis.call('ZRANGE', permits, 0, -1)) do
    local task_id, nonce = string.match(token, '^([^:]+):(%x%x%x%x%x%x%x%x)')
    if is_dead[nonce] then
      redis.call('ZREM', permits, token)
      if waiter_of[task_id] then
        redis.call('ZADD', permits, now + taken_ms, '~' .. waiter_of[task_id])
        keep_alive(permits, tonumber(taken_ms))
      end
    end
  end
end

for i, limiter in ipairs(limiters) do
  if #dead > 0 then free(limiter.permits) end
  if redis.call('EXISTS', limiter.waiters) == 1 then
    redis.call('HSET', waits, limiter.permits, limits[i])
    reserve_for_waiters(limiter.permits, limiter.waiters, tonumber(limits[i]), notified, tonumber(reservation_ms),
      tonumber(wake_max))
  end
end
return woken
