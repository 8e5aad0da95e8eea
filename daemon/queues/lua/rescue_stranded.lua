-- Rescues stranded entries, which nobody will ever be handed: XGROUP DELCONSUMER took them out of the pending list,
-- and the group has passed them.
-- KEYS: stream, ready
-- ARGV: group, count
-- Reply: how many were moved to the end of :ready
-- Repeatable: each entry is moved once. An entry between delivery and settling is always pending (both are one step),
--   so whatever lies before the group's position and is not pending is stranded.
local stream, ready = unpack(KEYS)
local group, count = unpack(ARGV)

if redis.call('XLEN', stream) == 0 then return 0 end
local info = group_info(stream, group)
if not info then return 0 end
local rescued = 0
for _, entry in ipairs(redis.call('XRANGE', stream, '-', info['last-delivered-id'], 'COUNT', count)) do
  local entry_id, content = unpack(entry)
  if #redis.call('XPENDING', stream, group, entry_id, entry_id, 1) == 0 then
    redis.call('XADD', ready, '*', unpack(content))
    redis.call('XDEL', stream, entry_id)
    rescued = rescued + 1
  end
end
return rescued
