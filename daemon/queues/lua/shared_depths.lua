-- Who lives and what the guards hold; changes nothing. KEYS: consumers, guards…, marks of closed models…. ARGV: number of guards.
-- Reply: {now (server ms), living members (queue/consumer), places in use of each guard, why each model is closed or '', bytes of
-- memory used, most that may be used (0: no limit; -1 both: this server does not say)}.
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
local used, closed = {}, {}
for i = 2, 1 + ARGV[1] do used[#used + 1] = redis.call('ZCOUNT', KEYS[i], '(' .. now, '+inf') end
for i = 2 + ARGV[1], #KEYS do closed[#closed + 1] = redis.call('GET', KEYS[i]) or '' end
local memory, most = -1, -1
local info = redis.pcall('INFO', 'memory')
if type(info) == 'table' and info.verbatim_string then info = info.verbatim_string.string end
if type(info) == 'string' then
  memory = tonumber(string.match(info, 'used_memory:(%d+)')) or -1
  most = tonumber(string.match(info, 'maxmemory:(%d+)')) or -1
end
return {now, redis.call('ZRANGEBYSCORE', KEYS[1], '(' .. now, '+inf'), used, closed, memory, most}
