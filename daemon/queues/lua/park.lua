-- Moves an entry of ours to :retry and :held. KEYS: stream, retry, held, seen, woken. ARGV: group, id, consumer, taskId, due_in_ms, entry
-- JSON, seen_ttl_s, wakeable (1: it waits to be called). Reply: {owned, due (server ms), due_in_ms}. ZADD comes first: a full Redis
-- refuses all of it and the entry stays pending to us. A task that was called between its refusal and this moment is due at once.
-- A task parked before its first start keeps its place in :waiting; `seen` lives on, so that place never looks like a mere promise.
local entry = redis.call('XPENDING', KEYS[1], ARGV[1], ARGV[2], ARGV[2], 1)[1]
if not entry or entry[2] ~= ARGV[3] then return {0, 0, 0} end
local t = redis.call('TIME')
local due_in = ARGV[8] == '1' and redis.call('EXISTS', KEYS[5]) == 1 and 0 or tonumber(ARGV[5])
local due = t[1] * 1000 + math.floor(t[2] / 1000) + due_in
redis.call('ZADD', KEYS[2], due, ARGV[4])
redis.call('HSET', KEYS[3], ARGV[4], ARGV[6])
redis.call('XACK', KEYS[1], ARGV[1], ARGV[2])
redis.call('XDEL', KEYS[1], ARGV[2])
redis.call('EXPIRE', KEYS[4], ARGV[7])
if ARGV[8] == '1' then redis.call('DEL', KEYS[5]) end
return {1, due, due_in}
