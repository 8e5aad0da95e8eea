-- Settles an entry of ours and leaves a dead letter.
-- KEYS: stream, waiting, counter, dead, blobs…
-- ARGV: group, entry_id, consumer, task_id, whole_task, keep_count, keep_ms, letter[field, value]…
--   whole_task: as in ack.lua
--   keep_count, keep_ms: so many dead letters are kept, and for so long
-- Reply: {owned, clamped}; owned 0: it is not pending to us, and nothing was changed
-- Repeatable: a settled entry is not ours. XACK comes first, so that the entry is settled when Redis is full.
local stream, waiting, counter, dead = unpack(KEYS, 1, 4)
local group, entry_id, consumer, task_id, whole_task, keep_count, keep_ms = unpack(ARGV, 1, 7)
local blobs, letter = take(KEYS, 5), take(ARGV, 8)

if not is_owner(stream, group, entry_id, consumer) then return {0, 0} end
acknowledge(stream, group, entry_id)
redis.call('XADD', dead, 'MAXLEN', '~', keep_count, '*', unpack(letter))
redis.call('XTRIM', dead, 'MINID', '~', server_ms() - keep_ms)
return {1, whole_task == '1' and finish_task(waiting, counter, task_id, blobs) or 0}
