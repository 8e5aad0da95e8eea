-- Says that we live and asks who else does.
-- KEYS: consumers
-- ARGV: ttl_ms, members…
--   members: our own, queue/consumer
-- Reply: {lapsed members, all members}; a lapsed record stays until its queue has nothing of it pending (see
--   delete_consumer.lua)
-- Repeatable: says the same again.
local consumers = KEYS[1]
local ttl_ms = ARGV[1]
local members = take(ARGV, 2)

local now = server_ms()
for _, member in ipairs(members) do redis.call('ZADD', consumers, now + ttl_ms, member) end
return {redis.call('ZRANGEBYSCORE', consumers, '-inf', now), redis.call('ZRANGE', consumers, 0, -1)}
