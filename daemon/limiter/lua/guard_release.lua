-- Gives places back, hands them to the oldest waiters, and notes what the call told us of its model.
-- KEYS: called; each place: guard, wait; then, if something is told: closed, breaker, pace, rpm, tpm, probe, wait of probe.
-- ARGV: member, keep_ms, number of places, the limit of each; then, if something is told: outcome
-- (ok, failed, closed, none, unused), closed_ms, why it closed, and for requests and tokens ms each; tokens reserved, tokens used (-1:
-- unknown); failures, window_ms, open_ms, open_max_ms of the breaker; lower (1: run fewer at once), number of the model's place, requests
-- sent (one of them was reserved).
-- Reply: {places freed, opened (1: the breaker has just opened), heads…}. Only this member's own token is removed, so a zombie frees
-- nobody else's place; what is told counts only if the model's place was still ours, hence once.
local member, keep, places = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local called, told = KEYS[1], 2 + 2 * places
local freed, opened, ours = 0, 0, false
local at = 3 + places
local function arg(i) return ARGV[at + i] end
local model_place = KEYS[told] and tonumber(arg(13))

for i = 1, places do
  local removed = redis.call('ZREM', KEYS[2 * i], member)
  freed = freed + removed
  if i == model_place and removed == 1 then ours = true end
end

local function number(i) return tonumber(arg(i)) end

local function settle()
  local outcome, reserved, used = arg(1), number(6), number(7)
  if outcome == 'unused' then used = 0 end
  local function back(bucket, ms)
    local full = tonumber(redis.call('GET', bucket) or now) + ms
    if ms ~= 0 and full > now then redis.call('SET', bucket, string.format('%.3f', full), 'PX', math.ceil(full - now) + 60000) end
    if ms ~= 0 and full <= now then redis.call('DEL', bucket) end
  end
  if outcome == 'unused' then back(KEYS[told + 3], -number(4)) end
  if number(14) > 1 then back(KEYS[told + 3], (number(14) - 1) * number(4)) end
  if used >= 0 then back(KEYS[told + 4], (used - reserved) * number(5)) end
end

-- Opens after so many failures in a row within the window; then one probe at a time; a failed one doubles the time.
local function judge_breaker()
  local breaker, probe, outcome = KEYS[told + 1], KEYS[told + 5], arg(1)
  local open_at = tonumber(redis.call('HGET', breaker, 'open_at') or 0)
  local open_ms = tonumber(redis.call('HGET', breaker, 'open_ms') or 0)
  local probed = KEYS[2 * places] == probe
  if outcome == 'ok' and open_at <= now then
    redis.call('DEL', breaker)
    if open_at > 0 then -- it has closed: everybody who waited for the probe may come
      local waiting = redis.call('ZPOPMIN', KEYS[told + 6], HEADS_MAX)
      for i = 1, #waiting, 2 do
        redis.call('ZADD', called, now + keep, waiting[i])
        heads[#heads + 1] = waiting[i]
      end
    end
  elseif outcome == 'failed' then
    if open_at > 0 then
      if not probed then return end
      open_ms = math.min(open_ms * 2, number(11))
    else
      local times = {}
      for time in string.gmatch(redis.call('HGET', breaker, 'times') or '', '%d+') do
        if tonumber(time) > now - number(9) then times[#times + 1] = time end
      end
      times[#times + 1] = string.format('%d', now)
      redis.call('HSET', breaker, 'times', table.concat(times, ' '))
      lives_for(breaker, number(11) * 2)
      if #times < number(8) then return end
      open_ms = number(10)
    end
    redis.call('HSET', breaker, 'open_at', string.format('%d', now + open_ms), 'open_ms', open_ms)
    lives_for(breaker, number(11) * 2)
    opened = 1
  end
end

-- A refusal lowers what the model may run at once, at most once in ten seconds; a full round of successes raises it by one.
local function judge_pace(pace, ceiling)
  local outcome, limit = arg(1), paced(pace, ceiling)
  if outcome == 'closed' and arg(12) == '1' then
    if now - tonumber(redis.call('HGET', pace, 'lowered_at') or 0) > 10000 then
      redis.call('HSET', pace, 'limit', math.max(1, math.floor(limit * 0.7)), 'lowered_at', string.format('%d', now), 'good', 0)
      redis.call('PEXPIRE', pace, 3600000)
    end
  elseif outcome == 'ok' and redis.call('EXISTS', pace) == 1 and redis.call('HINCRBY', pace, 'good', 1) >= limit then
    if limit + 1 >= ceiling then redis.call('DEL', pace) else redis.call('HSET', pace, 'limit', limit + 1, 'good', 0) end
  end
end

local limits = {}
for i = 1, places do limits[i] = tonumber(ARGV[3 + i]) end
if ours then
  settle()
  if arg(1) == 'closed' and number(2) > 0 and redis.call('PTTL', KEYS[told]) < number(2) then
    redis.call('SET', KEYS[told], arg(3), 'PX', number(2))
  end
  judge_breaker()
  judge_pace(KEYS[told + 2], limits[model_place])
  limits[model_place] = paced(KEYS[told + 2], limits[model_place])
end
for i = 1, places do hand_over(KEYS[2 * i], KEYS[2 * i + 1], limits[i], called, keep) end
return {freed, opened, unpack(heads)}
