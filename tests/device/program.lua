-- program.lua: the first program of the interface document; many instances and many definitions.

local rk = require "rk"
local check = dofile((arg[0]:gsub("[^/]*$", "")) .. "check.lua")

local Request = rk.message("ComputeRequest", { values = "f32[1000]" })
local Response = rk.message("ComputeResponse", { result = "f32" })
local Number = rk.message("ProgramNumber", { n = "i64" })

check.case("the first program", function()
  rk.kernel("summer", {
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
  local runtime <close> = check.open()
  local summer = runtime:launch("summer")
  check.equal("LAUNCHED", check.state_of(summer))
  check.truthy(summer:activate())
  check.equal("ACTIVE", check.state_of(summer))
  check.equal(15.0, summer:call(Request { values = { 1, 2, 3, 4, 5 } }).result)
  check.equal(0.0, summer:call(Request {}).result)
  local values = {}
  for i = 1, 1000 do values[i] = i end
  check.equal(500500.0, summer:call(Request { values = values }).result)
  check.equal(runtime:device(), summer:info().device)
end)

check.case("the verbs by name", function()
  local runtime <close> = check.open()
  runtime:launch("summer")
  check.truthy(runtime:activate("summer"))
  check.equal(3.0, runtime:call("summer", Request { values = { 1, 2 } }).result)
  for i = 1, 5 do check.truthy(runtime:send("summer", Request { values = { i } })) end
  for i = 1, 5 do check.equal(i + 0.0, runtime:receive("summer", check.patience).result) end
  check.truthy(runtime:deactivate("summer"))
  check.equal("DEACTIVATED", runtime:telemetry("summer").state)
  check.truthy(runtime:reactivate("summer"))
  check.equal(6, runtime:telemetry("summer").received)
  check.fails("ESTATE", "ACTIVE", runtime:activate("summer"))
  check.truthy(runtime:terminate("summer"))
  check.fails("ENOENT", "summer", runtime:try_call("summer", Request {}))
end)

-- ---- instances ----------------------------------------------------------------------------------

check.kernel("adder", {
  accepts = Number, replies = Number, state = { sum = "i64" },
  source = [[
    RK_ON(ProgramNumber, m)
    {
        if (rk_thread(ctx) == 0) rk_get_state(ctx)->sum += m->n;
        rk_sync(ctx);
        rk_reply(ctx, ProgramNumber, .n = rk_get_state(ctx)->sum);
    }
  ]],
})

check.case("eight instances of one definition", function()
  local adders = {}
  for i = 1, 8 do adders[i] = check.spawn("adder", { name = "adder-" .. i }) end
  for round = 1, 10 do
    for i, adder in ipairs(adders) do
      check.equal(round * i, adder:call(Number { n = i }).n, adder.name)
    end
  end
  check.truthy(adders[3]:stop())
  check.truthy(adders[6]:stop())
  for i, adder in ipairs(adders) do
    if i == 3 or i == 6 then
      check.fails("EDEAD", "dead", adder:try_call(Number { n = 1 }))
    else
      check.equal(11 * i, adder:call(Number { n = i }).n, adder.name)
    end
  end
end)

check.case("a second instance needs another name", function()
  check.spawn("adder")
  check.raises("adder", check.spawn, "adder")
  check.equal(4, check.spawn("adder", { name = "another" }):call(Number { n = 4 }).n)
end)

-- ---- definitions --------------------------------------------------------------------------------

local COUNT = 20

for i = 1, COUNT do
  check.kernel("affine-" .. i, {
    accepts = Number, replies = Number,
    source = ([[
      RK_ON(ProgramNumber, m) { rk_reply(ctx, ProgramNumber, .n = %d * m->n + %d); }
    ]]):format(i, 7 * i),
  })
end

local function answers(kernels)
  for i = 1, COUNT do
    if kernels[i] then
      check.equal(i * 1000 + 7 * i, kernels[i]:call(Number { n = 1000 }).n, "affine-" .. i)
    end
  end
end

check.case("twenty definitions, one after another", function()
  local kernels = {}
  for i = 1, COUNT do
    kernels[i] = check.spawn("affine-" .. i)
    check.equal(9 * i, kernels[i]:call(Number { n = 2 }).n)
    check.equal(10, kernels[1]:call(Number { n = 3 }).n)
  end
  answers(kernels)
end)

check.case("twenty definitions in a burst, and half of them gone again", function()
  local kernels = {}
  for i = 1, COUNT do kernels[i] = check.spawn("affine-" .. i) end
  answers(kernels)
  for i = 1, COUNT, 2 do
    check.truthy(kernels[i]:stop())
    kernels[i] = nil
  end
  answers(kernels)
end)

check.case("launch all, then activate all", function()
  local kernels, runtime = {}, check.runtime()
  for i = 1, COUNT do kernels[i] = runtime:launch("affine-" .. i) end
  for i = 1, COUNT do check.equal("LAUNCHED", check.state_of(kernels[i])) end
  for i = COUNT, 1, -1 do check.truthy(kernels[i]:activate()) end
  answers(kernels)
end)

check.case("a definition made again with another source", function()
  local first = check.spawn("affine-1", { name = "old" })
  check.kernel("affine-1", {
    accepts = Number, replies = Number,
    source = "RK_ON(ProgramNumber, m) { rk_reply(ctx, ProgramNumber, .n = -m->n); }",
  })
  local second = check.spawn("affine-1", { name = "new" })
  check.equal(12, first:call(Number { n = 5 }).n)
  check.equal(-5, second:call(Number { n = 5 }).n)
end)

check.case("a compiler error names the line, and the rest goes on", function()
  local adder = check.spawn("adder")
  local line = debug.getinfo(1, "l").currentline + 4
  rk.kernel("broken", {
    accepts = Number,
    source = [[
      RK_ON(ProgramNumber, m) { not_declared = 1; }
    ]],
  })
  check.raises(":" .. line .. ":?.*not_declared", check.spawn, "broken")
  check.equal(1, adder:call(Number { n = 1 }).n)
end)

check.finish()
