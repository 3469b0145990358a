-- examples/summer.lua            run: build/rklua examples/summer.lua   → Sum: 15.0
local rk = require "rk"

local Request  = rk.message("ComputeRequest",  { values = "f32[1000]" })
local Response = rk.message("ComputeResponse", { result = "f32" })

rk.kernel("summer", {                       -- a ring kernel: persistent, on the default device
  accepts = Request, replies = Response, queue_size = 1024, block = 128,
  source = [[
    RK_ON(ComputeRequest, request)
    {
        float sum = 0;
        RK_FOR (i, request->values_count) sum += request->values[i];
        sum = rk_block_sum(ctx, sum);
        rk_reply(ctx, ComputeResponse, .result = sum);
    }
  ]],
})

local runtime <close> = rk.runtime()        -- stops and joins everything at scope end
local summer = runtime:launch("summer")     -- phase 1: compile, allocate      → LAUNCHED
summer:activate()                           -- phase 2: start taking messages  → ACTIVE

local answer = summer:call(Request { values = { 1, 2, 3, 4, 5 } })
print("Sum: " .. answer.result)
