-- Lets a task in to the first model that is available, with a permit of every limiter on the way, or with none and
-- says why.
-- KEYS: notified, waits, shared[permits, waiters]…, candidates[permits, waiters, probe, probe_waiters, closed,
--   breaker, slowdown, requests, tokens, paid_turns, free_turns]…
-- ARGV: token, waiter, since_ms, lease_ms, has_priority, reservation_ms, wait_ttl_ms, wake_max, turn_grace_ms,
--   turn_early_ms, paid_ahead_ms, free_burst, probe_wait_ms, shared_count, shared_limits…, rates[limit, request_ms,
--   request_burst_ms, token_ms, token_burst_ms, tokens]…
--   shared: limiters that every candidate needs: of the user, of the queue
--   since_ms: the age of the waiter, which is its rank
--   has_priority: 1 it may use the last of a rate
--   turn_grace_ms, turn_early_ms: a turn at a rate is given up when it was not taken for so long, and may be taken so
--     early
--   paid_ahead_ms: the free give way to the paid whose turn comes within it
--   free_burst: the share of a burst that the free may use
--   probe_wait_ms: when to ask again for the probe of an open breaker
--   rates: of each candidate: its limit; for requests and for tokens ms each and the burst in ms (0: no limit);
--     tokens that the call is expected to use
-- Reply: {'in', candidate, probing (1|0), woken…}; {'full', limiter (the shared ones first), rank, woken…}: it waits
--   in order of age and will be woken; {'probing', limiter, rank, woken…}: it waits for the probe of an open breaker;
--   {'unavailable', reason, ms, in line (1|0), woken…}. `woken` were notified by us and are to be woken.
-- Repeatable: a repeated call finds what the first one took. Every write comes after every decision, and the first
--   one is a ZADD wherever something grows: a full Redis refuses all of it.
local notified, waits = unpack(KEYS, 1, 2)
local token, waiter, since_ms, lease_ms, has_priority, reservation_ms, wait_ttl_ms, wake_max, turn_grace_ms,
  turn_early_ms, paid_ahead_ms, free_burst, probe_wait_ms, shared_count = unpack(ARGV, 1, 14)
local shared, candidates_at = take_records(KEYS, 3, {'permits', 'waiters'}, shared_count)
local candidates = take_records(KEYS, candidates_at, {'permits', 'waiters', 'probe', 'probe_waiters', 'closed',
  'breaker', 'slowdown', 'requests', 'tokens', 'paid_turns', 'free_turns'})
local shared_limits, rates_at = take(ARGV, 15, shared_count)
local rates = take_records(ARGV, rates_at, {'limit', 'request_ms', 'request_burst_ms', 'token_ms', 'token_burst_ms',
  'tokens'})

local is_paid, ours = has_priority == '1', '~' .. waiter
reservation_ms, wait_ttl_ms, wake_max = tonumber(reservation_ms), tonumber(wait_ttl_ms), tonumber(wake_max)
local oldest_turn = now - turn_grace_ms

-- Limiters in the order of their numbers: the shared ones, then of each model its own and its probe, which has one
-- permit.
local limiters, models = {}, {}
for i, limiter in ipairs(shared) do
  limiter.limit = tonumber(shared_limits[i])
  limiters[i] = limiter
end
for i, keys in ipairs(candidates) do
  local rate = rates[i]
  for name, value in pairs(rate) do rate[name] = tonumber(value) end
  local limit = adaptive_limit(keys.slowdown, rate.limit)
  local own = {permits = keys.permits, waiters = keys.waiters, limit = limit}
  local probe = {permits = keys.probe, waiters = keys.probe_waiters, limit = 1}
  models[i] = {keys = keys, rate = rate, own = own, probe = probe}
  limiters[#limiters + 1], limiters[#limiters + 2] = own, probe
end

-- Room for us: a permit reserved for us, or more free ones than older waiters.
local function has_room(limiter)
  if holds(limiter.permits, token) then return true end
  local reserved = holds(limiter.permits, ours)
  local free = limiter.limit - permits_in_use(limiter.permits) + (reserved and 1 or 0)
  if free <= 0 then return false end
  return reserved or free > redis.call('ZCOUNT', limiter.waiters, '-inf', '(' .. since_ms)
end

-- GCRA: ms until `cost` fits (0: now), and how far the rate is charged after it. The last of a burst is for those who
-- go first.
local function fits(rate, each_ms, burst_ms, cost)
  if each_ms == 0 then return 0 end
  local charged_until = math.max(tonumber(redis.call('GET', rate) or now), now) + each_ms * cost
  local allowed_ms = math.max(is_paid and burst_ms or burst_ms * free_burst, each_ms * cost)
  return math.max(0, charged_until - now - allowed_ms), charged_until
end

local function last_turn(turns) return tonumber(redis.call('ZREVRANGE', turns, 0, 0, 'WITHSCORES')[2] or 0) end

-- 0 when it is our turn at the model's rates, else ms until it is. Turns are kept in two lines, so that those who
-- come back are spread out and nobody overtakes.
local function wait_for_turn(model)
  local keys, rate = model.keys, model.rate
  local requests_ms, requests_until = fits(keys.requests, rate.request_ms, rate.request_burst_ms, 1)
  local tokens_ms, tokens_until = fits(keys.tokens, rate.token_ms, rate.token_burst_ms, rate.tokens)
  model.requests_until, model.tokens_until = requests_until, tokens_until
  if not requests_until and not tokens_until then return 0 end
  local turns = is_paid and keys.paid_turns or keys.free_turns
  local my_turn = tonumber(redis.call('ZSCORE', turns, waiter) or 0)
  local ready_ms = math.max(requests_ms, tokens_ms)
  local is_due = my_turn > 0 and my_turn <= now + turn_early_ms
  local me = my_turn >= oldest_turn and my_turn > 0 and 1 or 0
  local is_alone = redis.call('ZCOUNT', turns, oldest_turn, '+inf') == me
  local gives_way = not is_paid and redis.call('ZCOUNT', keys.paid_turns, oldest_turn, now + paid_ahead_ms) > 0
  if ready_ms == 0 and (is_due or is_alone) and not gives_way then return 0 end
  local step_ms = math.max(rate.request_ms, rate.token_ms * rate.tokens)
  local turn_at = now + math.max(1, ready_ms)
  if my_turn > oldest_turn and not gives_way then
    turn_at = math.max(turn_at, my_turn)
  else
    local last = last_turn(turns)
    if not is_paid then last = math.max(last, last_turn(keys.paid_turns)) end
    turn_at = math.max(turn_at, last + step_ms)
  end
  model.turns, model.turn_at = turns, turn_at
  return turn_at - now
end

local function leave_turns(kept)
  for _, model in ipairs(models) do
    if model.rate.request_ms + model.rate.token_ms > 0 then
      for _, turns in ipairs({model.keys.paid_turns, model.keys.free_turns}) do
        if turns ~= kept then redis.call('ZREM', turns, waiter) end
      end
    end
  end
end

local function pass_on(limiter)
  reserve_for_waiters(limiter.permits, limiter.waiters, limiter.limit, notified, reservation_ms, wake_max)
end

-- What was reserved for us elsewhere, and where we waited, goes to the next.
local function leave_waiters(kept)
  redis.call('ZREM', notified, waiter)
  for _, limiter in ipairs(limiters) do
    if limiter.waiters ~= kept then redis.call('ZREM', limiter.waiters, waiter) end
    if redis.call('ZREM', limiter.permits, ours) == 1 and not limiter.taken then pass_on(limiter) end
  end
end

local function refuse(limiter, number)
  redis.call('ZADD', limiter.waiters, since_ms, waiter)
  redis.call('HSET', waits, limiter.permits, limiter.limit)
  keep_alive(limiter.waiters, wait_ttl_ms)
  keep_alive(waits, wait_ttl_ms)
  leave_waiters(limiter.waiters)
  leave_turns()
  pass_on(limiter)
  return {'full', number, redis.call('ZRANK', limiter.waiters, waiter) or 0, unpack(woken)}
end

local function admit(number, model, probing)
  local taken = {model.own}
  for _, limiter in ipairs(shared) do taken[#taken + 1] = limiter end
  if probing then taken[#taken + 1] = model.probe end
  for _, limiter in ipairs(taken) do
    redis.call('ZADD', limiter.permits, now + lease_ms, token)
    redis.call('ZREMRANGEBYSCORE', limiter.permits, '-inf', now)
    keep_alive(limiter.permits, lease_ms * 2)
    limiter.taken = true
  end
  if model.requests_until then charge_rate(model.keys.requests, model.requests_until) end
  if model.tokens_until then charge_rate(model.keys.tokens, model.tokens_until) end
  leave_waiters()
  leave_turns()
  return {'in', number, probing and 1 or 0, unpack(woken)}
end

for number, model in ipairs(models) do -- a repeated call finds what the first one took
  if holds(model.own.permits, token) then return {'in', number, holds(model.probe.permits, token) and 1 or 0} end
end
for i, limiter in ipairs(shared) do
  if not has_room(limiter) then return refuse(limiter, i) end
end

-- The model that is available first.
local soonest
local function note(refusal) if not soonest or refusal.ms < soonest.ms then soonest = refusal end end
for number, model in ipairs(models) do
  local cooldown_ms = redis.call('PTTL', model.keys.closed)
  local open_until = tonumber(redis.call('HGET', model.keys.breaker, 'open_at') or 0)
  local probing = open_until > 0
  if cooldown_ms > 0 then
    note({reason = 'RATE_LIMITED', ms = cooldown_ms})
  elseif open_until > now then
    note({reason = 'BREAKER_OPEN', ms = open_until - now})
  elseif probing and not has_room(model.probe) then
    note({reason = 'BREAKER_OPEN', ms = tonumber(probe_wait_ms), probe = model.probe, number = #shared + number})
  elseif not has_room(model.own) then
    return refuse(model.own, #shared + number)
  else
    local ms = wait_for_turn(model)
    if ms == 0 then return admit(number, model, probing) end
    note({reason = 'RATE_LIMITED', ms = ms, turns = model.turns, turn_at = model.turn_at})
  end
end

if soonest.probe then
  local reply = refuse(soonest.probe, soonest.number)
  return {'probing', unpack(reply, 2)}
end
if soonest.turns then
  redis.call('ZADD', soonest.turns, soonest.turn_at, waiter)
  redis.call('ZREMRANGEBYSCORE', soonest.turns, '-inf', oldest_turn)
  keep_alive(soonest.turns, math.ceil(soonest.turn_at - now) + SLACK_MS)
end
leave_waiters()
leave_turns(soonest.turns)
return {'unavailable', soonest.reason, math.ceil(soonest.ms), soonest.turns and 1 or 0, unpack(woken)}
