-- Settles an entry and leaves a dead letter. KEYS: stream, waiting, counter, dead, blobs…. ARGV: group, id, consumer, taskId,
-- whole (as in ack), keep_count, keep_ms, then the fields of the letter. Reply: {owned, clamped}.
local entry = redis.call('XPENDING', KEYS[1], ARGV[1], ARGV[2], ARGV[2], 1)[1]
if not entry or entry[2] ~= ARGV[3] then return {0, 0} end
redis.call('XACK', KEYS[1], ARGV[1], ARGV[2])
redis.call('XDEL', KEYS[1], ARGV[2])
redis.call('XADD', KEYS[4], 'MAXLEN', '~', ARGV[6], '*', unpack(ARGV, 8))
local t = redis.call('TIME')
redis.call('XTRIM', KEYS[4], 'MINID', '~', t[1] * 1000 - ARGV[7])
local clamped = 0
if ARGV[5] == '1' then
  if redis.call('ZREM', KEYS[2], ARGV[4]) == 1 and redis.call('DECR', KEYS[3]) < 0 then
    redis.call('INCR', KEYS[3])
    clamped = 1
  end
  for i = 5, #KEYS do redis.call('DEL', KEYS[i]) end
end
return {1, clamped}
