-- Takes back permits that were lost: one of every limiter, or none. Looks at no waiters and at no model.
-- KEYS: permits…
-- ARGV: token, lease_ms, limits…
-- Reply: 0 all taken (also when the token holds them already), else the number (from 1) of the first full limiter
-- Repeatable: a repeated call finds that the token holds them. Leases that ran out are swept here, on server time: a
--   crashed holder's permit is free at the latest one lease later.
local permits = take(KEYS, 1)
local token, lease_ms = unpack(ARGV, 1, 2)
local limits = take(ARGV, 3)

for i, limiter in ipairs(permits) do
  if not redis.call('ZSCORE', limiter, token) and permits_in_use(limiter) >= tonumber(limits[i]) then return i end
end
for _, limiter in ipairs(permits) do
  redis.call('ZADD', limiter, now + lease_ms, token)
  redis.call('ZREMRANGEBYSCORE', limiter, '-inf', now)
  keep_alive(limiter, lease_ms * 2)
end
return 0
