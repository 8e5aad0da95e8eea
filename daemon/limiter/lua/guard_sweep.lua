-- Finds who was called and did not come, and places that came free without a release (a holder died). KEYS: mark, called, waits; the
-- guards behind `waits` share their slot. ARGV: keep_ms, mark_ms, scan count. Reply: {left, heads…}; `left`: 0 when nobody waits any more.
-- One process at a time, by a mark that ends by itself; the others only learn whether somebody still waits.
local keep = tonumber(ARGV[1])
local function left() return redis.call('HLEN', KEYS[3]) + redis.call('ZCARD', KEYS[2]) end
if left() == 0 or not redis.call('SET', KEYS[1], '1', 'NX', 'PX', ARGV[2]) then return {left()} end

for _, waiter in ipairs(redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', now, 'LIMIT', 0, HEADS_MAX)) do
  redis.call('ZREM', KEYS[2], waiter)
  heads[#heads + 1] = waiter
end
HEADS_MAX = HEADS_MAX * 2
local cursor = redis.call('GET', KEYS[1] .. ':cursor') or '0'
local page = redis.call('HSCAN', KEYS[3], cursor, 'COUNT', ARGV[3])
redis.call('SET', KEYS[1] .. ':cursor', page[1], 'PX', 60000)
for i = 1, #page[2], 2 do
  local guard, limit = page[2][i], tonumber(page[2][i + 1])
  local wait = string.gsub(guard, '^{guard}:', '{guard}:wait:', 1)
  if redis.call('EXISTS', wait) == 0 then
    redis.call('HDEL', KEYS[3], guard)
  else
    hand_over(guard, wait, limit, KEYS[2], keep)
  end
end
return {left(), unpack(heads)}
