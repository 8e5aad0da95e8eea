-- Says that we live and asks who else does. KEYS: consumers. ARGV: ttl_ms, our members (queue/consumer)….
-- Reply: {lapsed members, all members}. A lapsed record stays until its queue has nothing of it pending (see bury.lua).
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
for i = 2, #ARGV do redis.call('ZADD', KEYS[1], now + ARGV[1], ARGV[i]) end
return {redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now), redis.call('ZRANGE', KEYS[1], 0, -1)}
