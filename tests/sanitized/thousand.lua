-- A thousand idle Lua actors spawn, answer one call each, and stop.
local rk = require "rk"
local count = tonumber(arg and arg[1]) or 1000

rk.actor("idle", function(ctx)
  for msg in ctx:messages() do
    ctx:reply(msg, msg.n + 1)
  end
end)

local runtime <close> = rk.runtime()
local actors = {}
for i = 1, count do
  actors[i] = runtime:spawn("idle")
end
local sum = 0
for i, actor in ipairs(actors) do
  sum = sum + actor:call({ n = i })
end
assert(sum == count * (count + 1) // 2 + count, "an answer is missing")
for _, actor in ipairs(actors) do
  assert(actor:stop())
end
print(("%d actors answered and stopped"):format(count))
