-- Drops liveness records, and the facts of owners that have none left.
-- KEYS: consumers, processes
-- ARGV: only_lapsed, members…
--   only_lapsed: 1 a process that came back to life has renewed its record, and keeps it; 0 all go
--   members: queue/consumer
-- Reply: how many went
-- Repeatable: a record goes once.
local consumers, processes = unpack(KEYS)
local only_lapsed = ARGV[1]
local members = take(ARGV, 2)

local function owner_of(member) return string.match(member, '[^/]*$') end

local now = server_ms()
local gone = 0
for _, member in ipairs(members) do
  local expires_at = redis.call('ZSCORE', consumers, member)
  if expires_at and (only_lapsed == '0' or tonumber(expires_at) <= now) then
    gone = gone + redis.call('ZREM', consumers, member)
  end
end
local is_left = {}
for _, member in ipairs(redis.call('ZRANGE', consumers, 0, -1)) do is_left[owner_of(member)] = true end
for _, member in ipairs(members) do
  if not is_left[owner_of(member)] then redis.call('HDEL', processes, owner_of(member)) end
end
return gone
