-- Releases the occupancy of a message that will never come.
-- KEYS: seen, waiting, counter, reservation
-- ARGV: task_id
-- Reply: {accepted, clamped}; accepted 1: the message came after all and stays counted
-- Repeatable: it is released once. ZREM comes first, so that this runs when Redis is full. A bare INCR of a
--   `counted` producer left no member to remove: reconcile.lua takes that one back.
local seen, waiting, counter, reservation = unpack(KEYS)
local task_id = ARGV[1]

if redis.call('EXISTS', seen) == 1 then return {1, 0} end
local _, clamped = release_occupancy(waiting, counter, task_id)
redis.call('DEL', reservation)
return {0, clamped}
