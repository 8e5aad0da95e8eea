-- Moves an entry of ours to :ready, which also wakes a blocked reader. KEYS: stream, ready. ARGV: group, id, consumer.
-- Reply: 1 moved, 0 not ours any more. The content is copied here, so it never crosses the wire. XACK first: runs when Redis is full.
local entry = redis.call('XPENDING', KEYS[1], ARGV[1], ARGV[2], ARGV[2], 1)[1]
if not entry or entry[2] ~= ARGV[3] then return 0 end
local content = redis.call('XRANGE', KEYS[1], ARGV[2], ARGV[2])[1]
redis.call('XACK', KEYS[1], ARGV[1], ARGV[2])
redis.call('XDEL', KEYS[1], ARGV[2])
if content then redis.call('XADD', KEYS[2], '*', unpack(content[2])) end
return 1
