-- Puts the counter of a queue right: it should be the number of members of `waiting`.
-- KEYS: counter, waiting, drift, mark
-- ARGV: reservation_ttl_ms, mark_ms
--   mark_ms: nobody looks again for so long
-- Reply: {old, raised, lowered}; old 1: a member is older than a reservation may be
-- Repeatable: the mark makes a second call do nothing; it ends by itself. Too low is raised at once: everybody in the
--   set is counted. Of a surplus only the smallest seen over one reservation TTL is subtracted: a producer that
--   counts by a bare INCR is ahead of its message by less than that, so it is never fought.
local counter, waiting, drift, mark = unpack(KEYS)
local reservation_ttl_ms, mark_ms = unpack(ARGV)

if not redis.call('SET', mark, '1', 'NX', 'PX', mark_ms) then return {0, 0, 0} end
local now = server_ms()
local old = redis.call('ZCOUNT', waiting, '-inf', now - reservation_ttl_ms) > 0 and 1 or 0
local count, members = occupancy_of(counter) or -1, redis.call('ZCARD', waiting)
if count < members then
  redis.call('SET', counter, members)
  redis.call('DEL', drift)
  return {old, members - count, 0}
end
local surplus = count - members
if surplus == 0 then
  redis.call('DEL', drift)
  return {old, 0, 0}
end
local least, since = unpack(redis.call('HMGET', drift, 'least', 'since'))
if not since then
  redis.call('HSET', drift, 'least', surplus, 'since', string.format('%d', now))
else
  surplus = math.min(surplus, tonumber(least))
  if now - since >= tonumber(reservation_ttl_ms) then
    redis.call('DECRBY', counter, surplus)
    redis.call('DEL', drift)
    return {old, 0, surplus}
  end
  redis.call('HSET', drift, 'least', surplus)
end
redis.call('PEXPIRE', drift, reservation_ttl_ms * 3)
return {old, 0, 0}
