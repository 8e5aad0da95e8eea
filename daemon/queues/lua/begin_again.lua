-- Empties the events of a task that ended, so that they can begin again with `queued`. KEYS: stream, state.
-- Reply: 1 emptied, 0 they have not ended (any more): a second replay must not take the events of the first one's run away.
-- `attempt` stays: it is the fence, and a zombie of the run before is still refused.
if redis.call('HEXISTS', KEYS[2], 'ended') == 0 then return 0 end
redis.call('DEL', KEYS[1])
redis.call('HDEL', KEYS[2], 'ended', 'cancel', 'op', 'side')
redis.call('HSET', KEYS[2], 'seq', 0)
return 1
