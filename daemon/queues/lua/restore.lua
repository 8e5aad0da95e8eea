-- Puts a task back that Redis has forgotten. KEYS: retry, ready, mark. ARGV: taskId, entry JSON, mark_ms.
-- Reply: 1 put back, 0 somebody has it or did so just now. The mark keeps two sweepers, or one whose reply was lost, from doubling it.
if redis.call('ZSCORE', KEYS[1], ARGV[1]) or redis.call('EXISTS', KEYS[3]) == 1 then return 0 end
redis.call('XADD', KEYS[2], '*', 'task', ARGV[2])
redis.call('SET', KEYS[3], '1', 'PX', ARGV[3])
return 1
