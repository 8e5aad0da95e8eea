-- Renews the places of many members. KEYS: one key for each place. ARGV: lease_ms, then the member of each key.
-- Reply: the members that lost a place. A place that ran out is not taken back: somebody else may hold it.
local lost = {}
for i, key in ipairs(KEYS) do
  local score = redis.call('ZSCORE', key, ARGV[i + 1])
  if score and tonumber(score) > now then
    redis.call('ZADD', key, 'XX', now + ARGV[1], ARGV[i + 1])
    lives_for(key, ARGV[1] * 2)
  else
    lost[#lost + 1] = ARGV[i + 1]
  end
end
return lost
