-- Releases permits, hands them to the oldest waiters, and notes what the call reports of its model.
-- KEYS: notified, limiters[permits, waiters]…, model[closed, breaker, slowdown, requests, tokens, probe,
--   probe_waiters]?
-- ARGV: token, reservation_ms, wake_max, limiters_count, limits…, report[outcome, cooldown_ms, cooldown_reason,
--   request_ms, token_ms, tokens_reserved, tokens_used, failures_max, window_ms, open_ms, open_max_ms, slow_down,
--   own_limiter, requests_sent, lower_factor, lower_every_ms, slowdown_ttl_ms]?
--   model, report: both or none: without a report nothing is learned of the model
--   outcome: ok, failed, closed, none (says nothing of the model) or unused (no call was made)
--   cooldown_ms, cooldown_reason: the model is closed for so long, and why
--   request_ms, token_ms: ms each at the model's rates (0: no limit)
--   tokens_reserved, tokens_used: when the permit was acquired, and in truth (-1: unknown)
--   requests_sent: one of them was reserved
--   failures_max, window_ms, open_ms, open_max_ms: the breaker opens after so many failures in a row within the
--     window, for so long; one probe finds out then, and each that fails doubles the time up to a maximum
--   slow_down: 1 too many at once: run fewer for a while
--   own_limiter: number of the model's own limiter
--   lower_factor, lower_every_ms, slowdown_ttl_ms: of the adaptive limit
-- Reply: {permits released, opened (1: the breaker has just opened), woken…}
-- Repeatable: only this token's permits are released, so a zombie releases nobody else's; the report counts only if
--   the permit of the model's own limiter was still ours, hence once.
local notified = KEYS[1]
local token, reservation_ms, wake_max, limiters_count = unpack(ARGV, 1, 4)
local limiters, model_at = take_records(KEYS, 2, {'permits', 'waiters'}, limiters_count)
local model = take_records(KEYS, model_at, {'closed', 'breaker', 'slowdown', 'requests', 'tokens', 'probe',
  'probe_waiters'})[1]
local limits, report_at = take(ARGV, 5, limiters_count)
local report = take_records(ARGV, report_at, {'outcome', 'cooldown_ms', 'cooldown_reason', 'request_ms', 'token_ms',
  'tokens_reserved', 'tokens_used', 'failures_max', 'window_ms', 'open_ms', 'open_max_ms', 'slow_down', 'own_limiter',
  'requests_sent', 'lower_factor', 'lower_every_ms', 'slowdown_ttl_ms'})[1] or {}

reservation_ms, wake_max = tonumber(reservation_ms), tonumber(wake_max)
local outcome, reason = report.outcome, report.cooldown_reason
for name, value in pairs(report) do report[name] = tonumber(value) or value end
local released, opened, own = 0, 0, nil

for i, limiter in ipairs(limiters) do
  limiter.limit = tonumber(limits[i])
  local removed = redis.call('ZREM', limiter.permits, token)
  released = released + removed
  if i == report.own_limiter and removed == 1 then own = limiter end
end

-- Charges a rate by so many ms more, or less.
local function correct(rate, ms)
  if ms == 0 then return end
  local charged_until = tonumber(redis.call('GET', rate) or now) + ms
  if charged_until > now then charge_rate(rate, charged_until) else redis.call('DEL', rate) end
end

local function correct_rates()
  local used = outcome == 'unused' and 0 or report.tokens_used
  if outcome == 'unused' then correct(model.requests, -report.request_ms) end
  if report.requests_sent > 1 then correct(model.requests, (report.requests_sent - 1) * report.request_ms) end
  if used >= 0 then correct(model.tokens, (used - report.tokens_reserved) * report.token_ms) end
end

local function close_model()
  if outcome == 'closed' and report.cooldown_ms > 0 and redis.call('PTTL', model.closed) < report.cooldown_ms then
    redis.call('SET', model.closed, reason, 'PX', report.cooldown_ms)
  end
end

-- Notes a failure; whether there are enough of them in the window for the breaker to open.
local function has_failed_enough()
  local times = {}
  for time in string.gmatch(redis.call('HGET', model.breaker, 'times') or '', '%d+') do
    if tonumber(time) > now - report.window_ms then times[#times + 1] = time end
  end
  times[#times + 1] = string.format('%d', now)
  redis.call('HSET', model.breaker, 'times', table.concat(times, ' '))
  keep_alive(model.breaker, report.open_max_ms * 2)
  return #times >= report.failures_max
end

-- Opens after so many failures in a row within the window; then one probe at a time; a failed one doubles the time.
local function update_breaker()
  local open_until = tonumber(redis.call('HGET', model.breaker, 'open_at') or 0)
  local open_ms = tonumber(redis.call('HGET', model.breaker, 'open_ms') or 0)
  local was_probe = limiters[#limiters].permits == model.probe
  if outcome == 'ok' and open_until <= now then
    redis.call('DEL', model.breaker)
    if open_until > 0 then -- it has closed: everybody who waited for the probe may come
      local waiters = redis.call('ZPOPMIN', model.probe_waiters, wake_max)
      for i = 1, #waiters, 2 do notify(notified, waiters[i], reservation_ms) end
    end
  elseif outcome == 'failed' then
    if open_until > 0 then
      if not was_probe then return end
      open_ms = math.min(open_ms * 2, report.open_max_ms)
    else
      if not has_failed_enough() then return end
      open_ms = report.open_ms
    end
    redis.call('HSET', model.breaker, 'open_at', string.format('%d', now + open_ms), 'open_ms', open_ms)
    keep_alive(model.breaker, report.open_max_ms * 2)
    opened = 1
  end
end

-- A refusal lowers what the model may run at once, once in a while at most; a full round of successes raises it by
-- one.
local function update_adaptive_limit()
  local slowdown, limit = model.slowdown, adaptive_limit(model.slowdown, own.limit)
  if outcome == 'closed' and report.slow_down == 1 then
    if now - tonumber(redis.call('HGET', slowdown, 'lowered_at') or 0) > report.lower_every_ms then
      local lowered = math.max(1, math.floor(limit * report.lower_factor))
      redis.call('HSET', slowdown, 'limit', lowered, 'lowered_at', string.format('%d', now), 'good', 0)
      redis.call('PEXPIRE', slowdown, report.slowdown_ttl_ms)
    end
  elseif outcome == 'ok' and redis.call('EXISTS', slowdown) == 1 then
    if redis.call('HINCRBY', slowdown, 'good', 1) < limit then return end
    if limit + 1 >= own.limit then
      redis.call('DEL', slowdown)
    else
      redis.call('HSET', slowdown, 'limit', limit + 1, 'good', 0)
    end
  end
end

if own then
  correct_rates()
  close_model()
  update_breaker()
  update_adaptive_limit()
  own.limit = adaptive_limit(model.slowdown, own.limit)
end
for _, limiter in ipairs(limiters) do
  reserve_for_waiters(limiter.permits, limiter.waiters, limiter.limit, notified, reservation_ms, wake_max)
end
return {released, opened, unpack(woken)}
