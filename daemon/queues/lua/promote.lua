-- Moves what is due from :retry to :ready. KEYS: retry, held, ready. ARGV: batch.
-- Reply: {moved, ms until the next one is due (-1: none), ids without a message…}. XADD comes first, so a full Redis refuses it whole.
-- An id without a message is an incident: it leaves :retry and the caller repairs it from Postgres.
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
local moved, lost = 0, {}
for _, id in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now, 'LIMIT', 0, ARGV[1])) do
  local entry = redis.call('HGET', KEYS[2], id)
  if entry then
    redis.call('XADD', KEYS[3], '*', 'task', entry)
    moved = moved + 1
  else
    lost[#lost + 1] = id
  end
  redis.call('ZREM', KEYS[1], id)
  redis.call('HDEL', KEYS[2], id)
end
local head = redis.call('ZRANGE', KEYS[1], 0, 0, 'WITHSCORES')[2]
return {moved, head and math.max(0, tonumber(head) - now) or -1, unpack(lost)}
