-- Moves an entry of ours to :ready, which also wakes a blocked reader.
-- KEYS: stream, ready
-- ARGV: group, entry_id, consumer
-- Reply: 1 moved, 0 not ours any more
-- Repeatable: a settled entry is not ours. The content is copied here, so it never crosses the wire. XACK comes
--   first, so that the entry is settled when Redis is full.
local stream, ready = unpack(KEYS)
local group, entry_id, consumer = unpack(ARGV)

if not is_owner(stream, group, entry_id, consumer) then return 0 end
local entry = redis.call('XRANGE', stream, entry_id, entry_id)[1]
acknowledge(stream, group, entry_id)
if entry then redis.call('XADD', ready, '*', unpack(entry[2])) end
return 1
