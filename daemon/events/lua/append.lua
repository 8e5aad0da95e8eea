-- Appends events of one attempt to a task's stream; the single owner of their order (protocol 5).
-- KEYS: stream, state.  ARGV: nonce, attempt (-1: whatever the stream saw last; `2@7`: 2, if nothing came since its seq 7), ttl_s,
-- ttl_after_end_s, queued JSON ('': none),
-- then for each event: type, terminal (1|0), head, tail. An event's JSON is head .. attempt .. ',"seq":' .. seq .. tail.
-- Reply: {status, attempt, seq, cancel}; status 1 appended, 2 this nonce was applied before, 0 a higher attempt exists, -1 ended,
-- -2 something came since.
-- Every read comes before the first XADD, so a full Redis refuses all of it and a lost reply may be repeated.
-- Nonces of an attempt (`op`) and of bystanders, who append to whatever attempt runs (`side`), are kept apart: a bystander between
-- an attempt's append and its repetition must not make the attempt's nonce forgotten, or a delta would be doubled.
local state = redis.call('HMGET', KEYS[2], 'attempt', 'seq', 'op', 'side', 'ended', 'cancel')
local seen, seq = tonumber(state[1] or 0), tonumber(state[2] or 0)
local cancel = state[6] and 1 or 0
if state[3] == ARGV[1] or state[4] == ARGV[1] then return {2, seen, seq, cancel} end
if state[5] then return {-1, seen, seq, cancel} end
local attempt, nonce, last = tonumber(ARGV[2]), 'op', nil
if not attempt then
  local one, two = string.match(ARGV[2], '^(%d+)@(%d+)$')
  attempt, last = tonumber(one), tonumber(two)
end
if attempt == -1 then attempt, nonce = seen, 'side' end
if attempt < seen then return {0, seen, seq, cancel} end
if attempt > seen then seq = 0 end
if last and last ~= seq then return {-2, seen, seq, cancel} end

-- Whoever comes first writes `queued`; one that a producer wrote before us is kept.
if ARGV[5] ~= '' and redis.call('XLEN', KEYS[1]) == 0 then
  redis.call('XADD', KEYS[1], '*', 'type', 'queued', 'data', ARGV[5])
end
local ended = false
for i = 6, #ARGV, 4 do
  seq = seq + 1
  redis.call('XADD', KEYS[1], '*', 'type', ARGV[i], 'data', ARGV[i + 2] .. attempt .. ',"seq":' .. seq .. ARGV[i + 3])
  ended = ended or ARGV[i + 1] == '1'
end
if #ARGV > 5 then redis.call('HSET', KEYS[2], 'attempt', attempt, 'seq', seq, nonce, ARGV[1]) end
if ended then redis.call('HSET', KEYS[2], 'ended', 1) end
local ttl = ended and ARGV[4] or ARGV[3]
redis.call('EXPIRE', KEYS[1], ttl)
redis.call('EXPIRE', KEYS[2], ttl)
return {1, attempt, seq, cancel}
