-- Gives back the places of promises that nobody kept. KEYS: waiting, counter. ARGV: promise_ttl_ms, prefix of `seen` keys, batch.
-- Reply: how many. A member with a `seen` key was accepted and stays, however old; the oldest `batch` members are looked at. ZREM comes
-- first, so that this runs when Redis is full.
local t = redis.call('TIME')
local cut = t[1] * 1000 + math.floor(t[2] / 1000) - ARGV[1]
local gone = 0
for _, id in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', cut, 'LIMIT', 0, ARGV[3])) do
  if redis.call('EXISTS', ARGV[2] .. id) == 0 and redis.call('ZREM', KEYS[1], id) == 1 then
    gone = gone + 1
    if redis.call('DECR', KEYS[2]) < 0 then redis.call('INCR', KEYS[2]) end
  end
end
return gone
