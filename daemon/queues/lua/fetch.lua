-- Reads new entries, those of :ready before those of :tasks, never more than there are free slots.
-- KEYS: ready, tasks, control
-- ARGV: group, consumer, count
-- Reply: {ready entries, tasks entries}, and a third, 1, when the queue is paused: then nothing was read, even if the
--   notice of the pause was lost on its way to us
-- Repeatable: what a lost reply delivered stays pending to us and is found there. COUNT of XREADGROUP is per stream,
--   which is why this is a script.
local ready, tasks, control = unpack(KEYS)
local group, consumer, count = unpack(ARGV)

if is_paused(control) then return {{}, {}, 1} end
local function read(stream, most)
  if most <= 0 then return {} end
  local reply = redis.call('XREADGROUP', 'GROUP', group, consumer, 'COUNT', most, 'STREAMS', stream, '>')
  return reply and reply[1] and reply[1][2] or {}
end
local from_ready = read(ready, tonumber(count))
return {from_ready, read(tasks, count - #from_ready)}
