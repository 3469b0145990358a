-- idle.lua: a thousand Lua actors: spawn, one call each, resident memory and cpu time while they do
-- nothing, stop. Run by bench/lua.c.

local rk, runtime = require "rk", _G.runtime
local ACTORS <const> = 1000

local function resident()
  local file <close> = assert(io.open("/proc/self/statm"))
  return tonumber(file:read("a"):match("^%d+ (%d+)")) * 4096
end

local function say(metric, value) print(("idle_lua %s %.9g"):format(metric, value)) end

local function body(ctx)
  for m in ctx:messages() do ctx:reply(m, { n = m.n + 1 }) end
end

collectgarbage()
local before = resident()
local actors = {}
local start = rk.now()
for i = 1, ACTORS do actors[i] = runtime:spawn(body) end
local spawned = rk.now()
for i, pid in ipairs(actors) do
  if pid:call({ n = i }).n ~= i + 1 then error("a wrong answer") end
end
local called = rk.now()
say("memory", (resident() - before) / ACTORS)

local cpu, since = os.clock(), rk.now()
rk.sleep(0.1)
say("cpu", (os.clock() - cpu) / (rk.now() - since)) -- cores busy while all are idle

local resumed = rk.now()
for _, pid in ipairs(actors) do assert(pid:stop("done")) end
local stopped = rk.now()
if runtime:stats().terminated < ACTORS then error("some did not stop") end
say("spawn", (spawned - start) * 1e9)
say("call", (called - spawned) * 1e9)
say("stop", (stopped - resumed) * 1e9)
say("total", (called - start + stopped - resumed) * 1e9)
