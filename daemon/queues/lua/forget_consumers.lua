-- Drops liveness records.
-- KEYS: consumers
-- ARGV: only_lapsed, members…
--   only_lapsed: 1 a process that came back to life has renewed its record, and keeps it; 0 all go
--   members: queue/consumer
-- Reply: how many went
-- Repeatable: a record goes once.
local consumers = KEYS[1]
local only_lapsed = ARGV[1]
local members = take(ARGV, 2)

local now = server_ms()
local gone = 0
for _, member in ipairs(members) do
  local expires_at = redis.call('ZSCORE', consumers, member)
  if expires_at and (only_lapsed == '0' or tonumber(expires_at) <= now) then
    gone = gone + redis.call('ZREM', consumers, member)
  end
end
return gone
