-- Takes over entries whose owner let its lease run out. KEYS: sweep, ready, tasks. ARGV: group, consumer, lease_ms, count, cursor of
-- ready, cursor of tasks, hold_ms. Reply: false while another process sweeps this queue, else {ready, tasks}, each
-- {next cursor, entries, ids that were deleted while pending}. The mark expires by itself: nothing is left behind by a crash.
-- The mark is ours if its value is our name: a process may sweep again at once to follow its cursor.
local holder = redis.call('GET', KEYS[1])
if holder and holder ~= ARGV[2] then return false end
redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[7])
local function claim(key, cursor)
  return redis.call('XAUTOCLAIM', key, ARGV[1], ARGV[2], ARGV[3], cursor, 'COUNT', ARGV[4])
end
return {claim(KEYS[2], ARGV[5]), claim(KEYS[3], ARGV[6])}
