-- Removes a consumer from both groups of a queue if it has nothing pending there. KEYS: ready, tasks. ARGV: group, consumer.
-- Reply: 1 removed, 0 it still has entries. Looking and deleting are one script: DELCONSUMER drops what is pending, for good.
for _, key in ipairs(KEYS) do
  if redis.call('EXISTS', key) == 1 and #redis.call('XPENDING', key, ARGV[1], '-', '+', 1, ARGV[2]) > 0 then return 0 end
end
for _, key in ipairs(KEYS) do
  if redis.call('EXISTS', key) == 1 then redis.call('XGROUP', 'DELCONSUMER', key, ARGV[1], ARGV[2]) end
end
return 1
