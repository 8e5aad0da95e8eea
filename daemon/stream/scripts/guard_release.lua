-- Gives places back. KEYS: guards. ARGV: member. Only this member's own token is removed, so a zombie frees nobody else's place.
local freed = 0
for _, key in ipairs(KEYS) do freed = freed + redis.call('ZREM', key, ARGV[1]) end
return freed
