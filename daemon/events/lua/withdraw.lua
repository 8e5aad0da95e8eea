-- Takes a task that has ended before it ran out of its queue. KEYS: retry, held, seen, tasks, promise, waiting, counter, blobs….
-- ARGV: taskId, group, seen_ttl_s. Reply: {withdrawn, clamped}; withdrawn 0: it is pending or in :ready, and whoever reads it finds it
-- ended. One that was promised and not delivered leaves a `seen` behind, so that its message is a duplicate when it comes.
-- ZREM comes first, so that this runs when Redis is full.
local withdrawn = redis.call('ZREM', KEYS[1], ARGV[1])
redis.call('HDEL', KEYS[2], ARGV[1])
local seen = redis.call('GET', KEYS[3])
if seen and withdrawn == 0 then
  local id = string.match(seen, '^(%d+%-%d+):')
  local pending = id and redis.pcall('XPENDING', KEYS[4], ARGV[2], id, id, 1)
  if id and (pending.err or #pending == 0) then withdrawn = redis.call('XDEL', KEYS[4], id) end
elseif not seen then
  redis.call('SET', KEYS[3], '0-0:' .. (redis.call('GET', KEYS[5]) or ''), 'EX', ARGV[3])
  withdrawn = 1
end
if withdrawn == 0 then return {0, 0} end
local clamped = 0
if redis.call('ZREM', KEYS[6], ARGV[1]) == 1 and redis.call('DECR', KEYS[7]) < 0 then
  redis.call('INCR', KEYS[7])
  clamped = 1
end
for i = 8, #KEYS do redis.call('DEL', KEYS[i]) end
return {1, clamped}
