-- Renews permits of many tokens.
-- KEYS: permits…
-- ARGV: lease_ms, tokens…
--   tokens: one for each of `permits`
-- Reply: the tokens that lost a permit
-- Repeatable: renews again. A lease that ran out is not taken back: somebody else may hold the permit.
local permits = take(KEYS, 1)
local lease_ms = ARGV[1]
local tokens = take(ARGV, 2)

local lost = {}
for i, limiter in ipairs(permits) do
  local token = tokens[i]
  if holds(limiter, token) then
    redis.call('ZADD', limiter, 'XX', now + lease_ms, token)
    keep_alive(limiter, lease_ms * 2)
  else
    lost[#lost + 1] = token
  end
end
return lost
