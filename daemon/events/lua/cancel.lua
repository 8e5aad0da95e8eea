-- Marks a task as to be cancelled: every append to its events tells whoever runs it. KEYS: state. ARGV: ttl_s. Reply: 1 marked, 0 it has
-- ended. The mark lives as long as the events do: each append renews it.
if redis.call('HEXISTS', KEYS[1], 'ended') == 1 then return 0 end
redis.call('HSET', KEYS[1], 'cancel', 1)
if redis.call('TTL', KEYS[1]) < 0 then redis.call('EXPIRE', KEYS[1], ARGV[1]) end
return 1
