-- failures.lua: rk_fail, messages of a wrong type, and what becomes of the others.

local rk = require "rk"
local check = dofile((arg[0]:gsub("[^/]*$", "")) .. "check.lua")

local Number = rk.message("FailNumber", { n = "i64" })
local Other = rk.message("FailOther", { x = "u8" })

check.kernel("fragile", {
  accepts = Number, replies = Number, state = { sum = "i64" },
  source = [[
    RK_ON(FailNumber, m)
    {
        rk_state *s = rk_get_state(ctx);
        if (m->n < 0) rk_fail(ctx, "below zero, which this kernel does not take");
        if (m->n == 13) rk_fail(ctx, "thirteen");
        if (rk_thread(ctx) == 0) s->sum += m->n;
        rk_sync(ctx);
        rk_reply(ctx, FailNumber, .n = s->sum);
    }
  ]],
})

check.kernel("sturdy", {
  accepts = Number, replies = Number, state = { sum = "i64" },
  source = [[
    RK_ON(FailNumber, m)
    {
        if (rk_thread(ctx) == 0) rk_get_state(ctx)->sum += m->n;
        rk_sync(ctx);
        rk_reply(ctx, FailNumber, .n = rk_get_state(ctx)->sum);
    }
  ]],
})

check.case("the caller gets the text, the actor is FAILED and refuses what comes later", function()
  local kernel = check.spawn("fragile")
  check.equal(5, kernel:call(Number { n = 5 }).n)
  local err = check.raises("below zero", kernel.call, kernel, Number { n = -1 })
  check.equal("EHANDLER", err.code)
  check.is(kernel, err.actor)
  check.await(function() return check.state_of(kernel) == "FAILED" end)
  for _ = 1, 3 do
    check.fails("EDEAD", "below zero, which this kernel does not take", kernel:try_call(Number { n = 1 }))
    check.fails("EDEAD", "below zero", kernel:send(Number { n = 1 }))
  end
  check.equal(1, kernel:info().failed)
  check.equal(5, kernel:state().sum)
end)

check.case("terminated, then launched again under its name, with zero state", function()
  local first = check.spawn("fragile")
  for _ = 1, 4 do
    local kernel = rk.whereis("fragile") or first
    check.equal(7, kernel:call(Number { n = 7 }).n)
    check.fails("EHANDLER", "thirteen", kernel:try_call(Number { n = 13 }))
    check.raises("fragile", check.spawn, "fragile") -- a failed actor keeps its name
    check.truthy(check.runtime():terminate("fragile"))
    check.fails("EDEAD", "", kernel:try_call(Number { n = 1 }))
    local again = check.spawn("fragile")
    check.truthy(again ~= kernel, "another pid")
  end
end)

check.case("a reply before the failure is the answer", function()
  check.kernel("late", {
    accepts = Number, replies = Number,
    source = [[
      RK_ON(FailNumber, m)
      {
          rk_reply(ctx, FailNumber, .n = m->n + 1);
          rk_fail(ctx, "afterwards");
      }
    ]],
  })
  local kernel = check.spawn("late")
  check.equal(2, kernel:call(Number { n = 1 }).n)
  check.await(function() return check.state_of(kernel) == "FAILED" end)
  check.fails("EDEAD", "afterwards", kernel:try_call(Number { n = 1 }))
end)

check.case("nothing is published after rk_fail, and the next handler does not run", function()
  check.kernel("noisy", {
    accepts = Number, replies = Number,
    source = [[
      static void late(rk_ctx *ctx) { rk_send(ctx, rk_from(ctx), FailNumber, .n = 2); }
      RK_ON(FailNumber, m)
      {
          rk_send(ctx, rk_from(ctx), FailNumber, .n = m->n);
          if (m->n == 1) rk_fail(ctx, "one");
          late(ctx);
      }
    ]],
  })
  local kernel = check.runtime():launch("noisy")
  for i = 0, 3 do check.truthy(kernel:send(Number { n = i })) end
  kernel:activate()
  check.await(function() return check.state_of(kernel) == "FAILED" end)
  check.equal(0, check.receive(Number).n)
  check.equal(2, check.receive(Number).n)
  check.equal(1, check.receive(Number).n)
  check.truthy(kernel:terminate())
  check.equal(nil, (rk.receive(0)))
end)

check.case("calls that wait behind the failure are refused with its reason", function()
  local kernel, codes = check.runtime():launch("fragile"), {}
  local calls = {}
  for i = 1, 20 do
    calls[i] = function()
      local answer, text, code = kernel:timeout(check.patience):try_call(Number { n = i == 6 and 13 or 1 })
      codes[i] = code or answer.n
      if code then check.matches("thirteen", text) end
    end
  end
  calls[21] = function()
    rk.sleep(0.02)
    kernel:activate() -- it may have failed before this returns
  end
  check.together(calls)
  for i = 1, 5 do check.equal(i, codes[i]) end
  check.equal("EHANDLER", codes[6])
  for i = 7, 20 do check.truthy(codes[i] == "EHANDLER" or codes[i] == "EDEAD", "call " .. i) end
end)

check.case("a waiting message that fails at once is not taken for a failed start", function()
  for _ = 1, 20 do
    local kernel = check.runtime():launch("fragile")
    check.truthy(kernel:send(Number { n = 13 }))
    local ok, text = kernel:activate()
    if not ok then
      check.matches("thirteen", text)
      check.truthy(not text:find("RK_ON_START", 1, true), text)
    end
    check.await(function() return check.state_of(kernel) == "FAILED" end)
    check.truthy(kernel:terminate())
  end
end)

check.case("whoever watches is told", function()
  local kernel = check.spawn("fragile")
  rk.monitor(kernel)
  check.truthy(kernel:send(Number { n = 13 }))
  local down = check.truthy(rk.receive("down", check.patience))
  check.is(kernel, down.pid)
  check.matches("thirteen", down.reason)
end)

check.case("neighbours go on", function()
  local sturdy = {}
  for i = 1, 3 do sturdy[i] = check.spawn("sturdy", { name = "sturdy-" .. i }) end
  local twin = check.spawn("fragile", { name = "twin" })
  local fragile, sums = check.spawn("fragile"), { 0, 0, 0, 0 }
  local function go_on()
    for i = 1, 3 do
      sums[i] = sums[i] + i
      check.equal(sums[i], sturdy[i]:call(Number { n = i }).n)
    end
    sums[4] = sums[4] + 4
    check.equal(sums[4], twin:call(Number { n = 4 }).n)
  end
  for _ = 1, 5 do
    go_on()
    check.fails("EHANDLER", "thirteen", fragile:try_call(Number { n = 13 }))
    go_on()
    check.truthy(fragile:terminate())
    go_on()
    fragile = check.spawn("fragile")
  end
end)

check.case("a failure in RK_ON_START fails the activation, with its text", function()
  check.kernel("stillborn", {
    accepts = Number,
    source = [[
      RK_ON_START { rk_fail(ctx, "no start today"); }
      RK_ON(FailNumber, m) { (void)m; }
    ]],
  })
  local kernel = check.runtime():launch("stillborn")
  local ok, text = kernel:activate()
  check.equal(nil, ok)
  check.matches("no start today", text)
  check.truthy(check.runtime():terminate("stillborn"))
end)

check.case("a failure of a block other than the first", function()
  check.kernel("wide", {
    accepts = Number, replies = Number, grid = 3,
    source = [[
      RK_ON(FailNumber, m)
      {
          if (m->n == 1 && rk_block(ctx) == 2) rk_fail(ctx, "block two is out");
          rk_reply(ctx, FailNumber, .n = m->n);
      }
    ]],
  })
  local kernel = check.spawn("wide")
  check.equal(4, kernel:call(Number { n = 4 }).n)
  kernel:try_call(Number { n = 1 }) -- block 0 answers, or the failure is first
  check.await(function() return check.state_of(kernel) == "FAILED" end)
  check.fails("EDEAD", "block two is out", kernel:try_call(Number { n = 4 }))
end)

-- ---- wrong types --------------------------------------------------------------------------------

check.case("a message of a wrong type is refused, and both names are said", function()
  local kernel = check.spawn("sturdy")
  check.fails("ETYPE", "sturdy.*takes no FailOther; it accepts FailNumber", kernel:try_call(Other { x = 1 }))
  check.fails("ETYPE", "takes no untyped messages", kernel:try_call { n = 1 })
  local letters = {}
  check.runtime():on_dead_letter(function(letter) letters[#letters + 1] = letter end)
  check.truthy(kernel:send(Other { x = 1 }))
  check.await(function() return #letters > 0 end, "the dead letter")
  check.runtime():on_dead_letter(nil)
  check.equal("ETYPE", letters[1].code)
  check.equal("FailOther", letters[1].type)
  check.is(kernel, letters[1].to)
  check.equal(3, kernel:call(Number { n = 3 }).n)
  check.equal("ACTIVE", check.state_of(kernel))
end)

check.case("a type that only others accept is refused too", function()
  check.kernel("both", {
    accepts = { Number, Other }, replies = Number,
    source = [[
      RK_ON(FailNumber, m) { rk_reply(ctx, FailNumber, .n = m->n); }
      RK_ON(FailOther, m) { rk_reply(ctx, FailNumber, .n = m->x); }
    ]],
  })
  local both, sturdy = check.spawn("both"), check.spawn("sturdy")
  check.equal(200, both:call(Other { x = 200 }).n)
  check.equal(-200, both:call(Number { n = -200 }).n)
  check.fails("ETYPE", "FailOther", sturdy:try_call(Other { x = 1 }))
end)

check.case("a handler over its timeout fails its actor where that is asked for, and nobody else", function()
  check.kernel("endless", {
    accepts = Number, replies = Number, handler_timeout = 0.2, on_timeout = "fail",
    source = [[
      RK_ON(FailNumber, m)
      {
          int64_t begun = rk_now(ctx);
          while (rk_now(ctx) - begun < m->n) {}
          rk_reply(ctx, FailNumber, .n = m->n);
      }
    ]],
  })
  local kernel = check.spawn("endless", { name = "endless-1" })
  local neighbour = check.spawn("endless", { name = "endless-2" })
  local begun = rk.now()
  check.fails("EHANDLER", "the handler of FailNumber has been running for",
    kernel:try_call(Number { n = 2000000000 }))
  check.equal("FAILED", check.state_of(kernel))
  check.fails("EDEAD", "has been running", kernel:try_call(Number { n = 1 }))
  check.equal(1, neighbour:call(Number { n = 1 }).n)
  check.truthy(kernel:stop())
  rk.sleep(begun + 2.2 - rk.now()) -- it cannot be stopped, but it ends
  check.equal(1, check.spawn("endless", { name = "endless-1" }):call(Number { n = 1 }).n)
end)

check.finish()
