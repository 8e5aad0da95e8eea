-- Who lives, how many permits are in use, which models are closed, and how full the server is.
-- KEYS: consumers, permits…, closed…
-- ARGV: permits_count
-- Reply: {now (server ms), living members (queue/consumer), permits in use of each limiter, why each model is closed
--   or '', bytes of memory used, most that may be used (0: no limit; -1 both: this server does not say)}
-- Repeatable: changes nothing.
local consumers = KEYS[1]
local permits_count = ARGV[1]
local permits, closed_at = take(KEYS, 2, permits_count)
local closed = take(KEYS, closed_at)

local now = server_ms()
local in_use, reasons = {}, {}
for i, limiter in ipairs(permits) do in_use[i] = redis.call('ZCOUNT', limiter, '(' .. now, '+inf') end
for i, model in ipairs(closed) do reasons[i] = redis.call('GET', model) or '' end
local memory, most = -1, -1
local info = redis.pcall('INFO', 'memory')
if type(info) == 'table' and info.verbatim_string then info = info.verbatim_string.string end
if type(info) == 'string' then
  memory = tonumber(string.match(info, 'used_memory:(%d+)')) or -1
  most = tonumber(string.match(info, 'maxmemory:(%d+)')) or -1
end
return {now, redis.call('ZRANGEBYSCORE', consumers, '(' .. now, '+inf'), in_use, reasons, memory, most}
