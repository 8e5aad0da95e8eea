-- Drops liveness records. KEYS: consumers. ARGV: only_lapsed (1|0), members…. Reply: how many went.
-- A process that came back to life has renewed its record, and keeps it.
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
local gone = 0
for i = 2, #ARGV do
  local score = redis.call('ZSCORE', KEYS[1], ARGV[i])
  if score and (ARGV[1] == '0' or tonumber(score) <= now) then gone = gone + redis.call('ZREM', KEYS[1], ARGV[i]) end
end
return gone
