-- What the scripts of permits share, after redis_client/lua/prelude.lua. A limiter is a zset of permits, token ->
-- lease end (server ms), and a zset of waiters, oldest acceptance first. All keys carry the tag {guard}. A permit
-- that comes free is reserved for the oldest waiter as the token '~' .. waiter for a short while, so nobody overtakes
-- it on its way here; one that does not come costs that while and no more.

-- One time for the whole script.
local now = server_ms()

-- Keys outlive what is in them by so much; then they are garbage.
local SLACK_MS = 60000

-- Waiters that a permit was reserved for; the caller wakes them.
local woken = {}

-- How many permits are in use or reserved; those whose lease ran out are not.
local function permits_in_use(permits) return redis.call('ZCOUNT', permits, '(' .. now, '+inf') end

-- Whether the lease of this token runs.
local function holds(permits, token)
  local lease_end = redis.call('ZSCORE', permits, token)
  return lease_end and tonumber(lease_end) > now
end

-- A key lives as long as its longest lease: a shorter one beside it cuts nothing off.
local function keep_alive(key, ms)
  if redis.call('PTTL', key) < ms then redis.call('PEXPIRE', key, ms) end
end

-- The key of a limiter's waiters.
local function waiters_of(permits) return (string.gsub(permits, '^{guard}:', '{guard}:wait:', 1)) end

-- Notes a waiter as notified: it is expected here within `reservation_ms`.
local function notify(notified, waiter, reservation_ms)
  redis.call('ZADD', notified, now + reservation_ms, waiter)
  keep_alive(notified, 10 * SLACK_MS)
  woken[#woken + 1] = waiter
end

-- Reserves free permits for the oldest waiters; never more than `wake_max` are woken by one script.
local function reserve_for_waiters(permits, waiters, limit, notified, reservation_ms, wake_max)
  local free = limit - permits_in_use(permits)
  while free > 0 and #woken < wake_max do
    local waiter = redis.call('ZPOPMIN', waiters)[1]
    if not waiter then return end
    redis.call('ZADD', permits, now + reservation_ms, '~' .. waiter)
    keep_alive(permits, reservation_ms * 2)
    notify(notified, waiter, reservation_ms)
    free = free - 1
  end
end

-- The adaptive limit: what a model may run at once now, its ceiling, or less while it is in trouble (see
-- release_permits.lua).
local function adaptive_limit(slowdown, ceiling)
  local limit = tonumber(redis.call('HGET', slowdown, 'limit') or ceiling)
  return math.max(1, math.min(ceiling, math.floor(limit)))
end

-- Writes how far a rate is charged (GCRA: the theoretical arrival time, server ms); what is paid off needs no key.
local function charge_rate(rate, charged_until)
  local ttl_ms = math.ceil(charged_until - now) + SLACK_MS
  redis.call('SET', rate, string.format('%.3f', charged_until), 'PX', ttl_ms)
end
