-- What the scripts of all rooms share. The loader (redis_client/scripts.py) puts before a script the blocks that it
-- uses. A block is one local with its comment; an empty line ends it. It may use the blocks above it.

-- The server's clock in ms: the only one that all processes share.
local function server_ms()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

-- `count` values of a list from `at` on (without it: all that are left), and the position behind them.
local function take(list, at, count)
  local values = {}
  for i = at, count and at + count - 1 or #list do values[#values + 1] = list[i] end
  return values, at + #values
end

-- The same for values that come in groups: each group is a table with the given names.
local function take_records(list, at, names, count)
  local records = {}
  for _ = 1, tonumber(count or (#list - at + 1) / #names) do
    local record = {}
    for i = 1, #names do record[names[i]] = list[at + i - 1] end
    records[#records + 1] = record
    at = at + #names
  end
  return records, at
end

-- Whether the entry is pending to this consumer; if not, it is settled or another consumer has taken it over.
local function is_owner(stream, group, entry_id, consumer)
  local entry = redis.call('XPENDING', stream, group, entry_id, entry_id, 1)[1]
  return entry and entry[2] == consumer
end

-- Takes an entry off its stream. XACK and XDEL are let through when Redis is full.
local function acknowledge(stream, group, entry_id)
  redis.call('XACK', stream, group, entry_id)
  redis.call('XDEL', stream, entry_id)
end

-- Releases a task's occupancy of its queue, if it is counted: {released (1|0), clamped (1|0)}. A counter that would
-- fall below zero is clamped, and the caller counts that. ZREM comes first: it is let through when Redis is full.
local function release_occupancy(waiting, counter, task_id)
  if redis.call('ZREM', waiting, task_id) == 0 then return 0, 0 end
  if redis.call('DECR', counter) >= 0 then return 1, 0 end
  redis.call('INCR', counter)
  return 1, 1
end

-- The task is over: its occupancy, if it is counted, and its blobs go. Whether the counter was clamped (1|0).
local function finish_task(waiting, counter, task_id, blobs)
  local _, clamped = release_occupancy(waiting, counter, task_id)
  for _, blob in ipairs(blobs) do redis.call('DEL', blob) end
  return clamped
end

-- Moves a delayed task to :ready. XADD comes first: a full Redis refuses all of it.
local function run_delayed(retry, held, ready, task_id, entry)
  redis.call('XADD', ready, '*', 'task', entry)
  redis.call('ZREM', retry, task_id)
  redis.call('HDEL', held, task_id)
end

-- The reply to a task id that was accepted before, or nil.
local function reply_if_seen(seen, sha256)
  local accepted = redis.call('GET', seen)
  if not accepted then return nil end
  local entry_id, accepted_sha256 = string.match(accepted, '^([^:]*):(.*)$')
  return {accepted_sha256 == sha256 and 'duplicate' or 'conflict', entry_id or accepted}
end

-- The counter of a queue as a number; nil when it holds something else.
local function occupancy_of(counter)
  local text = redis.call('GET', counter) or '0'
  if #text > 15 or not string.match(text, '^%-?%d+$') then return nil end
  return tonumber(text)
end

-- The capacity of the queue: what its control hash says, else `max_size`.
local function capacity_of(control, max_size)
  return tonumber(redis.call('HGET', control, 'maxSize') or max_size) or tonumber(max_size)
end

-- The ETA: ms until as many tasks have started as `starts` (-1: unknown). It never promises a faster pace than the
-- time since the last start.
local function eta_ms(pace, starts)
  local last, mean = unpack(redis.call('HMGET', pace, 'last', 'mean'))
  if not mean then return -1 end
  local each_ms = math.max(tonumber(mean), server_ms() - last)
  return math.floor(each_ms < 0 and -1 or each_ms * starts)
end

-- Whether an operator has paused the queue. `domain.queues.is_paused` reads the field in the same way, and a test
-- holds them to that.
local function is_paused(control)
  local paused = string.lower(redis.call('HGET', control, 'paused') or '')
  return paused ~= '' and paused ~= '0' and paused ~= 'false' and paused ~= 'no'
end

-- The consumer group as XINFO GROUPS shows it, by field; nil when there is no such stream or group.
local function group_info(stream, group)
  local groups = redis.pcall('XINFO', 'GROUPS', stream)
  if groups.err then return nil end
  for _, fields in ipairs(groups) do
    local info = {}
    for i = 1, #fields, 2 do info[fields[i]] = fields[i + 1] end
    if info.name == group then return info end
  end
  return nil
end
