-- examples/actors.lua
local rk = require "rk"

-- blocking style
rk.actor("tail", function(ctx, expected)
  for seen = 1, expected do
    local msg, from = ctx:receive(1.0)           -- message, pid | nil, "timeout" | nil, "stop"
    if not msg then return "idle" end            -- the return value is the exit reason
    ctx:reply(msg, { n = seen, text = msg.text })
  end
end)

-- handler-table style (gen_server)
rk.actor("counter", {
  init = function(self, start) self.n = start or 0 end,
  call = { get = function(self) return self.n end,
           add = function(self, k) self.n = self.n + k; return self.n end },
  cast = { reset = function(self) self.n = 0 end },
  info = function(self, msg) end,                -- everything else: monitors, timers, plain sends
  terminate = function(self, reason) end,
})

local runtime <close> = rk.runtime()
local counter = runtime:spawn("counter", { args = { 10 }, name = "counter", mailbox = 4096, full = "block" })
assert(counter:call("add", 5) == 15)             -- 5 s default; raises on failure
counter:cast("reset")
assert(rk.whereis("counter"):call("get") == 0)

local tail = runtime:spawn("tail", { args = { 2 } })
print(tail:call({ text = "hello" }).n)           -- a table with no type goes as MessagePack
local value, err, code = tail:try_call({ text = "again" }, 0.5)
