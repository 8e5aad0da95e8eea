-- Renews the leases of our pending entries of one stream.
-- KEYS: stream
-- ARGV: group, consumer, entry_ids…
-- Reply: the ids that are no longer ours
-- Repeatable: renews again. A bare XCLAIM would let a resumed zombie steal an entry back from its new owner, hence
--   the look first; JUSTID leaves the delivery count alone.
local stream = KEYS[1]
local group, consumer = unpack(ARGV, 1, 2)
local entry_ids = take(ARGV, 3)

local lost = {}
for _, entry_id in ipairs(entry_ids) do
  if is_owner(stream, group, entry_id, consumer) then
    redis.call('XCLAIM', stream, group, consumer, 0, entry_id, 'JUSTID')
  else
    lost[#lost + 1] = entry_id
  end
end
return lost
