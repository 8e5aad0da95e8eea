-- The Lua that Redis >= 6.2 and Valkey offer to a script, and no more: what is not named here is an undefined variable.
-- `redis.setresp` is left out on purpose: managed servers do not have it.
stds.redis = {
  read_globals = {
    "KEYS", "ARGV", "ipairs", "pairs", "select", "tonumber", "tostring", "type", "unpack",
    redis = {fields = {"call", "pcall", "error_reply"}},
    math = {fields = {"ceil", "floor", "max", "min"}},
    string = {fields = {"format", "gmatch", "gsub", "lower", "match", "sub"}},
    table = {fields = {"concat"}},
  },
}
std = "redis"
max_line_length = 120
exclude_files = {".venv*"}

-- Blocks of the preludes, which the loader puts before a script (tests/rules/test_lua.py compares the names).
local common = {
  "eta_ms", "finish_task", "group_info", "is_owner", "is_paused", "release_occupancy", "reply_if_seen", "run_delayed",
  "server_ms", "acknowledge", "occupancy_of", "capacity_of", "take", "take_records",
}
local permits = {
  "SLACK_MS", "adaptive_limit", "charge_rate", "reserve_for_waiters", "holds", "keep_alive", "notify", "now", "permits_in_use",
  "waiters_of",
}
files["daemon/*/lua/*.lua"] = {read_globals = common}
files["daemon/limiter/lua/*.lua"] = {read_globals = permits, globals = {"woken"}} -- a list that they fill

-- A prelude uses few of its own blocks, and a file sees those of its own as locals.
files["daemon/*/lua/prelude.lua"] = {ignore = {"211"}}
