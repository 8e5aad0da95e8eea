-- Renews our pending entries of one stream. KEYS: stream. ARGV: group, consumer, ids…. Reply: the ids that are no longer ours.
-- A bare XCLAIM would let a resumed zombie steal an entry back from its new owner, hence the look first; JUSTID leaves the count alone.
local lost = {}
for i = 3, #ARGV do
  local entry = redis.call('XPENDING', KEYS[1], ARGV[1], ARGV[i], ARGV[i], 1)[1]
  if entry and entry[2] == ARGV[2] then
    redis.call('XCLAIM', KEYS[1], ARGV[1], ARGV[2], 0, ARGV[i], 'JUSTID')
  else
    lost[#lost + 1] = ARGV[i]
  end
end
return lost
