-- Releases the occupancy of reservations whose message did not come in time.
-- KEYS: waiting, counter
-- ARGV: reservation_ttl_ms, seen_prefix, batch
--   seen_prefix: of the `seen` keys; their ids are known only here, and they share the hash slot of KEYS
--   batch: so many of the oldest members are looked at
-- Reply: how many
-- Repeatable: each is released once. A member with a `seen` key was accepted and stays, however old. ZREM comes
--   first, so that this runs when Redis is full.
local waiting, counter = unpack(KEYS)
local reservation_ttl_ms, seen_prefix, batch = unpack(ARGV)

local expired = 0
local due = server_ms() - reservation_ttl_ms
for _, task_id in ipairs(redis.call('ZRANGEBYSCORE', waiting, '-inf', due, 'LIMIT', 0, batch)) do
  if redis.call('EXISTS', seen_prefix .. task_id) == 0 then
    local released = release_occupancy(waiting, counter, task_id)
    expired = expired + released
  end
end
return expired
