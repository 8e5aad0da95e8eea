-- Renews permits of many tokens.
-- KEYS: permits…
-- ARGV: lease_ms, retake, tokens…
--   retake: 1 take those again that vanished, whatever the limits: their holders were let in before, and run
--   tokens: one for each of `permits`
-- Reply: the tokens that lost a permit
-- Repeatable: renews again. Without `retake` a lease that ran out stays so: somebody else may hold the permit.
local permits = take(KEYS, 1)
local lease_ms, retake = unpack(ARGV, 1, 2)
local tokens = take(ARGV, 3)

local lost = {}
for i, limiter in ipairs(permits) do
  local token = tokens[i]
  if retake == '1' or holds(limiter, token) then
    redis.call('ZADD', limiter, now + lease_ms, token)
    keep_alive(limiter, lease_ms * 2)
  else
    lost[#lost + 1] = token
  end
end
return lost
