-- Appends events of one attempt to a task's stream; the single owner of their order (protocol 5).
-- KEYS: stream, state
-- ARGV: nonce, fence, owner, ttl_s, ended_ttl_s, queued, origin, events[type, terminal, head, tail]…
--   fence: the attempt; -1 whatever the stream saw last; `2@7` attempt 2, if nothing came since its seq 7
--   owner: who runs the attempt; '' a bystander, or whoever repeats the end of an attempt
--   ended_ttl_s: takes the place of ttl_s once the stream has ended
--   queued: JSON of the event `queued`, appended if the stream is empty; '' none
--   origin: JSON of what a row of the task needs and its events do not tell; '' as before
--   head, tail: the JSON of an event is head .. attempt .. ',"seq":' .. seq .. tail
-- Reply: {status, attempt, seq, cancel}; status 1 appended, 2 this nonce was applied before, 0 a higher attempt
--   exists, or another owner's of this number, or this number has started, -1 ended, -2 something came since
-- Repeatable: every read comes before the first XADD, so a full Redis refuses all of it, and the nonce tells a
--   repeated call. Nonces of an attempt (`op`) and of bystanders, who append to whatever attempt runs (`side`), are
--   kept apart: a bystander between an attempt's append and its repetition must not make the attempt's nonce
--   forgotten, or a delta would be doubled.
local stream, state = unpack(KEYS)
local nonce, fence, owner, ttl_s, ended_ttl_s, queued, origin = unpack(ARGV, 1, 7)
local events = take_records(ARGV, 8, {'type', 'terminal', 'head', 'tail'})

local last_attempt, last_seq, op, side, has_ended, cancel_mark, last_owner =
  unpack(redis.call('HMGET', state, 'attempt', 'seq', 'op', 'side', 'ended', 'cancel', 'owner'))
local seen, seq = tonumber(last_attempt or 0), tonumber(last_seq or 0)
local cancel = cancel_mark and 1 or 0
if op == nonce or side == nonce then return {2, seen, seq, cancel} end
if has_ended then return {-1, seen, seq, cancel} end
local attempt, nonce_field, only_after = tonumber(fence), 'op', nil
if not attempt then
  local fenced_attempt, fenced_seq = string.match(fence, '^(%d+)@(%d+)$')
  attempt, only_after = tonumber(fenced_attempt), tonumber(fenced_seq)
end
if attempt == -1 then attempt, nonce_field, owner = seen, 'side', '' end
if attempt < seen then return {0, seen, seq, cancel} end
-- Postgres may have lost commits and hand out a number twice: it starts once, and is its owner's.
if attempt == seen and events[1] and events[1].type == 'started' then return {0, seen, seq, cancel} end
local others = owner ~= '' and last_owner and last_owner ~= '' and last_owner ~= owner
if attempt == seen and others then return {0, seen, seq, cancel} end
if attempt > seen then seq = 0 end
if only_after and only_after ~= seq then return {-2, seen, seq, cancel} end

-- Whoever comes first writes `queued`; one that a producer wrote before us is kept.
if queued ~= '' and redis.call('XLEN', stream) == 0 then
  redis.call('XADD', stream, '*', 'type', 'queued', 'data', queued)
end
local ends = false
for _, event in ipairs(events) do
  seq = seq + 1
  local data = event.head .. attempt .. ',"seq":' .. seq .. event.tail
  redis.call('XADD', stream, '*', 'type', event.type, 'data', data)
  ends = ends or event.terminal == '1'
end
if #events > 0 then
  if attempt == seen and owner == '' then owner = last_owner or '' end
  redis.call('HSET', state, 'attempt', attempt, 'seq', seq, 'owner', owner, nonce_field, nonce)
end
if ends then redis.call('HSET', state, 'ended', 1) end
if origin ~= '' then redis.call('HSET', state, 'origin', origin) end
local ttl = ends and ended_ttl_s or ttl_s
redis.call('EXPIRE', stream, ttl)
redis.call('EXPIRE', state, ttl)
return {1, attempt, seq, cancel}
