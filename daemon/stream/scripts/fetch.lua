-- Reads new entries, :ready before :tasks, never more than there are free slots. KEYS: ready, tasks. ARGV: group, consumer, count.
-- Reply: {ready entries, tasks entries}. COUNT of XREADGROUP is per stream, which is why this is a script.
local function read(key, count)
  if count <= 0 then return {} end
  local reply = redis.call('XREADGROUP', 'GROUP', ARGV[1], ARGV[2], 'COUNT', count, 'STREAMS', key, '>')
  return reply and reply[1] and reply[1][2] or {}
end
local count = tonumber(ARGV[3])
local ready = read(KEYS[1], count)
return {ready, read(KEYS[2], count - #ready)}
