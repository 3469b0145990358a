-- runtimes.lua: runtimes that end with kernels at work, one after another and two at once; numbers
-- of info() and stats().

local rk = require "rk"
local check = dofile((arg[0]:gsub("[^/]*$", "")) .. "check.lua")

local Number = rk.message("RuntimeNumber", { n = "i64" })

check.kernel("adder", {
  accepts = Number, replies = Number, state = { sum = "i64" },
  source = [[
    RK_ON(RuntimeNumber, m)
    {
        if (rk_thread(ctx) == 0) rk_get_state(ctx)->sum += m->n;
        rk_sync(ctx);
        rk_reply(ctx, RuntimeNumber, .n = rk_get_state(ctx)->sum);
    }
  ]],
})

check.kernel("ticker", {
  accepts = Number, replies = Number, state = { turns = "i64" },
  source = [[
    RK_EVERY(0.001) { if (rk_thread(ctx) == 0) rk_get_state(ctx)->turns++; }
    RK_ON(RuntimeNumber, m) { rk_reply(ctx, RuntimeNumber, .n = m->n * 2); }
  ]],
})

check.case("a runtime closes with active, idle, launched and deactivated kernels", function()
  local runtime = check.open()
  local a, b = runtime:spawn("adder"), runtime:spawn("ticker")
  local c, d = runtime:launch("adder", { name = "launched" }), runtime:spawn("adder", { name = "paused" })
  check.equal(3, a:call(Number { n = 3 }).n)
  check.equal(6, b:call(Number { n = 3 }).n)
  check.truthy(d:deactivate())
  for i = 1, 100 do
    check.truthy(a:send(Number { n = i }))
    check.truthy(c:send(Number { n = i }))
    check.truthy(d:send(Number { n = i }))
  end
  check.truthy(runtime:close())
  for _, pid in ipairs { a, b, c, d } do
    check.equal(false, pid.alive)
    check.fails("EDEAD", "", pid:try_call(Number { n = 1 }))
  end
end)

check.case("a runtime closes with a failed kernel", function()
  check.kernel("fails", {
    accepts = Number,
    source = "RK_ON(RuntimeNumber, m) { (void)m; rk_fail(ctx, \"it does\"); }",
  })
  local runtime = check.open()
  local kernel, adder = runtime:spawn("fails"), runtime:spawn("adder")
  check.fails("EHANDLER", "it does", kernel:try_call(Number { n = 1 }))
  check.equal(1, adder:call(Number { n = 1 }).n)
  check.truthy(runtime:close())
end)

check.case("five runtimes, one after another", function()
  for round = 1, 5 do
    local runtime <close> = check.open()
    local adder, ticker = runtime:spawn("adder"), runtime:spawn("ticker")
    for i = 1, 10 do check.equal(i * round, adder:call(Number { n = round }).n) end
    check.equal(2 * round, ticker:call(Number { n = round }).n)
  end
end)

check.case("two runtimes at once", function()
  local first <close> = check.open()
  local second <close> = check.open()
  local a, b = first:spawn("adder"), second:spawn("adder")
  for i = 1, 100 do
    check.equal(i, a:call(Number { n = 1 }).n)
    check.equal(-i, b:call(Number { n = -1 }).n)
  end
  local ticker = second:spawn("ticker")
  check.truthy(first:close())
  check.fails("EDEAD", "", a:try_call(Number { n = 1 }))
  check.equal(0, b:call(Number { n = 100 }).n)
  check.equal(14, ticker:call(Number { n = 7 }).n)
end)

check.case("a kernel of one runtime sends to a kernel of another", function()
  local first <close> = check.open()
  local second <close> = check.open()
  local To = rk.message("RuntimeTo", { pid = "pid" })
  check.kernel("passer", {
    accepts = { To, Number }, replies = Number, state = { to = "pid" },
    source = [[
      RK_ON(RuntimeTo, m)
      {
          if (rk_thread(ctx) == 0) rk_get_state(ctx)->to = m->pid;
          rk_reply(ctx, RuntimeNumber, .n = 0);
      }
      RK_ON(RuntimeNumber, m) { (void)m; rk_forward(ctx, rk_get_state(ctx)->to); }
    ]],
  })
  local passer, adder = first:spawn("passer"), second:spawn("adder")
  passer:call(To { pid = adder })
  for i = 1, 50 do check.equal(2 * i, passer:call(Number { n = 2 }).n) end
end)

-- ---- numbers ------------------------------------------------------------------------------------

check.case("received and sent after 1,000 calls", function()
  local runtime <close> = check.open()
  local adder = runtime:spawn("adder")
  for i = 1, 1000 do check.equal(i, adder:call(Number { n = 1 }).n) end
  local info = adder:info()
  check.equal({ received = 1000, sent = 1000, dropped = 0, failed = 0, kind = "kernel", state = "ACTIVE" },
    { received = info.received, sent = info.sent, dropped = info.dropped, failed = info.failed,
      kind = info.kind, state = info.state })
  check.equal(runtime:device(), info.device)
  check.is(adder, info.pid)
  check.equal({ low = 0, normal = 0, high = 0, system = 0 }, info.mailbox)
  check.truthy(info.memory > 0)
  check.truthy(info.p50 >= 0 and info.p99 >= info.p50)
  check.truthy(adder:stop())
  local stats = runtime:stats()
  check.equal(1000, stats.messages_sent) -- of the actors that ended
  check.equal(0, stats.dropped)
  check.equal(0, stats.failed)
  check.equal(0, stats.late_replies)
  check.truthy(stats.kernels_compiled + stats.cache_hits >= 1, "the kernel was compiled or found")
end)

check.case("depth of the mailbox while nothing is taken", function()
  local runtime <close> = check.open()
  local adder = runtime:launch("adder")
  for _ = 1, 200 do check.truthy(adder:send(Number { n = 1 })) end
  local mailbox = adder:info().mailbox
  check.equal(200, mailbox.low + mailbox.normal + mailbox.high + mailbox.system)
  check.equal(0, adder:info().received)
  check.truthy(adder:activate())
  for i = 1, 200 do check.equal(i, check.receive(Number).n) end
  mailbox = adder:info().mailbox
  check.equal(0, mailbox.low + mailbox.normal + mailbox.high + mailbox.system)
  check.equal(200, adder:info().received)
end)

check.case("the list of actors", function()
  local runtime <close> = check.open()
  runtime:spawn("adder")
  runtime:launch("ticker")
  local states = {}
  for _, info in ipairs(runtime:list()) do
    if info.kind == "kernel" then states[info.name] = info.state end
  end
  check.equal({ adder = "ACTIVE", ticker = "LAUNCHED" }, states)
end)

check.finish()
