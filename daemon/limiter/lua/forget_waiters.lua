-- Takes all waiters of one queue out of every line: it is paused, so nobody would come when notified.
-- KEYS: waits
-- ARGV: waiter_prefix
--   waiter_prefix: of the queue's waiters; the limiters behind `waits` share its hash slot
-- Reply: how many
-- Repeatable: a waiter goes once. They keep their age: asked again, they stand where they stood.
local waits = KEYS[1]
local waiter_prefix = ARGV[1]

local gone = 0
for _, permits in ipairs(redis.call('HKEYS', waits)) do
  local waiters = waiters_of(permits)
  for _, waiter in ipairs(redis.call('ZRANGE', waiters, 0, -1)) do
    if string.sub(waiter, 1, #waiter_prefix) == waiter_prefix then
      gone = gone + redis.call('ZREM', waiters, waiter)
    end
  end
end
return gone
