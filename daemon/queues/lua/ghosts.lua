-- Frees entries that nobody will ever be handed: XGROUP DELCONSUMER took them out of the pending list, and the group has passed them.
-- KEYS: stream, ready. ARGV: group, most. Reply: how many were moved to the end of :ready. An entry between delivery and settling is
-- always pending (both are one step), so whatever lies before the group's position and is not pending is a ghost.
if redis.call('EXISTS', KEYS[1]) == 0 then return 0 end
local last
for _, group in ipairs(redis.call('XINFO', 'GROUPS', KEYS[1])) do
  local told = {}
  for i = 1, #group, 2 do told[group[i]] = group[i + 1] end
  if told.name == ARGV[1] then last = told['last-delivered-id'] end
end
if not last then return 0 end
local moved = 0
for _, entry in ipairs(redis.call('XRANGE', KEYS[1], '-', last, 'COUNT', ARGV[2])) do
  if #redis.call('XPENDING', KEYS[1], ARGV[1], entry[1], entry[1], 1) == 0 then
    redis.call('XADD', KEYS[2], '*', unpack(entry[2]))
    redis.call('XDEL', KEYS[1], entry[1])
    moved = moved + 1
  end
end
return moved
