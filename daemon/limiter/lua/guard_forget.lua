-- Takes all waiters of one queue out of every line (it is paused, so nobody would come when called). KEYS: waits. ARGV: prefix of the
-- queue's waiters. Reply: how many. They keep their age: asked again, they stand where they stood.
local gone = 0
for _, guard in ipairs(redis.call('HKEYS', KEYS[1])) do
  local wait = string.gsub(guard, '^{guard}:', '{guard}:wait:', 1)
  for _, waiter in ipairs(redis.call('ZRANGE', wait, 0, -1)) do
    if string.sub(waiter, 1, #ARGV[1]) == ARGV[1] then gone = gone + redis.call('ZREM', wait, waiter) end
  end
end
return gone
