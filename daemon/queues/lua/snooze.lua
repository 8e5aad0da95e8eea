-- Delays a task: moves an entry of ours to :retry and :held.
-- KEYS: stream, retry, held, seen, woken
-- ARGV: group, entry_id, consumer, task_id, due_in_ms, entry, seen_ttl_s, wakeable
--   entry: JSON
--   wakeable: 1 it waits for a permit: one that was woken between its refusal and this moment is due at once
-- Reply: {owned, due (server ms), due_in_ms}; owned 0: it is not pending to us, and nothing was changed
-- Repeatable: a settled entry is not ours. ZADD comes first: a full Redis refuses all of it and the entry stays
--   pending to us. A task that was delayed before its first start stays in `waiting`; `seen` lives on, so that
--   it never looks like a mere reservation.
local stream, retry, held, seen, woken = unpack(KEYS)
local group, entry_id, consumer, task_id, due_in_ms, entry, seen_ttl_s, wakeable = unpack(ARGV)

if not is_owner(stream, group, entry_id, consumer) then return {0, 0, 0} end
due_in_ms = wakeable == '1' and redis.call('EXISTS', woken) == 1 and 0 or tonumber(due_in_ms)
local due = server_ms() + due_in_ms
redis.call('ZADD', retry, due, task_id)
redis.call('HSET', held, task_id, entry)
acknowledge(stream, group, entry_id)
redis.call('EXPIRE', seen, seen_ttl_s)
if wakeable == '1' then redis.call('DEL', woken) end
return {1, due, due_in_ms}
