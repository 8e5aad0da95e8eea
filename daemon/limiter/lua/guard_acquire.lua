-- Takes a leased place in every guard, or in none. KEYS: guards. ARGV: member, lease_ms, a limit for each key.
-- Reply: 0 all taken (also when the member holds them already), else the number (from 1) of the first full guard.
-- Places that ran out are swept here, on server time: a crashed holder frees its place at the latest one lease later.
for i, key in ipairs(KEYS) do
  if not redis.call('ZSCORE', key, ARGV[1]) and living(key) >= tonumber(ARGV[2 + i]) then
    return i
  end
end
for _, key in ipairs(KEYS) do
  redis.call('ZADD', key, now + ARGV[2], ARGV[1])
  redis.call('ZREMRANGEBYSCORE', key, '-inf', now)
  lives_for(key, ARGV[2] * 2)
end
return 0
