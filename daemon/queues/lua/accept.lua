-- Accepts one task message, or says why not.
-- KEYS: tasks, seen, waiting, counter, control, pace, blobs…
-- ARGV: task_id, sha256, entry, max_size, counted, dry_run, seen_ttl_s, blob_ttl_s, blob_bytes…
--   entry: JSON
--   max_size: capacity of the queue, unless its control hash says another number
--   counted: 1 the producer has counted the task itself, by a bare INCR
--   dry_run: 1 decide, write nothing
--   blob_bytes: the content of each of `blobs`
-- Reply: {'queued', entry id, position, paused (1|0)} (dry run: {'queued', '', position}), {'duplicate', entry id},
--   {'conflict', entry id} or {'full', occupancy, limit, ms until there is room (-1: unknown)}
-- Repeatable: a repeated call finds `seen`. Every read comes before the first write, so a key of a wrong type leaves
--   nothing behind; XADD is the first write, so a full Redis refuses all of it, and what follows can't fail any more
--   (the counter is known to be a number, the zset to be one).
local tasks, seen, waiting, counter, control, pace = unpack(KEYS, 1, 6)
local task_id, sha256, entry, max_size, counted, dry_run, seen_ttl_s, blob_ttl_s = unpack(ARGV, 1, 8)
local blobs, blob_bytes = take(KEYS, 7), take(ARGV, 9)

local earlier = reply_if_seen(seen, sha256)
if earlier then return earlier end
local is_reserved = redis.call('ZSCORE', waiting, task_id)
local waiting_count = redis.call('ZCARD', waiting)
local count = occupancy_of(counter)
if not count then return redis.error_reply('ERR the counter of the queue is not an integer') end
local limit = capacity_of(control, max_size)

-- A reserved task is counted already. The counter may lag behind the set (a lost key), never the other way for long.
if not is_reserved and counted ~= '1' then
  local taken = math.max(count, waiting_count)
  if taken >= limit then return {'full', taken, limit, eta_ms(pace, taken - limit + 1)} end
end
if dry_run == '1' then
  return {'queued', '', is_reserved and redis.call('ZRANK', waiting, task_id) + 1 or waiting_count + 1}
end

local entry_id = redis.call('XADD', tasks, '*', 'task', entry)
redis.call('SET', seen, entry_id .. ':' .. sha256, 'EX', seen_ttl_s)
if not is_reserved then
  redis.call('ZADD', waiting, server_ms(), task_id)
  if counted ~= '1' then redis.call('INCR', counter) end
end
for i, blob in ipairs(blobs) do redis.call('SET', blob, blob_bytes[i], 'EX', blob_ttl_s) end
return {'queued', entry_id, redis.call('ZRANK', waiting, task_id) + 1, is_paused(control) and 1 or 0}
