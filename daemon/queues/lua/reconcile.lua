-- Puts the counter of a queue right. KEYS: counter, waiting, drift, mark. ARGV: promise_ttl_ms, mark_ms.
-- Reply: {old, raised, lowered}; old 1: a member is older than a promise may be. Nothing while another process has just looked. Too low is raised at once: everybody in the set is counted.
-- Of a surplus only the smallest seen over a whole promise time goes: a producer that counts by a bare INCR is ahead of its message by
-- less than that, so it is never fought. The mark ends by itself.
if not redis.call('SET', KEYS[4], '1', 'NX', 'PX', ARGV[2]) then return {0, 0, 0} end
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
local old = redis.call('ZCOUNT', KEYS[2], '-inf', now - ARGV[1]) > 0 and 1 or 0
local text, card = redis.call('GET', KEYS[1]) or '0', redis.call('ZCARD', KEYS[2])
local count = string.match(text, '^%-?%d+$') and #text <= 15 and tonumber(text) or -1
if count < card then
  redis.call('SET', KEYS[1], card)
  redis.call('DEL', KEYS[3])
  return {old, card - count, 0}
end
local surplus = count - card
if surplus == 0 then
  redis.call('DEL', KEYS[3])
  return {old, 0, 0}
end
local least, since = unpack(redis.call('HMGET', KEYS[3], 'least', 'since'))
if not since then
  redis.call('HSET', KEYS[3], 'least', surplus, 'since', string.format('%d', now))
else
  surplus = math.min(surplus, tonumber(least))
  if now - since >= tonumber(ARGV[1]) then
    redis.call('DECRBY', KEYS[1], surplus)
    redis.call('DEL', KEYS[3])
    return {old, 0, surplus}
  end
  redis.call('HSET', KEYS[3], 'least', surplus)
end
redis.call('PEXPIRE', KEYS[3], ARGV[1] * 3)
return {old, 0, 0}
