-- A guard's limit has changed: whoever waits and fits now is called. KEYS: called, waits, guard, wait of guard. ARGV: limit, keep_ms.
-- Reply: heads….
if redis.call('EXISTS', KEYS[4]) == 0 then return {} end
redis.call('HSET', KEYS[2], KEYS[3], ARGV[1])
hand_over(KEYS[3], KEYS[4], tonumber(ARGV[1]), KEYS[1], tonumber(ARGV[2]))
return heads
