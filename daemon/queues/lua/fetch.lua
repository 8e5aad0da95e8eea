-- Reads new entries, :ready before :tasks, never more than there are free slots. KEYS: ready, tasks, control. ARGV: group, consumer,
-- count. Reply: {ready entries, tasks entries}, and a third, 1, when the queue is paused: then nothing was read, even if the word of it
-- was lost on its way to us. COUNT of XREADGROUP is per stream, which is why this is a script.
local paused = string.lower(redis.call('HGET', KEYS[3], 'paused') or '')
if paused ~= '' and paused ~= '0' and paused ~= 'false' and paused ~= 'no' then return {{}, {}, 1} end
local function read(key, count)
  if count <= 0 then return {} end
  local reply = redis.call('XREADGROUP', 'GROUP', ARGV[1], ARGV[2], 'COUNT', count, 'STREAMS', key, '>')
  return reply and reply[1] and reply[1][2] or {}
end
local count = tonumber(ARGV[3])
local ready = read(KEYS[1], count)
return {ready, read(KEYS[2], count - #ready)}
