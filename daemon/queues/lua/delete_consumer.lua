-- Deletes a consumer from both groups of a queue if nothing is pending to it.
-- KEYS: ready, tasks
-- ARGV: group, consumer
-- Reply: 1 deleted, 0 it still has entries
-- Repeatable: deleting it again changes nothing. Looking and deleting are one script, since XGROUP DELCONSUMER drops
--   what is pending, for good.
local ready, tasks = unpack(KEYS)
local group, consumer = unpack(ARGV)

local streams = {ready, tasks}
for _, stream in ipairs(streams) do
  if redis.call('EXISTS', stream) == 1 and #redis.call('XPENDING', stream, group, '-', '+', 1, consumer) > 0 then
    return 0
  end
end
for _, stream in ipairs(streams) do
  if redis.call('EXISTS', stream) == 1 then redis.call('XGROUP', 'DELCONSUMER', stream, group, consumer) end
end
return 1
