-- Says that we live and asks who else does.
-- KEYS: consumers, processes
-- ARGV: ttl_ms, owner, facts, members…
--   owner, facts: ours, by which another process on this host can prove that we have died
--   members: our own, queue/consumer
-- Reply: {lapsed members, all members, facts by owner}; a lapsed record stays until its queue has nothing of it pending
--   (see delete_consumer.lua)
-- Repeatable: says the same again.
local consumers, processes = unpack(KEYS)
local ttl_ms, owner, facts = unpack(ARGV, 1, 3)
local members = take(ARGV, 4)

local now = server_ms()
for _, member in ipairs(members) do redis.call('ZADD', consumers, now + ttl_ms, member) end
redis.call('HSET', processes, owner, facts)
return {
  redis.call('ZRANGEBYSCORE', consumers, '-inf', now),
  redis.call('ZRANGE', consumers, 0, -1),
  redis.call('HGETALL', processes),
}
