-- timers.lua: RK_EVERY and rk_now. No case asserts how long something takes, only what comes, what
-- does not, and that clocks are the same clock.

local rk = require "rk"
local check = dofile((arg[0]:gsub("[^/]*$", "")) .. "check.lua")

local Look = rk.message("TimerLook", {})
local Turns = rk.message("TimerTurns", { fast = "u32", slow = "u32", wrong = "u32", last = "i64" })

check.kernel("timed", {
  accepts = Look, replies = Turns, state = { fast = "u32", slow = "u32", wrong = "u32", last = "i64" },
  source = [[
    RK_EVERY(0.002)
    {
        rk_state *s = rk_get_state(ctx);
        if (rk_thread(ctx) == 0) {
            s->fast++;
            s->wrong += rk_from(ctx) != 0 || rk_now(ctx) < s->last;
            s->last = rk_now(ctx);
        }
    }
    RK_EVERY(0.010)
    {
        if (rk_thread(ctx) == 0) rk_get_state(ctx)->slow++;
    }
    RK_ON(TimerLook, m)
    {
        const rk_state *s = rk_get_state(ctx);
        (void)m;
        rk_reply(ctx, TimerTurns, .fast = s->fast, .slow = s->slow, .wrong = s->wrong, .last = s->last);
    }
  ]],
})

local function turns(kernel) return kernel:call(Look {}) end

check.case("two timers of one kernel go on and on", function()
  local kernel = check.spawn("timed")
  local before = turns(kernel)
  for _ = 1, 3 do
    local now = check.await(function()
      local t = turns(kernel)
      return t.fast > before.fast + 3 and t.slow > before.slow and t
    end, "turns")
    before = now
  end
  check.equal(0, before.wrong)
  check.truthy(before.fast >= before.slow, "the shorter period has more turns")
end)

check.case("timers of an idle kernel, which gets no messages", function()
  local kernel = check.spawn("timed")
  check.await(function() rk.sleep(0.02) return kernel:state().slow >= 5 end, "five turns")
end)

check.case("no turns before activation and while deactivated", function()
  local kernel = check.runtime():launch("timed")
  rk.sleep(0.03)
  check.equal(0, kernel:state().fast)
  check.truthy(kernel:activate())
  for _ = 1, 3 do
    check.await(function() return turns(kernel).slow >= 1 end, "turns")
    check.truthy(kernel:deactivate())
    local before = kernel:state()
    rk.sleep(0.05)
    local after = kernel:state()
    check.equal(before.fast, after.fast)
    check.equal(before.slow, after.slow)
    check.truthy(kernel:reactivate())
    check.await(function() return turns(kernel).fast > after.fast end, "turns after reactivation")
  end
end)

check.case("timers of three kernels", function()
  local kernels = {}
  for i = 1, 3 do kernels[i] = check.spawn("timed", { name = "timed-" .. i }) end
  for i = 1, 3 do check.await(function() return turns(kernels[i]).slow >= 3 end, "turns") end
  check.truthy(kernels[2]:stop())
  local before = turns(kernels[3]).slow
  check.await(function() return turns(kernels[3]).slow > before end, "turns after a neighbour is gone")
end)

check.case("a timer goes on beside a stream of messages", function()
  local kernel = check.spawn("timed")
  local first = turns(kernel).slow
  check.await(function()
    for _ = 1, 50 do turns(kernel) end
    return turns(kernel).slow >= first + 3
  end, "turns")
end)

check.case("a timer that fails says so", function()
  check.kernel("fuse", {
    accepts = Look, replies = Turns,
    source = [[
      RK_STATE { int turns; };
      RK_EVERY(0.003)
      {
          if (rk_thread(ctx) == 0) rk_get_state(ctx)->turns++;
          rk_sync(ctx);
          if (rk_get_state(ctx)->turns == 4) rk_fail(ctx, "the fuse is blown");
      }
      RK_ON(TimerLook, m) { (void)m; rk_reply(ctx, TimerTurns, .fast = 0); }
    ]],
  })
  local kernel = check.spawn("fuse")
  check.await(function() return check.state_of(kernel) == "FAILED" end, "the failure")
  check.fails("EDEAD", "the fuse is blown", kernel:try_call(Look {}))
end)

-- ---- rk_now -------------------------------------------------------------------------------------

local Now = rk.message("TimerNow", { first = "i64", last = "i64", backwards = "u32" })

check.kernel("clock", {
  accepts = Look, replies = Now,
  source = [[
    RK_ON(TimerLook, m)
    {
        int64_t first = rk_now(ctx), last = first;
        int backwards = 0;
        (void)m;
        for (int i = 0; i < 1000; i++) {
            int64_t now = rk_now(ctx);
            backwards += now < last;
            last = now;
        }
        backwards = rk_block_sum(ctx, backwards);
        rk_reply(ctx, TimerNow, .first = first, .last = last, .backwards = (uint32_t)backwards);
    }
  ]],
})

check.case("rk_now never goes backwards, and is the clock of rk.now", function()
  local kernel = check.spawn("clock")
  local last = 0
  for _ = 1, 100 do
    local before = rk.now()
    local answer = kernel:call(Look {})
    local after = rk.now()
    check.equal(0, answer.backwards)
    check.truthy(answer.first >= last, "later than in the last message")
    check.truthy(answer.last >= answer.first)
    last = answer.last
    -- A bound of sanity: calibrated, not measured.
    check.truthy(answer.first / 1e9 > before - 1 and answer.last / 1e9 < after + 1,
      ("%.6f to %.6f lies within %.6f to %.6f"):format(answer.first / 1e9, answer.last / 1e9, before, after))
  end
end)

check.finish()
