-- Reserves occupancy of a queue for a task before its message is published.
-- KEYS: seen, waiting, counter, control, reservation, pace
-- ARGV: task_id, sha256, max_size, record_ttl_ms, reservation_ttl_ms, seen_prefix, takes_occupancy
--   max_size: capacity of the queue, unless its control hash says another number
--   record_ttl_ms: the hash of the body is kept so long
--   seen_prefix: of the `seen` keys; their ids are known only here, and they share the hash slot of KEYS
--   takes_occupancy: 0 keep the body's hash only, as a delayed message is counted at delivery
-- Reply: {'promised', position}, {'duplicate', entry id}, {'conflict', entry id or ''} or {'full', occupancy,
--   limit, ms until there is room (-1: unknown)}
-- Repeatable: a repeated call finds what the first one did. Every read comes before the first write, which is a SET,
--   so a full Redis refuses all of it. A member of `waiting` without a `seen` key is a reservation; one older than
--   reservation_ttl_ms is dropped here when the queue is full.
local seen, waiting, counter, control, reservation, pace = unpack(KEYS)
local task_id, sha256, max_size, record_ttl_ms, reservation_ttl_ms, seen_prefix, takes_occupancy = unpack(ARGV)

local EXPIRED_MAX = 1000 -- looked at in one call, so that it takes a few ms at most
local earlier = reply_if_seen(seen, sha256)
if earlier then return earlier end
local reserved = redis.call('GET', reservation)
if reserved and reserved ~= sha256 then return {'conflict', ''} end
local rank = takes_occupancy == '0' and -1 or redis.call('ZRANK', waiting, task_id)
if rank then
  redis.call('SET', reservation, sha256, 'PX', record_ttl_ms)
  return {'promised', rank + 1}
end

local now = server_ms()
local waiting_count = redis.call('ZCARD', waiting)
local count = occupancy_of(counter)
if not count then return redis.error_reply('ERR the counter of the queue is not an integer') end
local limit = capacity_of(control, max_size)
local taken, expired = math.max(count, waiting_count), {}
if taken >= limit then
  local due = now - reservation_ttl_ms
  for _, other in ipairs(redis.call('ZRANGEBYSCORE', waiting, '-inf', due, 'LIMIT', 0, EXPIRED_MAX)) do
    if redis.call('EXISTS', seen_prefix .. other) == 0 then expired[#expired + 1] = other end
  end
  taken = taken - #expired
  if taken >= limit then return {'full', taken, limit, eta_ms(pace, taken - limit + 1)} end
end

redis.call('SET', reservation, sha256, 'PX', record_ttl_ms)
if #expired > 0 then
  redis.call('ZREM', waiting, unpack(expired))
  redis.call('DECRBY', counter, math.min(#expired, math.max(0, count)))
end
redis.call('ZADD', waiting, now, task_id)
redis.call('INCR', counter)
return {'promised', redis.call('ZRANK', waiting, task_id) + 1}
