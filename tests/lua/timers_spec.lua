-- timers_spec.lua: rk.after, rk.every, rk.sleep and timeouts as scripts see them: bad times, the grid
-- of a period, order, and the end of an actor. No case asserts how late something was. Bodies are
-- given as source, so that they capture nothing of busted.

local rk = require "rk"

local runtime
local NAN = 0 / 0

local function spawn(source, args, options)
  options = options or {}
  options.args = args
  return runtime:spawn(assert(load("local rk = require 'rk' local ctx = ... " .. source, "=body")), options)
end

-- Runs a body to its end; what it returns, as text.
local function run(source, args)
  local pid = spawn("ctx:receive('TimersGo') " .. source, args)
  rk.monitor(pid)
  pid:send(rk.message("TimersGo", {}) {})
  repeat
    local down = assert(rk.receive("down", 20))
    if down.pid == pid then return down.reason end
  until false
end

local function refused(expected, fn, ...)
  local ok, message = pcall(fn, ...)
  assert.is_false(ok)
  message = tostring(message)
  assert.is_truthy(message:find(expected, 1, true), message)
end

local Tick = rk.message("TimersTick", { n = "i64" })

describe("timers", function()
  before_each(function()
    while rk.receive(0) do end
    runtime = rk.runtime { device = "cpu" }
  end)
  after_each(function()
    runtime:close()
    while rk.receive(0) do end
  end)

  describe("refuse a time that means nothing, naming function and value:", function()
    it("rk.after", function()
      refused("rk.after: a delay must be 0 or more seconds, not -1", rk.after, -1, print)
      refused("rk.after: a delay must be 0 or more seconds, not -0.25", rk.after, -0.25, print)
      refused("rk.after: a delay must be 0 or more seconds, not NaN", rk.after, NAN, print)
      refused("rk.after: a delay must be 0 or more seconds, not NaN", rk.after, -NAN, print)
      refused("rk.after: a delay must be 0 or more seconds, not -inf", rk.after, -math.huge, print)
      refused("'rk.after' (number expected, got string)", rk.after, "soon", print)
      refused("'rk.after' (function expected", rk.after, 1)
    end)

    it("rk.every", function()
      refused("rk.every: a period must be more than 0 seconds, not 0", rk.every, 0, print)
      refused("rk.every: a period must be more than 0 seconds, not 0.0", rk.every, 0.0, print)
      refused("rk.every: a period must be more than 0 seconds, not -3", rk.every, -3, print)
      refused("rk.every: a period must be more than 0 seconds, not NaN", rk.every, NAN, print)
      refused("'rk.every' (number expected, got nil)", rk.every, nil, print)
      refused("'rk.every' (function expected", rk.every, 1)
    end)

    it("the same inside an actor, with the line", function()
      assert.equal("body:1: rk.every: a period must be more than 0 seconds, not -1", run "rk.every(-1, print)")
    end)

    it("rk.sleep and every timeout", function()
      local pid = spawn("ctx:receive()")
      local nan = "a timeout cannot be NaN"
      for name, fn in pairs {
        sleep = function() rk.sleep(NAN) end,
        receive = function() rk.receive(NAN) end,
        send = function() pid:send(Tick { n = 1 }, NAN) end,
        call = function() pid:call(Tick { n = 1 }, NAN) end,
        try_call = function() pid:try_call(Tick { n = 1 }, NAN) end,
        timeout = function() pid:timeout(NAN) end,
        stop = function() pid:stop("why", NAN) end,
      } do
        refused("'" .. name .. "' (" .. nan, fn)
      end
      refused("(" .. nan, rk.receive, "down", NAN)
      refused("'rk.sleep' (number expected", rk.sleep)
    end)
  end)

  it("leave nothing behind when they were refused", function()
    assert.equal("0 fired", run [[
      local fired = 0
      pcall(rk.after, -1, function() fired = fired + 1 end)
      pcall(rk.every, 0, function() fired = fired + 1 end)
      rk.sleep(0.02)
      return fired .. " fired" ]])
  end)

  -- The grid is told by the timer itself: due() at each tick is the point after that tick's.
  it("tick on the grid of their period, without drift", function()
    assert.equal("on the grid", run [[
      local PERIOD <const> = 300000 -- ns; 0.0003 * 1e9 is a little less in doubles
      local function ns(seconds) return math.floor(seconds * 1e9 + 0.5) end
      local points, timer = {}
      timer = rk.every(0.0003, function() points[#points + 1] = ns(timer:due()) end)
      local first = ns(timer:due())
      while #points < 100 do rk.sleep(0.0007) end
      timer:cancel()
      local before = first
      for i, point in ipairs(points) do
        if point <= before then return ("point %d: %d after %d"):format(i, point, before) end
        local off = (point - first) % PERIOD
        if off > 2 and off < PERIOD - 2 then -- a double of seconds has digits for that
          return ("point %d is off the grid by %d ns"):format(i, off)
        end
        before = point
      end
      return "on the grid" ]])
  end)

  it("leave out the ticks that nobody had time for", function()
    assert.equal("one call for ten ticks", run [[
      local PERIOD <const> = 0.001
      local calls, timer = 0
      timer = rk.every(PERIOD, function() calls = calls + 1 end)
      local before = timer:due()
      while rk.now() < before + 10 * PERIOD do end -- nothing else runs meanwhile
      while calls == 0 do rk.sleep(0) end
      local skipped = math.floor((timer:due() - before) / PERIOD + 0.5)
      if calls > skipped - 9 then return calls .. " calls for " .. skipped .. " ticks" end
      return "one call for ten ticks" ]])
  end)

  it("fire in the order of their deadlines, however many there are", function()
    local seed = tonumber(os.getenv "SEED") or os.time()
    local result = run([[
      local _, seed = ...
      math.randomseed(seed)
      local N <const> = 3000
      local fired, cancelled, timers = {}, 0, {}
      for i = 1, N do
        local at
        local timer = rk.after(math.random() * 0.05, function() fired[#fired + 1] = at end)
        at = timer:due()
        timers[i] = timer
      end
      for i = 1, N, 3 do
        cancelled = cancelled + (rk.cancel(timers[i]) and 1 or 0)
      end
      collectgarbage()
      while #fired + cancelled < N do rk.sleep(0.005) end
      for i = 2, #fired do
        if fired[i] < fired[i - 1] then return "timer " .. i .. " fired too early" end
      end
      for i = 1, N do
        if timers[i]:due() then return "timer " .. i .. " is still set" end
      end
      return "in order" ]], { seed })
    assert.equal("in order", result, "again with SEED=" .. seed)
  end)

  it("need nobody to hold them, and stop from within", function()
    assert.equal("3 nil false", run [[
      local calls, due, again = 0
      do
        local timer
        timer = rk.every(0.001, function()
          calls = calls + 1
          if calls == 3 then
            timer:cancel()
            due, again = timer:due(), timer:cancel()
          end
        end)
      end
      rk.after(0.002, function() collectgarbage() end)
      while calls < 3 do collectgarbage() rk.sleep(0.001) end
      rk.sleep(0.01)
      return calls .. " " .. tostring(due) .. " " .. tostring(again) ]])
  end)

  it("set for ever wait until they are cancelled", function()
    assert.equal("inf inf true true", run [[
      local a, b = rk.after(math.huge, error), rk.every(math.huge, error)
      rk.sleep(0.005)
      return a:due() .. " " .. b:due() .. " " .. tostring(a:cancel()) .. " " .. tostring(b:cancel()) ]])
  end)

  describe("end with their actor, which", function()
    -- Ticks come until the actor has ended (`down` comes behind them), and none afterwards.
    local function silent_after(ending, stop)
      local pid = spawn([[
        local _, main = ...
        local Tick = rk.message("TimersTick", { n = "i64" })
        rk.every(0.002, function() main:send(Tick { n = 1 }) end)
        for i = 1, 50 do rk.after(0.3 + i * 0.001, function() main:send(Tick { n = 2 }) end) end
        ]] .. ending, { rk.self() })
      rk.monitor(pid)
      assert.equal(1, assert(rk.receive("TimersTick", 20)).n)
      if stop then stop(pid) end
      local down = assert(rk.receive("down", 20))
      assert.equal(pid, down.pid)
      while rk.receive("TimersTick", 0) do end
      assert.is_nil((rk.receive("TimersTick", 0.5)))
      return down.reason
    end

    it("returns", function() assert.equal("done", silent_after "rk.sleep(0.02) return 'done'") end)
    it("fails", function() silent_after "rk.sleep(0.02) error('on purpose')" end)
    it("is stopped", function()
      silent_after("ctx:receive()", function(pid) pid:stop() end)
    end)
    it("is killed", function()
      silent_after("rk.sleep(0.02) while true do rk.sleep(1) end", function(pid) pid:kill() end)
    end)
    it("has handlers", function()
      local handlers = assert(load([[
        local rk = require "rk"
        local Tick = rk.message("TimersTick", { n = "i64" })
        return { init = function(_, main)
          rk.every(0.002, function() main:send(Tick { n = 1 }) end)
          rk.after(0.3, function() main:send(Tick { n = 2 }) end)
        end } ]], "=handlers"))()
      local pid = runtime:spawn(handlers, { args = { rk.self() } })
      rk.monitor(pid)
      assert(rk.receive("TimersTick", 20))
      pid:stop()
      assert(rk.receive("down", 20))
      while rk.receive("TimersTick", 0) do end
      assert.is_nil((rk.receive("TimersTick", 0.5)))
    end)
  end)
end)
