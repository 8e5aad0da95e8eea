-- Lets a task in to the first model that is open, with a place in every guard on the way, or in none and says why.
-- KEYS: called, waits; each shared guard: guard, wait; each candidate: guard, wait, probe, wait of probe, closed, breaker, pace, rpm,
-- tpm, line of the paying, line of the others.
-- ARGV: member, waiter, since_ms, lease_ms, first (1|0), keep_ms, wait_ttl_ms, number of shared guards, the limit of each; each
-- candidate: ceiling, then for requests and for tokens: ms each, burst in ms; tokens.
-- Reply: {'in', candidate, probing, heads…}; {'full', guard (the shared ones first), rank, heads…}: it waits in order of age and will be
-- called; {'shut', reason, ms, in line (1|0), heads…}. `heads` were handed a place by us and are to be woken.
-- Every write comes after every judgement, and the first one is a ZADD wherever something grows: a full Redis refuses all of it.
local member, waiter, since, lease = ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])
local first, keep, wait_ttl, shared = ARGV[5] == '1', tonumber(ARGV[6]), tonumber(ARGV[7]), tonumber(ARGV[8])
local called, waits, mine = KEYS[1], KEYS[2], '~' .. waiter
local LATE = 5000 -- a turn that was not taken for so long is given up
local guards, models = {}, {}

for i = 1, shared do guards[i] = {key = KEYS[2 * i + 1], wait = KEYS[2 * i + 2], limit = tonumber(ARGV[8 + i])} end
local key, arg = 3 + 2 * shared, 9 + shared
while KEYS[key] do
  local model = {closed = KEYS[key + 4], breaker = KEYS[key + 5], rpm = KEYS[key + 7], tpm = KEYS[key + 8]}
  model.paying, model.others = KEYS[key + 9], KEYS[key + 10]
  model.place = {key = KEYS[key], wait = KEYS[key + 1], limit = paced(KEYS[key + 6], tonumber(ARGV[arg]))}
  model.probe = {key = KEYS[key + 2], wait = KEYS[key + 3], limit = 1}
  model.request_ms, model.request_burst = tonumber(ARGV[arg + 1]), tonumber(ARGV[arg + 2])
  model.token_ms, model.token_burst, model.tokens = tonumber(ARGV[arg + 3]), tonumber(ARGV[arg + 4]), tonumber(ARGV[arg + 5])
  models[#models + 1] = model
  guards[#guards + 1], guards[#guards + 2] = model.place, model.probe
  key, arg = key + 11, arg + 6
end

-- Room for us: a place kept for us, or more free ones than older waiters.
local function room(guard)
  if holds(guard.key, member) then return true end
  local kept = holds(guard.key, mine)
  local free = guard.limit - living(guard.key) + (kept and 1 or 0)
  if free <= 0 then return false end
  return kept or free > redis.call('ZCOUNT', guard.wait, '-inf', '(' .. since)
end

-- GCRA: ms until `cost` fits (0: now), and the theoretical arrival time after it. The last fifth of a burst is for those who go first.
local function fits(bucket, each_ms, burst, cost)
  if each_ms == 0 then return 0 end
  local full = math.max(tonumber(redis.call('GET', bucket) or now), now) + each_ms * cost
  return math.max(0, full - now - math.max(first and burst or burst * 0.8, each_ms * cost)), full
end

local function last_of(line) return tonumber(redis.call('ZREVRANGE', line, 0, 0, 'WITHSCORES')[2] or 0) end

-- 0 when it is our turn at the model's rates, else ms until it is. Turns are kept in two lines, so that those who come back are spread
-- out and nobody overtakes.
local function turn(model)
  local by_requests, requests = fits(model.rpm, model.request_ms, model.request_burst, 1)
  local by_tokens, tokens = fits(model.tpm, model.token_ms, model.token_burst, model.tokens)
  model.new_rpm, model.new_tpm = requests, tokens
  if not requests and not tokens then return 0 end
  local line = first and model.paying or model.others
  local own = tonumber(redis.call('ZSCORE', line, waiter) or 0)
  local ready = math.max(by_requests, by_tokens)
  local called_up = own > 0 and own <= now + 20
  local alone = redis.call('ZCOUNT', line, now - LATE, '+inf') == (own >= now - LATE and own > 0 and 1 or 0)
  local behind = not first and redis.call('ZCOUNT', model.paying, now - LATE, now + 1000) > 0
  if ready == 0 and (called_up or alone) and not behind then return 0 end
  local step = math.max(model.request_ms, model.token_ms * model.tokens)
  local due = now + math.max(1, ready)
  if own > now - LATE and not behind then
    due = math.max(due, own)
  else
    local last = last_of(line)
    if not first then last = math.max(last, last_of(model.paying)) end
    due = math.max(due, last + step)
  end
  model.line, model.due = line, due
  return due - now
end

local function leave_lines(kept)
  for _, model in ipairs(models) do
    if model.request_ms + model.token_ms > 0 then
      if model.paying ~= kept then redis.call('ZREM', model.paying, waiter) end
      if model.others ~= kept then redis.call('ZREM', model.others, waiter) end
    end
  end
end

-- What was kept for us elsewhere, and where we waited, goes to the next.
local function leave(kept_wait)
  redis.call('ZREM', called, waiter)
  for _, guard in ipairs(guards) do
    if guard.wait ~= kept_wait then redis.call('ZREM', guard.wait, waiter) end
    if redis.call('ZREM', guard.key, mine) == 1 and not guard.taken then hand_over(guard.key, guard.wait, guard.limit, called, keep) end
  end
end

local function refuse(guard, number)
  redis.call('ZADD', guard.wait, since, waiter)
  redis.call('HSET', waits, guard.key, guard.limit)
  lives_for(guard.wait, wait_ttl)
  lives_for(waits, wait_ttl)
  leave(guard.wait)
  leave_lines()
  hand_over(guard.key, guard.wait, guard.limit, called, keep)
  return {'full', number, redis.call('ZRANK', guard.wait, waiter) or 0, unpack(heads)}
end

local function admit(number, model, probing)
  local taken = {model.place}
  for i = 1, shared do taken[#taken + 1] = guards[i] end
  if probing then taken[#taken + 1] = model.probe end
  for _, guard in ipairs(taken) do
    redis.call('ZADD', guard.key, now + lease, member)
    redis.call('ZREMRANGEBYSCORE', guard.key, '-inf', now)
    lives_for(guard.key, lease * 2)
    guard.taken = true
  end
  for bucket, full in pairs({[model.rpm] = model.new_rpm or false, [model.tpm] = model.new_tpm or false}) do
    if full then redis.call('SET', bucket, string.format('%.3f', full), 'PX', math.ceil(full - now) + 60000) end
  end
  leave()
  leave_lines()
  return {'in', number, probing and 1 or 0, unpack(heads)}
end

for number, model in ipairs(models) do -- a repeated call finds what the first one took
  if holds(model.place.key, member) then return {'in', number, holds(model.probe.key, member) and 1 or 0} end
end
for i = 1, shared do
  if not room(guards[i]) then return refuse(guards[i], i) end
end

local shut
local function note(candidate) if not shut or candidate.ms < shut.ms then shut = candidate end end
for number, model in ipairs(models) do
  local closed_ms = redis.call('PTTL', model.closed)
  local open_at = tonumber(redis.call('HGET', model.breaker, 'open_at') or 0)
  local probing = open_at > 0
  if closed_ms > 0 then
    note({reason = 'RATE_LIMITED', ms = closed_ms})
  elseif open_at > now then
    note({reason = 'BREAKER_OPEN', ms = open_at - now})
  elseif probing and not room(model.probe) then
    note({reason = 'BREAKER_OPEN', ms = 30000, behind = model.probe, number = shared + number})
  elseif not room(model.place) then
    return refuse(model.place, shared + number)
  else
    local ms = turn(model)
    if ms == 0 then return admit(number, model, probing) end
    note({reason = 'RATE_LIMITED', ms = ms, line = model.line, due = model.due})
  end
end

if shut.behind then
  local reply = refuse(shut.behind, shut.number)
  return {'probing', unpack(reply, 2)}
end
if shut.line then
  redis.call('ZADD', shut.line, shut.due, waiter)
  redis.call('ZREMRANGEBYSCORE', shut.line, '-inf', now - LATE)
  lives_for(shut.line, math.ceil(shut.due - now) + 60000)
end
leave()
leave_lines(shut.line)
return {'shut', shut.reason, math.ceil(shut.ms), shut.line and 1 or 0, unpack(heads)}
