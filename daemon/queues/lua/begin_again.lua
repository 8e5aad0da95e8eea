-- Empties the events of a task that has ended, so that they can begin again with `queued`.
-- KEYS: stream, state
-- ARGV: none
-- Reply: 1 emptied, 0 they have not ended (any more)
-- Repeatable: a second replay must not take the events of the first one's run away. `attempt` stays: it is the fence,
--   and a zombie of the run before is still refused.
local stream, state = unpack(KEYS)

if redis.call('HEXISTS', state, 'ended') == 0 then return 0 end
redis.call('DEL', stream)
redis.call('HDEL', state, 'ended', 'cancel', 'op', 'side')
redis.call('HSET', state, 'seq', 0)
return 1
