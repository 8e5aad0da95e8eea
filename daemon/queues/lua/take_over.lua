-- Takes over entries of owners that are proved dead, however short their leases have been idle.
-- KEYS: ready, tasks
-- ARGV: group, consumer, count, owners…
-- Reply: {ready, tasks}, each {entries, ids that were deleted while pending}; at most `count` entries
-- Repeatable: what a lost reply took over is pending to us and is found there. An entry that another process has taken
--   over meanwhile is not pending to the dead owner any more.
local ready, tasks = unpack(KEYS)
local group, consumer, count = unpack(ARGV, 1, 3)
local owners = take(ARGV, 4)

local left = tonumber(count)
local function take_from(stream)
  local entries, deleted = {}, {}
  for _, owner in ipairs(owners) do
    local pending = left > 0 and redis.call('XPENDING', stream, group, '-', '+', left, owner) or {}
    for _, found in ipairs(pending) do
      local entry = redis.call('XCLAIM', stream, group, consumer, 0, found[1])[1]
      if entry then
        entries[#entries + 1] = entry
        left = left - 1
      else
        redis.call('XACK', stream, group, found[1])
        deleted[#deleted + 1] = found[1]
      end
    end
  end
  return {entries, deleted}
end
return {take_from(ready), take_from(tasks)}
