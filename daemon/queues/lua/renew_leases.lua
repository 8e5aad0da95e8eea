-- Renews the leases of our pending entries of one stream, or hands them to another consumer.
-- KEYS: stream
-- ARGV: group, consumer, heir, entry_ids…
--   heir: whose they are from now on; the same consumer, to renew them
-- Reply: {taken, vanished}: ids that another consumer has now, and ids that are pending to nobody
-- Repeatable: renews again, and what was handed over is found with its heir. A bare XCLAIM would let a resumed zombie
--   steal an entry back from its new owner, hence the look first; JUSTID leaves the delivery count alone.
local stream = KEYS[1]
local group, consumer, heir = unpack(ARGV, 1, 3)
local entry_ids = take(ARGV, 4)

local taken, vanished = {}, {}
for _, entry_id in ipairs(entry_ids) do
  local entry = redis.call('XPENDING', stream, group, entry_id, entry_id, 1)[1]
  if not entry then
    vanished[#vanished + 1] = entry_id
  elseif entry[2] == consumer or entry[2] == heir then
    redis.call('XCLAIM', stream, group, heir, 0, entry_id, 'JUSTID')
  else
    taken[#taken + 1] = entry_id
  end
end
return {taken, vanished}
