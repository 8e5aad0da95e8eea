-- Marks a task as to be cancelled: every append to its events tells whoever runs it.
-- KEYS: state
-- ARGV: ttl_s
-- Reply: 1 marked, 0 it has ended
-- Repeatable: marks it again. The mark lives as long as the events do: each append renews it.
local state = KEYS[1]
local ttl_s = ARGV[1]

if redis.call('HEXISTS', state, 'ended') == 1 then return 0 end
redis.call('HSET', state, 'cancel', 1)
if redis.call('TTL', state) < 0 then redis.call('EXPIRE', state, ttl_s) end
return 1
