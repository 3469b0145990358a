-- actors_spec.lua: the scheduler of Lua actors and of a port: receive, call, reply, timers, forks,
-- stopping, handler tables. Bodies are given as source, so that they capture nothing of busted.

local rk = require "rk"

local runtime

-- A body: its source sees `ctx` and the arguments as `...`, and `rk`.
local function body(source)
  return assert(load("local rk = require 'rk' local ctx = ... " .. source, "=body"))
end

local function spawn(source, args, options)
  options = options or {}
  options.args = args
  return runtime:spawn(body(source), options)
end

local Go = rk.message("SpecGo", {})

local function exit_reason(pid)
  repeat
    local down = assert(rk.receive("down", 10))
    if down.pid == pid then return down.reason end
  until false
end

-- Runs a body to its end and gives its exit reason. It begins when it is watched.
local function run(source, args, options)
  local pid = spawn("ctx:receive('SpecGo') " .. source, args, options)
  rk.monitor(pid)
  pid:send(Go {})
  return exit_reason(pid)
end

local Number = rk.message("SpecNumber", { n = "i64" })
local Text = rk.message("SpecText", { text = "string[32]" })

describe("actors", function()
  before_each(function()
    while rk.receive(0) do end
    runtime = rk.runtime { device = "cpu" }
  end)
  after_each(function()
    runtime:close()
    while rk.receive(0) do end
  end)

  describe("exit reasons", function()
    it("are the value the body returns", function()
      assert.equal("done", run "return 'done'")
      assert.equal("42", run "return 42")
      assert.equal("normal", run "return")
    end)

    it("are the error without its traceback when the body fails", function()
      assert.equal("body:1: broken", run "local function deep() error('broken') end deep()")
    end)

    it("describe errors that are no strings", function()
      assert.equal("error object: { code = 7 }", run "error { code = 7 }")
      assert.equal("mine", run "error(setmetatable({}, { __tostring = function() return 'mine' end }))")
      assert.equal("nil error", run "error()")
    end)

    it("go to callers as the message, the traceback beside it", function()
      local pid = spawn "local m = ctx:receive() local function deep() error('broken') end deep()"
      local ok, err = pcall(pid.call, pid, { 1 })
      assert.is_false(ok)
      assert.equal("EDEAD", err.code)
      assert.matches("is dead: body:1: broken$", err.message)
      assert.matches("^stack traceback:.*deep", err.traceback)
      pid = spawn "local m = ctx:receive() error('broken')"
      local _, text, code = pid:try_call { 1 }
      assert.equal("EDEAD", code)
      assert.matches("is dead: body:1: broken$", text)
    end)

    it("are the stop reason when a stopped body returns nothing", function()
      local pid = spawn "ctx:receive()"
      rk.monitor(pid)
      assert.is_true(pid:stop("enough"))
      assert.equal("enough", exit_reason(pid))
    end)

    it("refuse a yield outside of any coroutine, as a main chunk does", function()
      assert.matches("attempt to yield from outside a coroutine", run "coroutine.yield(1)")
      assert.equal("false", run "return tostring(coroutine.isyieldable())")
    end)
  end)

  describe("receive", function()
    it("gives message and sender, in order", function()
      local pid = spawn [[
        for i = 1, 3 do local m, from = ctx:receive() from:send(m * 10) end ]]
      for i = 1, 3 do pid:send(i) end
      for i = 1, 3 do
        local m, from = rk.receive(5)
        assert.equal(i * 10, m)
        assert.equal(pid, from)
      end
    end)

    it("times out, and polls with 0", function()
      assert.equal("nil timeout ETIMEOUT", run [[
        local a, b, c = ctx:receive(0.01) return tostring(a) .. " " .. b .. " " .. c ]])
      local m, err, code = rk.receive(0)
      assert.is_nil(m)
      assert.equal("timeout", err)
      assert.equal("ETIMEOUT", code)
    end)

    it("filters by type, by name and by function, and leaves the rest in order", function()
      local me = rk.self()
      me:send(1)
      me:send(Text { text = "a" })
      me:send(Number { n = 5 })
      me:send(2)
      me:send(Number { n = 6 })
      assert.equal(6, rk.receive(function(m) return tostring(m):find("n = 6") end, 1).n)
      assert.equal(5, rk.receive(Number, 1).n)
      assert.equal("a", rk.receive("SpecText", 1).text)
      assert.equal(1, rk.receive(1))
      assert.equal(2, rk.receive(1))
    end)

    it("shows the sender to a filter and consumes nothing by looking", function()
      local me = rk.self()
      me:send { tag = "first" }
      me:send { tag = "second" }
      local looked = {}
      local m = rk.receive(function(msg, from)
        looked[#looked + 1] = msg.tag .. (from == me and "!" or "?")
        return msg.tag == "second"
      end, 1)
      assert.equal("second", m.tag)
      assert.same({ "first!", "second!" }, looked)
      assert.equal("first", rk.receive(1).tag)
    end)

    it("raises the error of a filter where it was given, and loses no mail", function()
      assert.equal("true 7", run [[
        rk.fork(function() rk.sleep(0.01) ctx:self():send(7) end)
        local ok, err = pcall(ctx.receive, ctx, function() error("bad filter") end, 5)
        return tostring(not ok and err:find("bad filter", 1, true) ~= nil) .. " " .. ctx:receive(1) ]])
    end)

    it("does not let a filter wait", function()
      rk.self():send(1)
      local ok, err = pcall(rk.receive, function() rk.sleep(0) end, 1)
      assert.is_false(ok)
      assert.matches("cannot wait", err)
      assert.equal(1, rk.receive(1))
    end)

    it("serves several waiting coroutines in the order of waiting", function()
      assert.equal("a1 b2 c3", run [[
        local out = {}
        for _, name in ipairs { "a", "b", "c" } do
          rk.fork(function() local m = ctx:receive() out[#out + 1] = name .. m end)
        end
        rk.sleep(0)
        for i = 1, 3 do ctx:self():send(i) end
        while #out < 3 do rk.sleep(0.001) end
        return table.concat(out, " ") ]])
    end)

    it("gives each waiting coroutine what it asked for", function()
      assert.equal("text=x number=4 plain=p", run [[
        local N = rk.message("SpecNumber", { n = "i64" })
        local T = rk.message("SpecText", { text = "string[32]" })
        local got, done = {}, 0
        rk.fork(function() got[2] = "number=" .. ctx:receive(N).n done = done + 1 end)
        rk.fork(function() got[1] = "text=" .. ctx:receive("SpecText").text done = done + 1 end)
        rk.sleep(0)
        local me = ctx:self()
        me:send("p") me:send(N { n = 4 }) me:send(T { text = "x" })
        while done < 2 do rk.sleep(0.001) end
        got[3] = "plain=" .. ctx:receive()
        return table.concat(got, " ") ]])
    end)

    it("refuses arguments that mean nothing", function()
      assert.has_error(function() rk.receive({}) end)
      assert.has_error(function() rk.receive("SpecText", "soon") end)
    end)
  end)

  describe("stop requests", function()
    it("are reported once by receive, then mail goes on", function()
      local pid = spawn [[
        local reply_to = ctx:receive()
        local m, why, code = ctx:receive()
        reply_to:send { tostring(m), why, code, ctx.should_terminate }
        local late = ctx:receive(5)
        reply_to:send { "late", late } ]]
      pid:send(rk.self())
      rk.sleep(0.02)
      rk.fork(function() pid:stop("x", 5) end)
      assert.same({ "nil", "stop", "ESTOP", true }, (rk.receive(5)))
      pid:send("more")
      assert.same({ "late", "more" }, (rk.receive(5)))
    end)

    it("cut a sleep short and end messages()", function()
      local pid = spawn [[
        local to = ctx:receive()
        local ok, why = rk.sleep(30)
        to:send(tostring(ok) .. " " .. why)
        local n = 0
        for m in ctx:messages() do n = n + m end
        to:send(n) ]]
      pid:send(rk.self())
      rk.sleep(0.02)
      pid:send(3) pid:send(4)
      rk.fork(function() pid:stop() end)
      assert.equal("nil stop", (rk.receive(5)))
      local sum = rk.receive(5)
      assert.is_true(sum == 0 or sum == 7)
    end)

    it("reach every coroutine that receives", function()
      assert.equal("3", run [[
        local told = 0
        for i = 1, 2 do
          rk.fork(function() local _, why = ctx:receive() if why == "stop" then told = told + 1 end end)
        end
        rk.sleep(0)
        ctx:self():stop("s")
        local _, why = ctx:receive(5)
        if why == "stop" then told = told + 1 end
        rk.sleep(0)
        return tostring(told) ]])
    end)

    it("default to the reason 'stopped'", function()
      local pid = spawn "ctx:receive()"
      rk.monitor(pid)
      assert.is_true(pid:stop())
      assert.equal("stopped", exit_reason(pid))
    end)

    it("become a kill when the time is over", function()
      local pid = spawn "while true do end"
      rk.monitor(pid)
      assert.is_true(pid:stop("please", 0.05))
      assert.is_truthy(exit_reason(pid))
    end)

    it("to a dead actor say so", function()
      local pid = spawn "return"
      rk.monitor(pid)
      exit_reason(pid)
      local ok, err, code = pid:stop()
      assert.is_nil(ok)
      assert.equal("EDEAD", code)
      assert.is_string(err)
    end)
  end)

  describe("kill", function()
    local function killed(source)
      local pid = spawn(source)
      rk.monitor(pid)
      rk.sleep(0.02)
      assert.is_true(pid:kill())
      return exit_reason(pid)
    end

    it("ends an endless loop", function() assert.equal("killed", killed "while true do end") end)
    it("cannot be swallowed by a pcall loop", function()
      assert.equal("killed", killed "while true do pcall(function() while true do end end) end")
    end)
    it("reaches a loop in a fork and in a user's coroutine", function()
      killed "rk.fork(function() while true do end end) ctx:receive()"
      killed "coroutine.wrap(function() while true do end end)()"
      killed [[
        local function spin() while true do pcall(coroutine.wrap(function()
          while true do pcall(error) end end)) end end
        spin() ]]
    end)
    it("reaches a loop that waits and swallows", function()
      killed "while true do pcall(rk.sleep, 0.001) end"
      killed "while true do pcall(rk.receive) end"
    end)
    it("ends a body that waits in a place where it cannot yield", function()
      killed "table.sort({ 3, 2, 1 }, function(a, b) rk.sleep(100) return a < b end)"
    end)
    it("interrupts a blocking read", function()
      local fifo = os.tmpname()
      os.remove(fifo)
      assert(os.execute("mkfifo " .. fifo))
      killed("io.open('" .. fifo .. "', 'r+'):read('a')")
      os.remove(fifo)
    end)
    it("answers the calls of the dead", function()
      local pid = spawn "local m = ctx:receive() while true do end"
      rk.fork(function() rk.sleep(0.05) pid:kill() end)
      local value, _, code = pid:try_call({ 1 }, 10)
      assert.is_nil(value)
      assert.equal("EDEAD", code)
    end)
  end)

  describe("call", function()
    local echo = "for m in ctx:messages() do ctx:reply(m, m) end"

    it("returns the answer, of any kind", function()
      local pid = spawn(echo)
      assert.equal(1.5, pid:call(1.5))
      assert.same({ a = { true } }, pid:call { a = { true } })
      assert.equal(9, pid:call(Number { n = 9 }).n)
      assert.is_nil(pid:try_call(nil))
    end)

    it("raises an error object on a timeout; try_call returns it", function()
      local pid = spawn "ctx:receive() ctx:receive('never')"
      local ok, err = pcall(pid.call, pid, 1, 0.02)
      assert.is_false(ok)
      assert.equal("ETIMEOUT", err.code)
      assert.equal(pid, err.actor)
      assert.matches("did not answer", tostring(err))
      local value, text, code = pid:try_call(1, 0.02)
      assert.is_nil(value)
      assert.equal(err.message, text)
      assert.equal("ETIMEOUT", code)
      value, text, code = pid:timeout(0.02):try_call("name")
      assert.is_nil(value)
      assert.equal(err.message, text)
      assert.equal("ETIMEOUT", code)
    end)

    it("to oneself is an error at once", function()
      local value, _, code = rk.self():try_call(1)
      assert.is_nil(value)
      assert.equal("ESELF", code)
    end)

    it("to a dead actor is an error at once, with its reason", function()
      local pid = spawn "return 'bored'"
      rk.monitor(pid)
      exit_reason(pid)
      local _, text, code = pid:try_call(1)
      assert.equal("EDEAD", code)
      assert.matches("bored", text)
    end)

    it("that is dropped unanswered comes back with ENOREPLY", function()
      local pid = spawn "while true do local m = ctx:receive() if not m then return end m = nil collectgarbage() end"
      local _, _, code = pid:try_call(Number { n = 1 }, 2)
      pid:send(Number { n = 2 })
      assert.equal("ENOREPLY", code)
    end)

    it("that is dropped by an idle actor comes back with ENOREPLY", function()
      local pid = spawn "local m = ctx:receive() m = nil ctx:receive()"
      local value, _, code = pid:try_call({ x = 1 }, 20)
      assert.is_nil(value)
      assert.equal("ENOREPLY", code)
      pid = spawn "local m = ctx:receive() m = nil ctx:receive()"
      _, _, code = pid:try_call(Number { n = 1 }, 20)
      assert.equal("ENOREPLY", code)
      pid = spawn "local m = ctx:receive() m = nil ;('x'):gsub('x', function() ctx:receive() end)"
      _, _, code = pid:try_call({ x = 1 }, 20)
      assert.equal("ENOREPLY", code)
    end)

    it("that is dropped in a loop over messages comes back with ENOREPLY", function()
      local pid = spawn "for m in ctx:messages() do if m.answer then ctx:reply(m, 'yes') end end"
      for _ = 1, 2 do
        local _, _, code = pid:try_call({ x = 1 }, 20)
        assert.equal("ENOREPLY", code)
        assert.equal("yes", pid:call { answer = true })
      end
    end)

    it("that an idle actor keeps can be answered for as long as it is kept", function()
      local pid = spawn "local m = ctx:receive() rk.sleep(0.3) ctx:reply(m, 'kept') ctx:receive()"
      assert.equal("kept", pid:call { x = 1 })
      pid = spawn "local m = ctx:receive() rk.sleep(0.3) ctx:reply(m, 'kept') ctx:receive()"
      assert.equal("kept", pid:call("text"))
      pid = spawn [[
        local m = ctx:receive()
        rk.after(0.15, function() m = nil end)
        ctx:receive() ]]
      local _, _, code = pid:try_call({ x = 1 }, 20)
      assert.equal("ENOREPLY", code)
    end)

    it("goes on beside others in the same actor", function()
      local slow = spawn [[
        for m in ctx:messages() do rk.fork(function() rk.sleep(0.05) ctx:reply(m, m.n) end) end ]]
      assert.equal("1 2 3 4 5", run([[
        local _, slow = ...
        local out, done = {}, 0
        for i = 1, 5 do
          rk.fork(function() out[i] = slow:call { n = i } done = done + 1 end)
        end
        while done < 5 do rk.sleep(0.001) end
        return table.concat(out, " ") ]], { slow }))
    end)

    it("can be answered later, once", function()
      local pid = spawn [[
        local first = ctx:receive()
        local second = ctx:receive()
        ctx:reply(second, "second")
        ctx:reply(first, "first")
        local ok, err = pcall(ctx.reply, ctx, first, "again")
        ctx:receive():send { ok, err.code } ]]
      local out = {}
      rk.fork(function() out[1] = pid:call { 1 } end)
      rk.sleep(0.01)
      out[2] = pid:call { 2 }
      while not out[1] do rk.sleep(0.001) end
      assert.same({ "first", "second" }, out)
      pid:send(rk.self())
      assert.same({ false, "EINVAL" }, (rk.receive(5)))
    end)

    it("of a value that cannot travel names it", function()
      local pid = spawn(echo)
      local ok, err = pcall(pid.call, pid, { f = print })
      assert.is_false(ok)
      assert.matches("f", tostring(err))
    end)
  end)

  describe("a plain send that is answered", function()
    it("brings the answer as mail", function()
      local pid = spawn "local m = ctx:receive() ctx:reply(m, 'yes')"
      pid:send("question?")
      assert.equal("yes", (rk.receive(5)))
    end)
  end)

  describe("a full mailbox", function()
    local slow = "local n = 0 while ctx:receive(0.3) do n = n + 1 if n == 1 then rk.sleep(0.05) end end return n"

    it("blocks a sender until there is room, without losing anything", function()
      local pid = spawn("rk.sleep(0.05) " .. slow, nil, { mailbox = 4, full = "block" })
      rk.monitor(pid)
      for _ = 1, 50 do assert.is_true(pid:send(1)) end
      assert.equal("50", exit_reason(pid))
    end)

    it("lets other coroutines of a blocked sender go on", function()
      local pid = spawn("rk.sleep(0.1) " .. slow, nil, { mailbox = 2, full = "block" })
      assert.equal("true", run([[
        local _, pid = ...
        local ticks = 0
        rk.every(0.005, function() ticks = ticks + 1 end)
        for _ = 1, 10 do pid:send(1) end
        return tostring(ticks > 3) ]], { pid }))
    end)

    it("blocks no longer than the timeout", function()
      local pid = spawn("rk.sleep(10)", nil, { mailbox = 2, full = "block" })
      pid:send(1) pid:send(2)
      local ok, text, code = pid:send(3, 0.02)
      assert.is_nil(ok)
      assert.equal("timeout", text)
      assert.equal("ETIMEOUT", code)
      local value
      value, text, code = pid:try_call(3, 0.02)
      assert.is_nil(value)
      assert.matches("^timeout: .* had no room", text)
      assert.equal("ETIMEOUT", code)
    end)

    it("refuses under reject", function()
      local pid = spawn("rk.sleep(10)", nil, { mailbox = 1, full = "reject" })
      assert.is_true(pid:send(1))
      local ok, _, code = pid:send(2)
      assert.is_nil(ok)
      assert.equal("EFULL", code)
    end)

    it("of the sender itself is an error", function()
      assert.equal("ESELF", run([[
        local me = ctx:self()
        me:send(1)
        local ok, text, code = me:send(2)
        return code ]], nil, { mailbox = 1, full = "block" }))
    end)

    it("tells a blocked sender that the actor died", function()
      local pid = spawn("rk.sleep(0.05) return 'gone'", nil, { mailbox = 1, full = "block" })
      pid:send(1)
      local ok, _, code = pid:send(2, 5)
      assert.is_nil(ok)
      assert.equal("EDEAD", code)
    end)
  end)

  describe("timers", function()
    it("call once after, again and again every, never when cancelled", function()
      assert.equal("1 true 0", run [[
        local once, often, never = 0, 0, 0
        rk.after(0.005, function() once = once + 1 end)
        local e = rk.every(0.005, function() often = often + 1 end)
        local t = rk.after(0.01, function() never = never + 1 end)
        assert(rk.cancel(t) == true)
        assert(rk.cancel(t) == false)
        while often < 5 do rk.sleep(0.005) end
        rk.cancel(e)
        local stopped = often
        rk.sleep(0.03)
        return once .. " " .. tostring(often == stopped) .. " " .. never ]])
    end)

    it("are not called once cancelled, even when they are due already", function()
      assert.equal("false", run [[
        local called = false
        local t = rk.after(0, function() called = true end)
        rk.after(0, function() end)
        rk.fork(function() rk.cancel(t) end)
        rk.cancel(t)
        rk.sleep(0.01)
        return tostring(called) ]])
    end)

    it("keep their pace: every does not drift", function()
      assert.equal("true", run [[
        local times, start = {}, rk.now()
        rk.every(0.01, function() times[#times + 1] = rk.now() - start end)
        while #times < 10 do rk.sleep(0.003) end
        -- each tick is at or after a point of the grid, and the tenth is not before the grid's tenth
        return tostring(times[10] >= 0.0999) ]])
    end)

    it("may wait in their callback, and leave out ticks meanwhile", function()
      assert.equal("true", run [[
        local running, most, calls = 0, 0, 0
        rk.every(0.002, function()
          running = running + 1
          most = math.max(most, running)
          rk.sleep(0.01)
          running, calls = running - 1, calls + 1
        end)
        while calls < 3 do rk.sleep(0.005) end
        return tostring(most == 1) ]])
    end)

    it("fire while the main script waits", function()
      local fired = 0
      rk.after(0.01, function() fired = fired + 1 end)
      rk.receive(0.05)
      assert.equal(1, fired)
    end)

    it("refuse times that mean nothing", function()
      assert.has_error(function() rk.every(0, print) end)
      assert.has_error(function() rk.after(-1, print) end)
      assert.has_error(function() rk.after(1) end)
    end)
  end)

  describe("forks", function()
    it("get their arguments and run while the body waits", function()
      assert.equal("3", run [[
        local sum
        rk.fork(function(a, b) sum = a + b end, 1, 2)
        rk.sleep(0)
        return tostring(sum) ]])
    end)

    it("that fail are counted, and the actor goes on", function()
      local pid = spawn [[
        rk.fork(function() error("in a fork, on purpose") end)
        rk.after(0, function() error("in a timer, on purpose") end)
        rk.sleep(0.02)
        ctx:receive() ]]
      rk.sleep(0.05)
      assert.equal(2, pid:info().failed)
      assert.is_true(pid:stop())
    end)

    it("are closed when the body ends, with their to-be-closed variables", function()
      local reason = run([[
        local _, to = ...
        rk.fork(function()
          local guard <close> = setmetatable({}, { __close = function() to:send("closed") end })
          ctx:receive()
        end)
        rk.sleep(0)
        return "over" ]], { rk.self() })
      assert.equal("over", reason)
      assert.equal("closed", (rk.receive(function(m) return m == "closed" end, 5)))
    end)

    it("run while the main script waits in a call", function()
      local pid = spawn "local m = ctx:receive() rk.sleep(0.03) ctx:reply(m, 'x')"
      local ran = 0
      rk.fork(function() for _ = 1, 3 do rk.sleep(0.001) ran = ran + 1 end end)
      assert.equal("x", pid:call { 1 })
      assert.equal(3, ran)
    end)

    it("come in thousands", function()
      assert.equal("5000", run [[
        local n = 0
        for i = 1, 5000 do rk.fork(function() rk.sleep(0.001) n = n + 1 end) end
        while n < 5000 do rk.sleep(0.01) end
        return tostring(n) ]])
    end)
  end)

  describe("coroutines of the user", function()
    it("wait in the runtime without yielding to their user", function()
      assert.equal("1 2 done dead", run [[
        local co = coroutine.create(function()
          rk.sleep(0.001)
          coroutine.yield(1)
          ctx:self():send("x")
          ctx:receive()
          coroutine.yield(2)
          return "done"
        end)
        local out = {}
        for i = 1, 3 do local ok, v = coroutine.resume(co) out[i] = tostring(v) end
        out[4] = coroutine.status(co)
        return table.concat(out, " ") ]])
    end)

    it("let other coroutines run meanwhile, at any depth", function()
      assert.equal("true 7", run [[
        local ticks = 0
        rk.fork(function() while true do rk.sleep(0.001) ticks = ticks + 1 end end)
        local inner = coroutine.wrap(function()
          return coroutine.wrap(function() while ticks < 3 do rk.sleep(0.001) end return 7 end)()
        end)
        local v = inner()
        return tostring(ticks > 2) .. " " .. v ]])
    end)

    it("are not resumed by anybody else while they wait", function()
      assert.equal("normal false cannot resume non-suspended coroutine false", run [[
        local co = coroutine.create(function() rk.sleep(0.05) end)
        local out
        rk.fork(function()
          rk.sleep(0.005)
          local status = coroutine.status(co)
          local ok, err = coroutine.resume(co)
          out = status .. " " .. tostring(ok) .. " " .. err .. " " .. tostring(pcall(coroutine.close, co))
        end)
        coroutine.resume(co)
        return out ]])
    end)

    it("fail, return and yield as in stock Lua", function()
      assert.equal("ok", run [[
        local co = coroutine.create(function(a, b)
          local c = coroutine.yield(a + b)
          error("oops " .. c)
        end)
        local ok, sum = coroutine.resume(co, 1, 2)
        assert(ok and sum == 3)
        local bad, err = coroutine.resume(co, "z")
        assert(not bad and err:find("oops z"))
        assert(coroutine.status(co) == "dead")
        assert(select(2, coroutine.resume(co)) == "cannot resume dead coroutine")
        local w = coroutine.wrap(function() error({ 1 }) end)
        local _, e = pcall(w)
        assert(type(e) == "table" and e[1] == 1)
        assert(not pcall(w))
        local n = 0
        for i in coroutine.wrap(function() for i = 1, 3 do coroutine.yield(i) end end) do n = n + i end
        assert(n == 6)
        local closed = coroutine.create(function() local x <close> = setmetatable({}, { __close = function() n = 0 end }) coroutine.yield() end)
        coroutine.resume(closed)
        assert(coroutine.close(closed) and n == 0)
        return "ok" ]])
    end)

    it("work on the main script too", function()
      local co = coroutine.wrap(function() rk.sleep(0.001) coroutine.yield("a") return "b" end)
      assert.equal("a", co())
      assert.equal("b", co())
    end)
  end)

  describe("waiting where Lua cannot yield", function()
    it("blocks in a comparator, gsub, __tostring and require", function()
      assert.equal("1 2 3 xx t m", run [[
        local t = { 3, 1, 2 }
        table.sort(t, function(a, b) rk.sleep(0.001) return a < b end)
        local g = ("ab"):gsub(".", function() rk.sleep(0.001) return "x" end)
        local s = tostring(setmetatable({}, { __tostring = function() rk.sleep(0.001) return "t" end }))
        package.preload.waits = function() rk.sleep(0.001) return "m" end
        return table.concat(t, " ") .. " " .. g .. " " .. s .. " " .. require("waits") ]])
    end)

    it("leaves unrelated mail and other coroutines alone", function()
      local echo = spawn "for m in ctx:messages() do rk.sleep(0.01) ctx:reply(m, m) end"
      assert.equal("0 answer 1 2 1", run([[
        local _, echo = ...
        local ran = 0
        local me = ctx:self()
        me:send(1)
        rk.fork(function() ran = ran + 1 end)
        local during
        local answer
        ;("x"):gsub(".", function()
          answer = echo:call("answer" and { "answer" })[1]
          me:send(2)
          during = ran
        end)
        local a, b = ctx:receive(1), ctx:receive(1)
        rk.sleep(0)
        return during .. " " .. answer .. " " .. a .. " " .. b .. " " .. ran ]], { echo }))
    end)

    it("keeps the replies of other coroutines for them", function()
      local echo = spawn "for m in ctx:messages() do ctx:reply(m, m) end"
      assert.equal("5 blocked", run([[
        local _, echo = ...
        local other
        rk.fork(function() other = echo:call(5) end)
        rk.sleep(0)
        local got
        ;("x"):gsub(".", function() rk.sleep(0.02) got = "blocked" end)
        while not other do rk.sleep(0.001) end
        return other .. " " .. got ]], { echo }))
    end)

    it("passes through a coroutine inside such a place", function()
      assert.equal("v", run [[
        local v
        ;("x"):gsub(".", function()
          v = coroutine.wrap(function() rk.sleep(0.001) return "v" end)()
        end)
        return v ]])
    end)

    it("receives there, too", function()
      assert.equal("hello", run [[
        rk.after(0, function() end)
        ctx:self():send("hello")
        local v
        ;("x"):gsub(".", function() v = ctx:receive(1) end)
        return v ]])
    end)
  end)

  describe("handler tables", function()
    local function server(source, args, options)
      options = options or {}
      options.args = args
      local handlers = assert(load("local rk = require 'rk' return " .. source, "=handlers"))()
      return runtime:spawn(handlers, options)
    end

    local counter = [[{
      init = function(self, start) self.n = start or 0 end,
      call = { get = function(self) return self.n end,
               add = function(self, k, times) self.n = self.n + k * (times or 1) return self.n, "second" end },
      cast = { reset = function(self) self.n = 0 end },
      terminate = function(self, reason) if self.to then self.to:send("bye " .. reason) end end,
    }]]

    it("keep state between calls and casts", function()
      local pid = server(counter, { 10 })
      assert.equal(15, pid:call("add", 5))
      assert.equal(1, select("#", pid:call("add", 5, 2)))
      assert.equal(25, pid:call("get"))
      assert.is_true(pid:cast("reset"))
      assert.equal(0, pid:timeout(2):call("get"))
    end)

    it("name the known entries when one is unknown, and live on", function()
      local pid = server(counter)
      local ok, err = pcall(pid.call, pid, "nope")
      assert.is_false(ok)
      assert.equal("ENOENT", err.code)
      assert.matches("add, get", err.message)
      assert.equal(0, pid:call("get"))
      local _, _, code = pid:try_call({ 1 })
      assert.equal("ENOENT", code)
    end)

    it("get typed messages in the entry of their type", function()
      local pid = server [[{
        call = { SpecNumber = function(self, m, from) return m.n + 1 end },
        cast = { SpecNumber = function(self, m) self.last = m.n end },
        info = function(self, m, from)
          if m == "last" then from:send(self.last) else self.other = m end
        end }]]
      assert.equal(8, pid:call(Number { n = 7 }))
      pid:send(Number { n = 99 })
      pid:send("last")
      assert.equal(99, (rk.receive(5)))
    end)

    it("get everything else in info, and may answer there", function()
      local pid = server [[{ info = function(self, m, from) return { got = m } end }]]
      assert.same({ got = 5 }, pid:call(5))
    end)

    it("run terminate with the reason of a stop request", function()
      local pid = server([[{
        init = function(self, to) self.to = to end,
        terminate = function(self, reason) self.to:send("bye " .. reason) end }]], { rk.self() })
      rk.monitor(pid)
      assert.is_true(pid:stop("closing time"))
      assert.equal("bye closing time", (rk.receive(function(m) return type(m) == "string" end, 5)))
      assert.equal("closing time", exit_reason(pid))
    end)

    it("give a handler's error to the caller and fail with it", function()
      local pid = server [[{ call = { boom = function() error("broken pipe dream") end } }]]
      rk.monitor(pid)
      local ok, err = pcall(pid.call, pid, "boom")
      assert.is_false(ok)
      assert.equal("EHANDLER", err.code)
      assert.equal("handlers:1: broken pipe dream", err.message)
      assert.matches("^stack traceback", err.traceback)
      assert.matches("stack traceback", tostring(err))
      assert.equal("handlers:1: broken pipe dream", exit_reason(pid))
    end)

    it("give terminate the reason without a traceback", function()
      local pid = server([[{
        init = function(self, to) self.to = to end,
        cast = { boom = function() error("broken") end, odd = function() error { code = 7 } end },
        terminate = function(self, reason) self.to:send(reason) end }]], { rk.self() })
      pid:cast("boom")
      assert.equal("handlers:3: broken", (rk.receive(5)))
      pid = server([[{
        init = function(self, to) self.to = to end,
        cast = { odd = function() error { code = 7 } end },
        terminate = function(self, reason) self.to:send(reason) end }]], { rk.self() })
      pid:cast("odd")
      assert.equal("error object: { code = 7 }", (rk.receive(5)))
    end)

    it("answer ENOREPLY for a call that info gives nothing for", function()
      local pid = server [[{ info = function(self, m)
        if m.later then
          local request = self.ctx.request
          rk.after(0.005, function() self.ctx:reply(request, "late") end)
          return rk.noreply
        elseif m.direct then
          self.ctx:reply(m, "direct")
        end
      end }]]
      local value, _, code = pid:try_call({ x = 1 }, 20)
      assert.is_nil(value)
      assert.equal("ENOREPLY", code)
      assert.equal("late", pid:call { later = true })
      assert.equal("direct", pid:call { direct = true })
    end)

    it("make spawn fail with the error of init", function()
      local ok, err = pcall(server, [[{ init = function() error("no database") end }]])
      assert.is_false(ok)
      assert.matches("no database", tostring(err))
      ok, err = pcall(server, [[{ init = function() return nil, "no luck" end }]])
      assert.is_false(ok)
      assert.matches("no luck", tostring(err))
    end)

    it("have run init when spawn returns", function()
      server([[{ init = function(self, to) rk.sleep(0.01) to:send("ready") end }]], { rk.self() })
      assert.equal("ready", (rk.receive(0)))
    end)

    it("answer later with rk.noreply", function()
      local pid = server [[{
        call = {
          later = function(self, v)
            local request = self.ctx.request
            rk.after(0.005, function() self.ctx:reply(request, v * 2) end)
            return rk.noreply
          end,
          never = function() return rk.noreply end,
          directly = function(self) self.ctx:reply(self.ctx.request, "early") return "ignored" end,
          now = function() return 1 end } }]]
      assert.equal(42, pid:call("later", 21))
      assert.equal("early", pid:call("directly"))
      local out = {}
      rk.fork(function() out[1] = { pid:try_call("never") } end)
      rk.sleep(0.01)
      assert.equal(1, pid:call("now"))
      rk.sleep(0.01)
      assert.equal("ENOREPLY", out[1][3])
    end)

    it("see nil arguments and answers", function()
      local pid = server [[{ call = { count = function(self, ...) return select("#", ...) end,
                                      none = function() end } }]]
      assert.equal(3, pid:call("count", nil, 1, nil))
      assert.is_nil(pid:call("none"))
    end)

    it("handle one message at a time, timers in between", function()
      local pid = server [[{
        init = function(self) self.log = {} rk.every(0.002, function() self.ticks = (self.ticks or 0) + 1 end) end,
        call = { slow = function(self, n) self.log[#self.log + 1] = "in" .. n rk.sleep(0.02)
                   self.log[#self.log + 1] = "out" .. n return true end,
                 log = function(self) return { table.concat(self.log, " "), self.ticks > 3 } end } }]]
      local done = 0
      for i = 1, 2 do rk.fork(function() pid:call("slow", i) done = done + 1 end) end
      while done < 2 do rk.sleep(0.005) end
      assert.same({ "in1 out1 in2 out2", true }, pid:call("log"))
    end)

    it("refuse unknown keys", function()
      assert.has_error(function() rk.actor("spec_bad", { calls = {} }) end)
      assert.has_error(function() rk.actor("spec_bad", { call = print }) end)
    end)

    it("are checked by actor, spawn and when a module gives one", function()
      local function refused(handlers, ...)
        for _, start in ipairs {
          function() rk.actor("spec_bad", handlers) end,
          function() runtime:spawn(handlers) end,
        } do
          local ok, err = pcall(start)
          assert.is_false(ok)
          for _, pattern in ipairs { ... } do assert.matches(pattern, tostring(err)) end
        end
      end
      refused({ calls = {} }, "'calls'", "init, call, cast, info, terminate")
      refused({ init = {} }, "'init' must be a function, not a table")
      refused({ info = 1 }, "'info' must be a function, not a number")
      refused({ terminate = "x" }, "'terminate' must be a function, not a string")
      refused({ cast = 1 }, "'cast' must be a table, not a number")
      refused({ call = { get = 5 } }, "'call.get' must be a function, not a number")
      refused({ cast = { print } }, "'cast' is a number", "named by strings")
    end)
  end)

  describe("definitions", function()
    it("are captured when defined and again when spawned by the same state", function()
      local value = 1
      local get = load("local get = ... return function(ctx) local m = ctx:receive(5) ctx:reply(m, get()) end")
      local function current() return value end
      debug.setupvalue(get, 1, _G)
      rk.actor("spec_fresh", get(current))
      value = 2
      local pid = runtime:spawn("spec_fresh")
      assert.equal(2, pid:call {})
    end)

    it("can be spawned from another actor by name", function()
      rk.actor("spec_child", body "ctx:receive() return 'child of ' .. (select(2, ...) or 'nobody')")
      assert.equal("child of me", run([[
        local _, runtime = ...
        local pid = runtime:spawn("spec_child", { args = { "me" } })
        rk.monitor(pid)
        pid:send("go")
        return ctx:receive('down', 5).reason ]], { runtime }))
    end)

    it("that cannot cross are an error at spawn, naming what cannot", function()
      local file = io.tmpfile()
      local make = assert(load("local file = ... return function() return file end"))
      rk.actor("spec_stuck", make(file))
      local ok, err = pcall(runtime.spawn, runtime, "spec_stuck")
      assert.is_false(ok)
      assert.matches("FILE", tostring(err))
    end)

    it("have a name and print", function()
      local definition = rk.actor("spec_named", print)
      assert.equal("spec_named", definition.name)
      assert.equal("lua", definition.kind)
      assert.matches("spec_named", tostring(definition))
      assert.is_nil(definition.other)
    end)

    it("find the global rk in the actor's state", function()
      assert.equal("table", run([[ return load("return type(rk)")() ]]))
      local me = rk.self()
      runtime:spawn(load("rk.sleep(0) local _, to = ... to:send('here')"), { args = { me } })
      assert.equal("here", (rk.receive(5)))
    end)

    it("see equal handles of one runtime", function()
      local other <close> = rk.runtime { device = "cpu" }
      assert.equal("true false", run([[
        local _, a, b, other = ...
        return tostring(a == b) .. " " .. tostring(a == other) ]], { runtime, runtime, other }))
      assert.is_true(other ~= runtime)
    end)

    it("refuse what is no definition", function()
      assert.has_error(function() rk.actor("spec_bad", 42) end)
      assert.has_error(function() rk.actor("", print) end)
      assert.has_error(function() rk.actor(("x"):rep(64), print) end)
    end)
  end)

  describe("lifecycle", function()
    it("pauses at a message border and goes on", function()
      local pid = spawn "for m in ctx:messages() do ctx:reply(m, m) end"
      assert.equal(1, pid:call(1))
      assert.is_true(pid:deactivate())
      local value, _, code = pid:try_call(2, 0.03)
      assert.is_nil(value)
      assert.equal("ETIMEOUT", code)
      assert.equal("DEACTIVATED", pid:info().state)
      assert.is_true(pid:reactivate())
      assert.equal(3, pid:call(3))
      local ok
      ok, _, code = pid:reactivate()
      assert.is_nil(ok)
      assert.equal("ESTATE", code)
    end)

    it("shows the state of a ring kernel as a message", function()
      rk.kernel("spec_total", {
        accepts = { Number }, replies = { Number }, state = { total = "i64" },
        source = [[
          RK_ON(SpecNumber, m)
          {
              rk_get_state(ctx)->total += m->n;
              rk_reply(ctx, SpecNumber, .n = m->n);
          }
        ]],
      })
      local kernel = runtime:spawn("spec_total")
      assert.equal(0, kernel:state().total)
      for i = 1, 4 do kernel:call(Number { n = i }, 10) end
      assert.equal(10, kernel:state().total)
      assert.equal("ACTIVE", kernel:info().state)
      kernel:stop()
      local value, _, code = kernel:state()
      assert.is_nil(value)
      assert.equal("EDEAD", code)
    end)

    it("has no schema'd state to read in a Lua actor", function()
      local pid = spawn "ctx:receive()"
      local value, text, code = pid:state()
      assert.is_nil(value)
      assert.is_string(text)
      assert.equal("EUNSUPPORTED", code)
    end)

    it("launches first and runs when activated", function()
      local pid = runtime:launch(body "ctx:receive():send('up')")
      pid:send(rk.self())
      assert.is_nil((rk.receive(0.02)))
      assert.is_true(pid:activate())
      assert.equal("up", (rk.receive(5)))
    end)

    it("can kill an actor whose start hangs", function()
      rk.actor("spec_hangs", { init = function() while true do end end })
      local parent = spawn([[
        local _, runtime = ...
        local ok, err = pcall(runtime.spawn, runtime, "spec_hangs", { name = "spec_hanging" })
        return tostring(ok) .. ": " .. tostring(err) ]], { runtime })
      rk.monitor(parent)
      local child
      repeat
        rk.sleep(0.005)
        child = runtime:whereis("spec_hanging")
      until child
      assert.is_true(child:kill())
      assert.matches("^false: .*did not start", exit_reason(parent))
    end)

    it("answers a call while the script waits for output", function()
      local quiet = spawn("ctx:receive()", nil, { name = "spec_quiet" })
      local slow = spawn("local m = ctx:receive() rk.sleep(0.05) ctx:reply(m, 42)")
      local answer
      rk.fork(function() answer = slow:call("now", 5) end)
      local value, text = runtime:receive("spec_quiet", 0.3)
      assert.is_nil(value)
      assert.matches("timeout", text)
      assert.equal(42, answer)
      quiet:stop()
    end)

    it("gives the place of a dead sender to the next one", function()
      local target = spawn([[
        rk.sleep(0.2)
        local n = 0
        while ctx:receive(0.5) do n = n + 1 end
        return n ]], nil, { mailbox = 1 })
      rk.monitor(target)
      target:send("fill")
      local dying = spawn([[
        local _, pid = ...
        for i = 1, 4 do rk.fork(function() pid:send(i) end) end
        rk.sleep(0.02) ]], { target })
      rk.monitor(dying)
      exit_reason(dying)
      assert.is_true(target:send("live", 5))
      assert.equal("2", exit_reason(target))
    end)

    it("shows what an actor is in info", function()
      local pid = spawn("ctx:receive()", nil, { name = "spec_info" })
      rk.sleep(0.01)
      local info = pid:info()
      assert.equal("lua", info.kind)
      assert.equal("spec_info", info.name)
      assert.equal("spec_info", pid.name)
      assert.equal("ACTIVE", info.state)
      assert.equal("host", info.device)
      assert.is_true(info.memory > 10000)
    end)
  end)
end)
