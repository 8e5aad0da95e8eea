-- Settles an entry of ours: XACK and XDEL.
-- KEYS: stream, waiting, counter, blobs…
-- ARGV: group, entry_id, consumer, task_id, whole_task
--   whole_task: 1 the task is over: its occupancy, if it is counted, and its blobs go too; 0 only this entry goes
-- Reply: {owned, clamped}; owned 0: it is not pending to us, and nothing was changed
-- Repeatable: a settled entry is not ours. XACK comes first, so that this runs when Redis is full.
local stream, waiting, counter = unpack(KEYS, 1, 3)
local group, entry_id, consumer, task_id, whole_task = unpack(ARGV)
local blobs = take(KEYS, 4)

if not is_owner(stream, group, entry_id, consumer) then return {0, 0} end
acknowledge(stream, group, entry_id)
return {1, whole_task == '1' and finish_task(waiting, counter, task_id, blobs) or 0}
