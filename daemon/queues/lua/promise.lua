-- Takes a place for a task that a producer promises, before it is published; a repeated call finds what the first one did.
-- KEYS: seen, waiting, counter, control, promise, pace. ARGV: taskId, sha256, max_size, record_ttl_ms, promise_ttl_ms, prefix of `seen` keys,
-- place (1; 0: keep the body's hash only, as a delayed message takes its place at delivery).
-- Reply: {'promised', position}, {'duplicate', entry id}, {'conflict', entry id or ''} or {'full', waiting, limit, ms until a
-- place is free (-1: unknown)}.
-- A member of `waiting` without a `seen` key is a promise; one older than promise_ttl_ms is dropped here when its place is wanted.
-- Every read comes before the first write, which is a SET, so a full Redis refuses all of it.
local seen = redis.call('GET', KEYS[1])
if seen then
  local id, sha = string.match(seen, '^([^:]*):(.*)$')
  return {sha == ARGV[2] and 'duplicate' or 'conflict', id or seen}
end
local promised = redis.call('GET', KEYS[5])
if promised and promised ~= ARGV[2] then return {'conflict', ''} end
if ARGV[7] == '0' then
  redis.call('SET', KEYS[5], ARGV[2], 'PX', ARGV[4])
  return {'promised', 0}
end
local place = redis.call('ZRANK', KEYS[2], ARGV[1])
if place then
  redis.call('SET', KEYS[5], ARGV[2], 'PX', ARGV[4])
  return {'promised', place + 1}
end

local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
local waiting = redis.call('ZCARD', KEYS[2])
local count = redis.call('GET', KEYS[3]) or '0'
if #count > 15 or not string.match(count, '^%-?%d+$') then return redis.error_reply('ERR the counter of the queue is not an integer') end
local limit = tonumber(redis.call('HGET', KEYS[4], 'maxSize') or ARGV[3]) or tonumber(ARGV[3])
local taken, gone = math.max(tonumber(count), waiting), {}
if taken >= limit then
  for _, id in ipairs(redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', now - ARGV[5], 'LIMIT', 0, 1000)) do
    if redis.call('EXISTS', ARGV[6] .. id) == 0 then gone[#gone + 1] = id end
  end
  taken = taken - #gone
  if taken >= limit then
    -- When as many have started as stand before this one; nothing is promised faster than the last start was long ago.
    local last, mean = unpack(redis.call('HMGET', KEYS[6], 'last', 'mean'))
    local t = redis.call('TIME')
    local each = mean and math.max(tonumber(mean), t[1] * 1000 + math.floor(t[2] / 1000) - last) or -1
    return {'full', taken, limit, math.floor(each < 0 and -1 or each * (taken - limit + 1))}
  end
end

redis.call('SET', KEYS[5], ARGV[2], 'PX', ARGV[4])
if #gone > 0 then
  redis.call('ZREM', KEYS[2], unpack(gone))
  redis.call('DECRBY', KEYS[3], math.min(#gone, math.max(0, tonumber(count))))
end
redis.call('ZADD', KEYS[2], now, ARGV[1])
redis.call('INCR', KEYS[3])
return {'promised', redis.call('ZRANK', KEYS[2], ARGV[1]) + 1}
