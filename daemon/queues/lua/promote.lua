-- Moves delayed tasks that are due to :ready.
-- KEYS: retry, held, ready
-- ARGV: batch
-- Reply: {moved, ms until the next one is due (-1: none), ids without a message…}
-- Repeatable: each task is moved once. XADD comes first, so a full Redis refuses it whole. An id without a message is
--   an
--   incident: it leaves :retry and the caller repairs it from Postgres.
local retry, held, ready = unpack(KEYS)
local batch = ARGV[1]

local now = server_ms()
local moved, lost = 0, {}
for _, task_id in ipairs(redis.call('ZRANGEBYSCORE', retry, '-inf', now, 'LIMIT', 0, batch)) do
  local entry = redis.call('HGET', held, task_id)
  if entry then
    run_delayed(retry, held, ready, task_id, entry)
    moved = moved + 1
  else
    redis.call('ZREM', retry, task_id)
    lost[#lost + 1] = task_id
  end
end
local next_due = redis.call('ZRANGE', retry, 0, 0, 'WITHSCORES')[2]
return {moved, next_due and math.max(0, tonumber(next_due) - now) or -1, unpack(lost)}
