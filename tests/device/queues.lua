-- queues.lua: messages that wait: timeouts, full mailboxes, deactivation and stops in between. What
-- is sent is handled, refused or dropped, and the three add up.

local rk = require "rk"
local check = dofile((arg[0]:gsub("[^/]*$", "")) .. "check.lua")

local Job = rk.message("QueueJob", { n = "u64", wait_us = "u32" })
local Done = rk.message("QueueDone", { n = "u64", handled = "u64" })

local WORKER = [[
    RK_ON(QueueJob, m)
    {
        rk_state *s = rk_get_state(ctx);
        int64_t until = rk_now(ctx) + (int64_t)m->wait_us * 1000;
        while (rk_now(ctx) < until) {
        }
        rk_sync(ctx);
        if (rk_thread(ctx) == 0) {
            s->handled++;
            s->sum += m->n;
        }
        rk_sync(ctx);
        rk_reply(ctx, QueueDone, .n = m->n, .handled = s->handled);
    }
]]
local STATE = { handled = "u64", sum = "u64" }

for _, full in ipairs { "block", "reject", "drop_newest" } do
  check.kernel("worker-" .. full, {
    accepts = Job, replies = Done, state = STATE, source = WORKER, queue_size = 4, full = full,
  })
end
check.kernel("worker", { accepts = Job, replies = Done, state = STATE, source = WORKER })

-- ---- timeouts -----------------------------------------------------------------------------------

check.case("a call times out while the handler waits, and the next one is answered", function()
  local kernel = check.spawn("worker")
  for round = 1, 2 do
    check.fails("ETIMEOUT", "", kernel:try_call(Job { n = 1, wait_us = 300000 }, 0.01))
    local answer = kernel:call(Job { n = 5 })
    check.equal({ n = 5, handled = 2 * round }, answer:table())
  end
  check.equal(nil, (rk.receive(0))) -- late answers are nobody's
end)

check.case("calls behind a handler that waits are all answered", function()
  local kernel, calls, sum = check.spawn("worker"), {}, 0
  for i = 1, 30 do
    calls[i] = function()
      local answer = kernel:timeout(check.patience):call(Job { n = i, wait_us = i == 1 and 50000 or 100 })
      check.equal(i, answer.n)
      check.equal(i, answer.handled)
      sum = sum + answer.n
    end
  end
  check.together(calls)
  check.equal(30 * 31 // 2, sum)
  check.equal(sum, kernel:state().sum)
end)

-- ---- deactivation -------------------------------------------------------------------------------

check.case("messages to a kernel that is launched, not active, wait for it", function()
  local kernel = check.runtime():launch("worker")
  for i = 1, 500 do check.truthy(kernel:send(Job { n = i })) end
  check.fails("ETIMEOUT", "", kernel:try_call(Job { n = 501 }, 0.02))
  check.equal(0, kernel:state().handled)
  check.truthy(kernel:activate())
  for i = 1, 500 do check.equal({ n = i, handled = i }, check.receive(Done):table()) end
end)

check.case("deactivation with messages queued loses none", function()
  local kernel, next_one = check.spawn("worker"), 1
  for round = 1, 4 do
    for _ = 1, 200 do
      check.truthy(kernel:send(Job { n = next_one, wait_us = 50 }))
      next_one = next_one + 1
    end
    check.truthy(kernel:deactivate())
    local handled = kernel:state().handled
    for _ = 1, 50 do
      check.truthy(kernel:send(Job { n = next_one }))
      next_one = next_one + 1
    end
    rk.sleep(0.02)
    check.equal(handled, kernel:state().handled, "round " .. round)
    check.truthy(kernel:reactivate())
  end
  for i = 1, next_one - 1 do check.equal({ n = i, handled = i }, check.receive(Done):table()) end
  check.equal(nil, (rk.receive(0)))
end)

check.case("calls to a deactivated kernel are answered after its reactivation", function()
  local kernel, calls = check.spawn("worker"), {}
  check.truthy(kernel:deactivate())
  for i = 1, 40 do
    calls[i] = function() check.equal(i, kernel:timeout(check.patience):call(Job { n = i }).n) end
  end
  calls[41] = function()
    rk.sleep(0.02)
    check.truthy(kernel:reactivate())
  end
  check.together(calls)
  check.equal(40, kernel:state().handled)
end)

check.case("illegal transitions name both states", function()
  local kernel = check.runtime():launch("worker")
  check.fails("ESTATE", "LAUNCHED", kernel:deactivate())
  check.truthy(kernel:activate())
  check.fails("ESTATE", "ACTIVE", kernel:reactivate())
  check.truthy(kernel:deactivate())
  check.fails("ESTATE", "DEACTIVATED", kernel:deactivate())
  check.truthy(kernel:stop())
end)

-- ---- stops --------------------------------------------------------------------------------------

-- Calls under way while the kernel is stopped in some state: each is answered or refused.
local function stopped_while(prepare, wait_us)
  local kernel = check.spawn("worker")
  prepare(kernel)
  local calls, answered, refused = {}, 0, 0
  for i = 1, 60 do
    calls[i] = function()
      local answer, text, code = kernel:timeout(check.patience):try_call(Job { n = i, wait_us = wait_us })
      if answer then
        check.equal(i, answer.n)
        answered = answered + 1
      else
        check.equal("EDEAD", code, tostring(text))
        refused = refused + 1
      end
    end
  end
  calls[61] = function()
    rk.sleep(0.005)
    check.truthy(kernel:stop("enough"))
  end
  check.together(calls)
  check.equal(60, answered + refused)
  check.fails("EDEAD", "", kernel:try_call(Job { n = 1 }))
  return answered
end

check.case("stop with messages queued: every call is answered or refused", function()
  stopped_while(function() end, 1000)
  stopped_while(function() end, 0)
end)

check.case("stop of a deactivated kernel refuses its calls", function()
  check.equal(0, stopped_while(function(kernel) kernel:deactivate() end, 0))
end)

check.case("stop of a kernel that never was active refuses its calls", function()
  local kernel, calls = check.runtime():launch("worker"), {}
  for i = 1, 10 do
    calls[i] = function() check.fails("EDEAD", "", kernel:timeout(check.patience):try_call(Job { n = i })) end
  end
  calls[11] = function()
    rk.sleep(0.005)
    check.truthy(kernel:stop())
  end
  check.together(calls)
end)

check.case("RK_ON_STOP runs after the messages before the stop", function()
  local Last = rk.message("QueueLast", { handled = "u64" })
  check.kernel("last-words", {
    accepts = Job, replies = { Done, Last },
    source = [[
      RK_STATE { rk_pid to; uint64_t handled; };
      RK_ON(QueueJob, m)
      {
          if (rk_thread(ctx) == 0) {
              rk_get_state(ctx)->to = rk_from(ctx);
              rk_get_state(ctx)->handled++;
          }
          rk_reply(ctx, QueueDone, .n = m->n);
      }
      RK_ON_STOP { rk_send(ctx, rk_get_state(ctx)->to, QueueLast, .handled = rk_get_state(ctx)->handled); }
    ]],
  })
  local kernel = check.spawn("last-words")
  for i = 1, 25 do check.equal(i, kernel:call(Job { n = i }).n) end
  check.truthy(kernel:stop())
  check.equal(25, check.receive(Last).handled)
end)

-- ---- full mailboxes -----------------------------------------------------------------------------

check.case("full = reject: what is above the bound is refused at once", function()
  local kernel, accepted, refused = check.runtime():launch("worker-reject"), 0, 0
  for i = 1, 20 do
    local ok, text, code = kernel:send(Job { n = i })
    if ok then
      accepted = accepted + 1
    else
      check.equal("EFULL", code)
      check.matches("full", text)
      refused = refused + 1
    end
  end
  check.equal(4, accepted)
  check.equal(16, refused)
  check.fails("EFULL", "full", kernel:try_call(Job { n = 99 }))
  check.truthy(kernel:activate())
  for i = 1, 4 do check.equal({ n = i, handled = i }, check.receive(Done):table()) end
  check.equal(7, kernel:call(Job { n = 7 }).n)
  check.equal(5, kernel:info().received)
end)

check.case("full = drop_newest: what is above the bound is dropped and counted", function()
  local runtime, letters = check.runtime(), 0
  runtime:on_dead_letter(function(letter)
    check.equal("EFULL", letter.code)
    letters = letters + 1
  end)
  local kernel = runtime:launch("worker-drop_newest")
  for i = 1, 20 do check.truthy(kernel:send(Job { n = i })) end
  check.equal(16, kernel:info().dropped)
  check.await(function() return letters == 16 end, "dead letters")
  runtime:on_dead_letter(nil)
  check.truthy(kernel:activate())
  for i = 1, 4 do check.equal({ n = i, handled = i }, check.receive(Done):table()) end
  check.equal(7, kernel:call(Job { n = 7 }).n)
  check.equal(16, kernel:info().dropped)
  check.equal(5, kernel:info().received)
end)

check.case("full = drop_newest: a dropped call is told", function()
  local kernel = check.runtime():launch("worker-drop_newest")
  for i = 1, 4 do check.truthy(kernel:send(Job { n = i })) end
  check.fails("EFULL", "", kernel:timeout(check.patience):try_call(Job { n = 5 }))
end)

check.case("full = block: a send waits for room", function()
  local kernel, sent = check.runtime():launch("worker-block"), 0
  for i = 1, 4 do check.truthy(kernel:send(Job { n = i })) end
  local ok, _, code = kernel:send(Job { n = 99 }, 0.02)
  check.equal(nil, ok)
  check.truthy(code == "ETIMEOUT" or code == "EFULL", code)
  check.together {
    function()
      for i = 5, 100 do
        check.truthy(kernel:send(Job { n = i }, check.patience))
        sent = sent + 1
      end
    end,
    function()
      rk.sleep(0.02)
      check.equal(0, sent)
      check.truthy(kernel:activate())
    end,
  }
  for i = 1, 100 do check.equal({ n = i, handled = i }, check.receive(Done):table()) end
  check.equal(0, kernel:info().dropped)
end)

check.case("full, and busy: handled, refused and dropped add up", function()
  for _, full in ipairs { "reject", "drop_newest" } do
    local kernel, accepted = check.spawn("worker-" .. full), 0
    for i = 1, 500 do
      accepted = accepted + (kernel:send(Job { n = i, wait_us = i % 50 == 1 and 2000 or 0 }) and 1 or 0)
    end
    local handled = accepted - (full == "reject" and 0 or kernel:info().dropped)
    check.truthy(handled >= 4, "some are handled")
    local last = 0
    for i = 1, handled do
      local m = check.receive(Done)
      check.equal(i, m.handled)
      check.truthy(m.n > last, "in order")
      last = m.n
    end
    check.equal(nil, (rk.receive(0)))
    check.equal(handled, kernel:state().handled)
  end
end)

check.finish()
