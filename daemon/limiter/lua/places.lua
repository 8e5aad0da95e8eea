-- Before each guard script: server time, places that live, and handing free ones to the oldest waiters. All keys of guards, waiters and
-- models carry the tag {guard}. A place handed over is kept for its waiter as the member '~' .. waiter for a short while, so nobody
-- overtakes it on its way here; one that does not come costs that while and no more.
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
local heads = {}
local HEADS_MAX = 100

local function living(guard) return redis.call('ZCOUNT', guard, '(' .. now, '+inf') end

local function holds(guard, member)
  local score = redis.call('ZSCORE', guard, member)
  return score and tonumber(score) > now
end

-- A key lives as long as its longest lease: a shorter one beside it cuts nothing off.
local function lives_for(key, ms)
  if redis.call('PTTL', key) < ms then redis.call('PEXPIRE', key, ms) end
end

local function hand_over(guard, wait, limit, called, keep_ms)
  local free = limit - living(guard)
  while free > 0 and #heads < HEADS_MAX do
    local waiter = redis.call('ZPOPMIN', wait)[1]
    if not waiter then return end
    redis.call('ZADD', guard, now + keep_ms, '~' .. waiter)
    lives_for(guard, keep_ms * 2)
    redis.call('ZADD', called, now + keep_ms, waiter)
    lives_for(called, 600000)
    heads[#heads + 1] = waiter
    free = free - 1
  end
end

-- What a model may run at once now: its ceiling, or less while it is in trouble (see the release).
local function paced(pace, ceiling)
  local limit = tonumber(redis.call('HGET', pace, 'limit') or ceiling)
  return math.max(1, math.min(ceiling, math.floor(limit)))
end
