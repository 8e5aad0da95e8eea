-- Accepts one task message, or says why not; a repeated call finds what the first one did. KEYS: tasks, seen, waiting, counter, control,
-- pace, blobs…. ARGV: taskId, sha256, entry JSON, max_size, counted (1|0), dry (1|0: judge, write nothing), seen_ttl_s, blob_ttl_s, bytes of
-- each blob…. Reply: {'queued', entry id, position, paused (1|0)}, {'duplicate', entry id}, {'conflict', entry id} or {'full', waiting, limit, ms until a place is free
-- (-1: unknown)}.
-- Every read comes before the first write, so a key of a wrong type leaves nothing behind; XADD is the first write, so a full Redis
-- refuses all of it, and what follows can't fail any more (the counter is known to be a number, the zset to be one).
local seen = redis.call('GET', KEYS[2])
if seen then
  local id, sha = string.match(seen, '^([^:]*):(.*)$')
  return {sha == ARGV[2] and 'duplicate' or 'conflict', id or seen}
end
local place = redis.call('ZSCORE', KEYS[3], ARGV[1])
local waiting = redis.call('ZCARD', KEYS[3])
local count = redis.call('GET', KEYS[4]) or '0'
if #count > 15 or not string.match(count, '^%-?%d+$') then return redis.error_reply('ERR the counter of the queue is not an integer') end
local limit = tonumber(redis.call('HGET', KEYS[5], 'maxSize') or ARGV[4]) or tonumber(ARGV[4])
local counted = ARGV[5] == '1'

-- A place that the producer took is kept. The counter may lag behind the set (a lost key), never the other way for long.
if not place and not counted then
  local taken = math.max(tonumber(count), waiting)
  if taken >= limit then
    -- When as many have started as stand before this one; nothing is promised faster than the last start was long ago.
    local last, mean = unpack(redis.call('HMGET', KEYS[6], 'last', 'mean'))
    local t = redis.call('TIME')
    local each = mean and math.max(tonumber(mean), t[1] * 1000 + math.floor(t[2] / 1000) - last) or -1
    return {'full', taken, limit, math.floor(each < 0 and -1 or each * (taken - limit + 1))}
  end
end
if ARGV[6] == '1' then return {'queued', '', place and redis.call('ZRANK', KEYS[3], ARGV[1]) + 1 or waiting + 1} end

local id = redis.call('XADD', KEYS[1], '*', 'task', ARGV[3])
redis.call('SET', KEYS[2], id .. ':' .. ARGV[2], 'EX', ARGV[7])
if not place then
  local t = redis.call('TIME')
  redis.call('ZADD', KEYS[3], t[1] * 1000 + math.floor(t[2] / 1000), ARGV[1])
  if not counted then redis.call('INCR', KEYS[4]) end
end
for i = 7, #KEYS do redis.call('SET', KEYS[i], ARGV[i + 2], 'EX', ARGV[8]) end
local paused = string.lower(redis.call('HGET', KEYS[5], 'paused') or '')
paused = paused ~= '' and paused ~= '0' and paused ~= 'false' and paused ~= 'no'
return {'queued', id, redis.call('ZRANK', KEYS[3], ARGV[1]) + 1, paused and 1 or 0}
