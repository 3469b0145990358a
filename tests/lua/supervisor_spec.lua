-- supervisor_spec.lua: runtime:supervise and rk.supervisor. Handlers are given as source, so that they
-- capture nothing of busted. A worker tells the main script's port when it starts and ends.

local rk = require "rk"

local runtime

local worker = load [[
  local rk = require "rk"
  return {
    init = function(self, who, name, problem)
      self.who, self.name = who, name
      if problem then return nil, problem end
      who:send { "start", name }
    end,
    call = {
      fail = function(_, why) error(why, 0) end,
      run = function(_, source, ...) return assert(load("local rk = require 'rk' " .. source))(...) end,
    },
    cast = {
      fail = function(_, why) error(why, 0) end,
      run = function(_, source, ...) assert(load("local rk = require 'rk' " .. source))(...) end,
    },
    terminate = function(self, reason) self.who:send { "end", self.name, reason } end,
  }
]]()

-- Ends normally when it gets any message, and with an error when that is { error = text }.
local plain = load [[
  local rk, ctx, who, name = require "rk", ...
  who:send { "start", name }
  local message = ctx:receive()
  if message and message.error then error(message.error, 0) end
  who:send { "end", name, message and "returned" or "stopped" }
]]

-- Does not hear a stop request: it ends when it is killed.
local deaf = load [[
  local rk, ctx, who, name = require "rk", ...
  who:send { "start", name }
  while true do rk.sleep(0.01) end
]]

local function child(name, fields)
  local spec = { id = name, start = { worker, rk.self(), name }, name = name }
  for key, value in pairs(fields or {}) do spec[key] = value end
  return spec
end

local function plain_child(name, fields)
  local spec = child(name, fields)
  spec.start = { plain, rk.self(), name }
  return spec
end

local function is_event(message) return type(message) == "table" end

local function next_event()
  return table.concat(assert(rk.receive(is_event, 20)), " ", 1, 2)
end

local function expect(...)
  for _, wanted in ipairs { ... } do assert.equal(wanted, next_event()) end
end

-- The same in any order: a body that is a function has started when its thread runs.
local function expect_all(...)
  local events, wanted = {}, { ... }
  for i = 1, #wanted do events[i] = next_event() end
  table.sort(events)
  table.sort(wanted)
  assert.same(wanted, events)
end

local function quiet()
  assert.is_nil((rk.receive(is_event, 0)))
end

local function eventually(condition, what)
  for _ = 1, 4000 do
    local value = condition()
    if value then return value end
    rk.sleep(0.005)
  end
  error("never came true: " .. what)
end

-- The exit of an actor that is monitored: reason, normal.
local function exit_of(pid)
  while true do
    local down = assert(rk.receive("down", 20))
    if down.pid == pid then return down.reason, down.normal end
  end
end

local function message_of(fn, ...)
  local ok, err = pcall(fn, ...)
  assert.is_false(ok)
  return type(err) == "table" and err.message or (tostring(err):gsub("^.-:%d+: ", "")), err
end

local function refused(spec)
  return (message_of(runtime.supervise, runtime, spec))
end

local function states(sup)
  local list = {}
  for i, entry in ipairs(assert(rk.supervisor.which_children(sup))) do list[i] = entry.id .. " " .. entry.state end
  return table.concat(list, ", ")
end

local function restarts(sup)
  return assert(rk.supervisor.count_children(sup)).restarts
end

-- Fails a named worker, and gives the pid it had.
local function fail(name, why)
  local pid = assert(rk.whereis(name))
  pid:cast("fail", why or "broken")
  return pid
end

describe("supervisors", function()
  before_each(function()
    while rk.receive(0) do end
    runtime = rk.runtime { device = "cpu" }
  end)
  after_each(function()
    runtime:close()
    while rk.receive(0) do end
  end)

  describe("a tree", function()
    it("starts its children in order and stops them in reverse order", function()
      local sup = runtime:supervise { name = "top", child "a", child "b", child "c" }
      expect("start a", "start b", "start c")
      assert.equal("supervisor", sup.kind)
      assert.equal("supervisor", sup:info().kind)
      assert.equal("top", sup.name)
      rk.monitor(sup)
      assert(sup:stop("enough"))
      expect("end c", "end b", "end a")
      assert.same({ "enough", true }, { exit_of(sup) })
    end)

    it("tells a child that is stopped the reason shutdown", function()
      local sup = runtime:supervise { child "a" }
      assert(sup:stop())
      expect "start a"
      assert.same({ "end", "a", "shutdown" }, (rk.receive(is_event, 20)))
    end)

    it("may have no children", function()
      local sup = runtime:supervise {}
      assert.same({}, rk.supervisor.which_children(sup))
      assert(sup:stop())
    end)

    it("shows strategy, children and restarts in its label", function()
      local sup = runtime:supervise { strategy = "rest_for_one", child "a", child "b" }
      if not sup:info().label then return pending "info() has no label yet" end
      assert.equal("rest_for_one, 2 children, 0 restarts", sup:info().label)
      fail "b"
      eventually(function() return sup:info().label == "rest_for_one, 2 children, 1 restart" end, "one restart")
    end)

    it("is stopped in order when the runtime closes", function()
      runtime:supervise { child "a", { id = "in", strategy = "one_for_one", child "b", child "c" }, child "d" }
      expect("start a", "start b", "start c", "start d")
      runtime:close()
      expect("end d", "end c", "end b", "end a")
    end)

    it("nests: supervisors are children too, with strategies of their own", function()
      local sup = runtime:supervise {
        name = "top", strategy = "one_for_all",
        child "a",
        { name = "io", strategy = "rest_for_one", child "b", child "c" },
      }
      expect("start a", "start b", "start c")
      fail "c"
      expect("end c", "start c")
      local list = rk.supervisor.which_children(sup)
      assert.equal("io", list[2].id)
      assert.equal("supervisor", list[2].kind)
      assert.equal(rk.whereis "io", list[2].pid)
      assert.equal("b running, c running", states "io")
      assert.equal(0, restarts(sup))
      assert.equal(1, restarts "io")
      fail "a"
      expect("end a", "end c", "end b", "start a", "start b", "start c")
    end)

    it("gives children their arguments and options, also after a restart", function()
      local seen = load [[
        local rk, ctx, who, a, b, c = require "rk", ...
        local n = select("#", ...)
        who:send { "got", table.concat({ n, tostring(a), tostring(b), c, ctx:self().name }, " ") }
        ctx:receive()
        error("again", 0)
      ]]
      runtime:supervise { { id = "x", name = "named", mailbox = 7, full = "reject",
        start = { seen, rk.self(), "text", nil, 3.5 } } }
      expect "got 5 text nil 3.5 named"
      rk.whereis("named"):send {}
      expect "got 5 text nil 3.5 named"
    end)

    it("takes what spawn takes: names, definitions, handler tables, functions", function()
      local definition = rk.actor("SupSpecRegistered", plain)
      local sup = runtime:supervise {
        { start = { "SupSpecRegistered", rk.self(), "a" } },
        { id = "b", start = { definition, rk.self(), "b" } },
        { id = "c", start = { worker, rk.self(), "c" } },
        { id = "d", start = { plain, rk.self(), "d" } },
      }
      expect_all("start a", "start b", "start c", "start d")
      assert.equal("SupSpecRegistered running, b running, c running, d running", states(sup))
    end)

    it("goes on starting what a name meant when the tree was described", function()
      rk.actor("SupSpecChanging", plain)
      local sup = runtime:supervise { { start = { "SupSpecChanging", rk.self(), "first" }, id = "x" } }
      expect "start first"
      rk.actor("SupSpecChanging", load "error('the second one', 0)")
      rk.supervisor.which_children(sup)[1].pid:send { error = "again" }
      expect "start first"
    end)

    it("does not change its description", function()
      local spec = { name = "top", child "a" }
      runtime:supervise(spec)
      assert.same({ "id", "name", "start" }, (function()
        local keys = {}
        for key in pairs(spec[1]) do keys[#keys + 1] = key end
        table.sort(keys)
        return keys
      end)())
      assert.is_nil(spec.strategy)
    end)
  end)

  describe("restart", function()
    it("permanent: always, also after a normal end", function()
      local sup = runtime:supervise { plain_child "a" }
      expect "start a"
      rk.whereis("a"):send {}
      expect("end a", "start a")
      rk.whereis("a"):send { error = "broken" }
      expect "start a"
      assert(rk.whereis("a"):stop())
      expect("end a", "start a")
      assert.equal(3, restarts(sup))
    end)

    it("transient: only after an end that was not normal", function()
      local sup = runtime:supervise { plain_child("a", { restart = "transient" }) }
      expect "start a"
      rk.whereis("a"):send { error = "broken" }
      expect "start a"
      rk.whereis("a"):send {}
      expect "end a"
      eventually(function() return states(sup) == "a stopped" end, "a is stopped")
      assert.equal(1, restarts(sup))
    end)

    it("transient: a kill is no normal end", function()
      local sup = runtime:supervise { plain_child("a", { restart = "transient" }) }
      expect "start a"
      rk.whereis("a"):kill()
      expect "start a"
      assert.equal("a running", states(sup))
    end)

    it("temporary: never, and the child is forgotten", function()
      local sup = runtime:supervise { plain_child("a", { restart = "temporary" }), child "b" }
      expect_all("start a", "start b")
      rk.whereis("a"):send { error = "broken" }
      eventually(function() return states(sup) == "b running" end, "a is gone")
      assert.equal(0, restarts(sup))
    end)

    it("one_for_one: the child alone", function()
      runtime:supervise { child "a", child "b", child "c" }
      expect("start a", "start b", "start c")
      local a, b, c = rk.whereis "a", fail "b", rk.whereis "c"
      expect("end b", "start b")
      assert.equal(a, rk.whereis "a")
      assert.not_equal(b, rk.whereis "b")
      assert.equal(c, rk.whereis "c")
    end)

    it("one_for_all: the others are stopped in reverse order, all started in order", function()
      runtime:supervise { strategy = "one_for_all", child "a", child "b", child "c" }
      expect("start a", "start b", "start c")
      fail "b"
      expect("end b", "end c", "end a", "start a", "start b", "start c")
    end)

    it("one_for_all: temporary children are not started again", function()
      local sup = runtime:supervise { strategy = "one_for_all",
        child "a", child("b", { restart = "temporary" }), child "c" }
      expect("start a", "start b", "start c")
      fail "a"
      expect("end a", "end c", "end b", "start a", "start c")
      assert.equal("a running, c running", states(sup))
    end)

    it("one_for_all: a temporary child that ends concerns nobody", function()
      local sup = runtime:supervise { strategy = "one_for_all", child "a", child("b", { restart = "temporary" }) }
      expect("start a", "start b")
      fail "b"
      expect "end b"
      eventually(function() return states(sup) == "a running" end, "b is gone")
      quiet()
    end)

    it("rest_for_one: those started after it", function()
      runtime:supervise { strategy = "rest_for_one", child "a", child "b", child "c", child "d" }
      expect("start a", "start b", "start c", "start d")
      fail "b"
      expect("end b", "end d", "end c", "start b", "start c", "start d")
      fail "d"
      expect("end d", "start d")
    end)

    it("leaves a line in the log: which child, why, how many in the period", function()
      local source = os.tmpname()
      local file = assert(io.open(source, "w"))
      file:write [[
        local rk = require "rk"
        local body = load "local rk, ctx = require 'rk', ... local m = ctx:receive() if m then error(m.why, 0) end"
        local runtime <close> = rk.runtime { device = "cpu" }
        local sup = runtime:supervise { name = "top", intensity = 4, period = 60,
          { id = "db", name = "db", start = { body } } }
        for n = 1, 2 do
          rk.whereis("db"):send { why = "broken " .. n }
          while rk.supervisor.count_children(sup).restarts < n do rk.sleep(0.005) end
        end
      ]]
      file:close()
      local output = io.popen("lua5.4 " .. source .. " 2>&1")
      local text = output:read "a"
      output:close()
      os.remove(source)
      for n = 1, 2 do
        assert.matches('WARN  <[%d.]+ "top"> child "db" <[%d.]+> ended: broken ' .. n
          .. '; restarted as <[%d.]+ "db"> %(restart ' .. n .. " of 4 in 60 s%)\n", text)
      end
    end)

    it("keeps the pid of the new one in the list, and counts", function()
      local sup = runtime:supervise { child "a" }
      local before = rk.supervisor.which_children(sup)[1]
      assert.equal(rk.whereis "a", before.pid)
      assert.equal(0, before.restarts)
      fail "a"
      expect("start a", "end a", "start a")
      local after = rk.supervisor.which_children(sup)[1]
      assert.equal(rk.whereis "a", after.pid)
      assert.not_equal(before.pid, after.pid)
      assert.equal(1, after.restarts)
    end)
  end)

  describe("intensity", function()
    it("ends the supervisor, not normally, with the child and the last reason", function()
      local sup = runtime:supervise { intensity = 2, period = 1000, child "a", child "b" }
      rk.monitor(sup)
      expect("start a", "start b")
      for _ = 1, 2 do
        fail("b", "first")
        expect("end b", "start b")
      end
      fail("b", "the last straw")
      expect("end b", "end a")
      local reason, normal = exit_of(sup)
      assert.equal('child "b" ended too often (more than 2 restarts in 1000 s): the last straw', reason)
      assert.is_false(normal)
    end)

    it("counts the restarts of all children together", function()
      local sup = runtime:supervise { intensity = 1, period = 1000, child "a", child "b" }
      rk.monitor(sup)
      fail "a"
      expect("start a", "start b", "end a", "start a")
      fail "b"
      assert.matches('^child "b" ended too often', (exit_of(sup)))
    end)

    it("0 allows no restart", function()
      local sup = runtime:supervise { intensity = 0, child "a" }
      rk.monitor(sup)
      fail("a", "broken")
      assert.same({ 'child "a" ended, and no restart is allowed: broken', false }, { exit_of(sup) })
    end)

    it("forgets restarts that are older than the period", function()
      local sup = runtime:supervise { intensity = 1, period = 0.001, child "a" }
      expect "start a"
      for _ = 1, 5 do
        fail "a"
        expect("end a", "start a")
        rk.sleep(0.01)
      end
      assert.equal(5, restarts(sup))
    end)

    it("of a nested supervisor: its own supervisor restarts it", function()
      local top = runtime:supervise { name = "top", intensity = 1, period = 1000,
        child "a",
        { name = "io", intensity = 0, child "b" },
      }
      rk.monitor(top)
      expect("start a", "start b")
      local io = rk.whereis "io"
      fail("b", "broken")
      expect("end b", "start b")
      assert.not_equal(io, rk.whereis "io")
      assert.equal(1, restarts(top))
      fail("b", "broken again")
      expect("end b", "end a")
      assert.same({
        'child "io" ended too often (more than 1 restart in 1000 s): '
          .. 'child "b" ended, and no restart is allowed: broken again', false }, { exit_of(top) })
    end)
  end)

  describe("a restart that fails", function()
    -- Starts the first time only; `box` is an actor that counts.
    local counter = load [[ return {
      init = function(self) self.n = 0 end,
      call = { add = function(self) self.n = self.n + 1 return self.n end },
    } ]]()
    local flaky = load [[ return {
      init = function(self, who, box, good)
        local n = box:call "add"
        if not good[n] then return nil, "no luck at " .. n end
        who:send { "start", n }
      end,
      cast = { fail = function() error("broken", 0) end },
    } ]]()

    it("is tried again, and counts", function()
      local box = runtime:spawn(counter)
      local sup = runtime:supervise { intensity = 3, period = 1000,
        { id = "x", name = "x", start = { flaky, rk.self(), box, { true, false, false, true } } } }
      expect "start 1"
      fail "x"
      expect "start 4"
      eventually(function() return restarts(sup) == 3 end, "three restarts")
    end)

    it("escalates when there are too many, with the last reason", function()
      local box = runtime:spawn(counter)
      local sup = runtime:supervise { intensity = 3, period = 1000,
        { id = "x", name = "x", start = { flaky, rk.self(), box, { true } } }, child "other" }
      rk.monitor(sup)
      expect("start 1", "start other")
      fail "x"
      expect "end other"
      assert.same({ 'child "x" ended too often (more than 3 restarts in 1000 s): no luck at 4', false },
        { exit_of(sup) })
    end)

    it("in one_for_all starts all again", function()
      local box = runtime:spawn(counter)
      runtime:supervise { strategy = "one_for_all", intensity = 3, period = 1000,
        child "a",
        { id = "x", name = "x", start = { flaky, rk.self(), box, { true, false, true } } },
        child "b" }
      expect("start a", "start 1", "start b")
      fail "x"
      expect("end b", "end a", "start a", "end a", "start a", "start 3", "start b")
    end)

    it("in rest_for_one starts the rest again, from the one that failed", function()
      local box = runtime:spawn(counter)
      runtime:supervise { strategy = "rest_for_one", intensity = 3, period = 1000,
        child "a",
        { id = "x", name = "x", start = { flaky, rk.self(), box, { true, false, true } } },
        child "b" }
      expect("start a", "start 1", "start b")
      fail "a"
      expect("end a", "end b", "start a", "start 3", "start b")
    end)
  end)

  describe("a child that does not start", function()
    it("makes the start of the tree fail with its id and reason; the others are stopped", function()
      local spec = { name = "top", child "a", child "b", child "c", child "d" }
      spec[3].start[4] = "no disk"
      local text, err = message_of(runtime.supervise, runtime, spec)
      assert.equal('child "c" did not start: no disk', text)
      assert.matches("supervisor_spec.lua:%d+: child", tostring(err))
      expect("start a", "start b", "end b", "end a")
      quiet()
      assert.is_nil((rk.whereis "top"))
    end)

    it("is named by its path in a nested tree", function()
      local bad = child("disk", { start = { worker, rk.self(), "disk", "no disk" } })
      local text = refused { name = "top", child "a",
        { id = "io", strategy = "one_for_one", child "b", { id = "deep", strategy = "one_for_all", bad } } }
      assert.equal('child "io/deep/disk" did not start: no disk', text)
      expect("start a", "start b", "end b", "end a")
    end)

    it("may be one whose name is taken", function()
      runtime:spawn(plain, { name = "a", args = { rk.self(), "other" } })
      local text, err = message_of(runtime.supervise, runtime, { child "a" })
      assert.matches('^child "a" did not start: .*"a".*', text)
      assert.is_string(err.code)
    end)
  end)

  describe("shutdown", function()
    it("kills a child that does not stop in time", function()
      local sup = runtime:supervise { child "a", { id = "deaf", shutdown = 0.05, name = "deaf",
        start = { deaf, rk.self(), "deaf" } } }
      expect("start a", "start deaf")
      local pid = rk.whereis "deaf"
      rk.monitor(pid)
      assert(sup:stop())
      expect "end a"
      assert.is_false(select(2, exit_of(pid)))
    end)

    it("0 kills without asking", function()
      local sup = runtime:supervise { child("a", { shutdown = 0 }) }
      expect "start a"
      local pid = rk.whereis "a"
      rk.monitor(pid)
      assert(sup:stop())
      assert.same({ "killed: shutdown", false }, { exit_of(pid) })
      quiet()
    end)

    it("lets a child take its time", function()
      local slow = load [[
        local rk, ctx, who = require "rk", ...
        who:send { "start", "slow" }
        ctx:receive()
        rk.sleep(0.3) rk.sleep(0.3)
        who:send { "end", "slow" }
      ]]
      local sup = runtime:supervise { { id = "slow", shutdown = 30, start = { slow, rk.self() } } }
      expect "start slow"
      assert(sup:stop("enough", 30))
      expect "end slow"
    end)

    it("that takes long does not keep the supervisor from hearing its own stop request", function()
      local gate = load [[
        local rk, ctx, who, name = require "rk", ...
        who:send { "start", name }
        ctx:receive()
        who:send { "asked", name }
        ctx:receive()
        who:send { "end", name }
      ]]
      local sup = runtime:supervise { child "a", child "b",
        { id = "gate", name = "gate", shutdown = 60, start = { gate, rk.self(), "gate" } } }
      rk.monitor(sup)
      expect("start a", "start b", "start gate")
      local pid = rk.whereis "gate"
      rk.fork(function() rk.supervisor.terminate_child(sup, "gate") end)
      expect "asked gate"
      sup:stop("enough", 0)
      rk.sleep(0.05)
      assert.is_true(sup.alive)
      pid:send {}
      expect("end gate", "end b", "end a")
      assert.same({ "enough", true }, { exit_of(sup) })
    end)
  end)

  describe("a supervisor that is killed", function()
    it("leaves no child behind", function()
      local sup = runtime:supervise { child "a", { name = "io", strategy = "one_for_all", child "b", child "c" } }
      expect("start a", "start b", "start c")
      local pids = { rk.whereis "a", rk.whereis "io", rk.whereis "b", rk.whereis "c" }
      sup:kill()
      for i = 1, 4 do
        eventually(function() return not pids[i].alive end, tostring(pids[i]) .. " ended")
      end
    end)

    it("is started again by its own supervisor, with its children", function()
      runtime:supervise { name = "top", { name = "io", child "b" } }
      expect "start b"
      local b = rk.whereis "b"
      rk.whereis("io"):kill()
      eventually(function()
        local now = rk.whereis "b"
        return now and now ~= b and now.alive
      end, "another b")
      assert.is_false(b.alive)
    end)

    it("takes children along that trap exits", function()
      local traps = load [[
        local rk, ctx, who = require "rk", ...
        rk.trap_exit(true)
        who:send { "start", "traps" }
        while true do ctx:receive() end
      ]]
      local sup = runtime:supervise { { id = "traps", name = "traps", start = { traps, rk.self() } } }
      expect "start traps"
      local pid = rk.whereis "traps"
      sup:kill()
      eventually(function() return not pid.alive end, "traps ended")
    end)

    it("also while a child hangs in its init", function()
      local hang = load [[ return { init = function(_, who) who:send { "start", "hang" } while true do end end } ]]()
      local starter = runtime:spawn(load [[
        local rk, ctx, spec, runtime = require "rk", ...
        local ok, err = pcall(runtime.supervise, runtime, spec)
        return "came back: " .. tostring(err)
      ]], { args = { { name = "top", { id = "hang", name = "hang", start = { hang, rk.self() } } }, runtime } })
      rk.monitor(starter)
      expect "start hang"
      local pid = rk.whereis "hang"
      assert(rk.whereis("top"):kill())
      assert.matches("^came back: ", (exit_of(starter)))
      eventually(function() return not pid.alive end, "hang ended")
    end)
  end)

  describe("stopped from its own child", function()
    local stop_it = [[
      local pid, timeout = ...
      local ok, why, code = pid:stop("from below", timeout)
      return { ok = ok, why = why, code = code }
    ]]

    it("is an error where the child would wait for its own end", function()
      local sup = runtime:supervise { name = "top", child "a" }
      local result = rk.whereis("a"):call("run", stop_it, sup)
      assert.equal("ESELF", result.code)
      assert.matches('is stopped by its own child <.-"a">', result.why)
      assert.is_true(sup.alive)
    end)

    it("also from a grandchild", function()
      local sup = runtime:supervise { name = "top", { name = "io", child "a" } }
      local a = rk.whereis "a"
      assert.equal("ESELF", a:call("run", stop_it, sup).code)
      assert.equal("ESELF", a:call("run", stop_it, rk.whereis "io").code)
      assert.is_true(sup.alive)
    end)

    it("is fine without waiting", function()
      local sup = runtime:supervise { name = "top", { name = "io", child "a" } }
      rk.monitor(sup)
      expect "start a"
      assert.is_true(rk.whereis("a"):call("run", stop_it, sup, 0).ok)
      expect "end a"
      assert.same({ "from below", true }, { exit_of(sup) })
    end)

    it("does not concern actors that the tree does not supervise", function()
      local sup = runtime:supervise { child "a" }
      local other = runtime:spawn(worker, { args = { rk.self(), "other" } })
      assert.is_true(other:call("run", stop_it, sup).ok)
      expect("start a", "start other", "end a")
    end)

    it("asked from the init of its child is an error, too", function()
      local asks = load [[ return { init = function(self, who)
        local list, why, code = require("rk").supervisor.which_children("top")
        who:send { "asked", code }
      end } ]]()
      local sup = runtime:supervise { name = "top", { id = "asks", start = { asks, rk.self() } } }
      expect "asked EDEADLOCK"
      assert.equal("asks running", states(sup))
    end)

    it("terminate_child of itself, or of one above, is an error", function()
      local sup = runtime:supervise { name = "top", { name = "io", child "a" } }
      local source = [[
        local sup, id = ...
        local ok, why, code = rk.supervisor.terminate_child(sup, id)
        return { ok = ok, why = why, code = code }
      ]]
      local a = rk.whereis "a"
      local result = a:call("run", source, rk.whereis "io", "a")
      assert.equal("ESELF", result.code)
      assert.matches('child "a" .* cannot be terminated by itself', result.why)
      assert.equal("ESELF", a:call("run", source, sup, "io").code)
      assert.is_true(a.alive)
    end)
  end)

  describe("rk.supervisor", function()
    it("lists and counts the children", function()
      local sup = runtime:supervise { child "a", plain_child("b", { restart = "transient" }),
        { id = "io", strategy = "one_for_one", restart = "temporary" } }
      local list = rk.supervisor.which_children(sup)
      assert.equal(3, #list)
      assert.equal("a", list[1].id)
      assert.equal("permanent", list[1].restart)
      assert.equal("running", list[1].state)
      assert.equal("lua", list[1].kind)
      assert.equal("transient", list[2].restart)
      assert.equal("supervisor", list[3].kind)
      assert.same({ specs = 3, active = 3, supervisors = 1, workers = 2, restarts = 0 },
        rk.supervisor.count_children(sup))
    end)

    it("takes the name of a supervisor, and works from any actor", function()
      runtime:supervise { name = "top", child "a" }
      assert.equal("a", rk.supervisor.children("top")[1].id)
      local other = runtime:spawn(worker, { args = { rk.self(), "other" } })
      assert.equal("a", other:call("run", "return rk.supervisor.which_children('top')")[1].id)
    end)

    it("start_child starts one more, after the others", function()
      local sup = runtime:supervise { name = "top", child "a" }
      local tag = { "upvalues", "travel" }
      local say = load("local tag, who = ... return function(ctx) who:send(tag) ctx:receive() end")(tag, rk.self())
      local pid = rk.supervisor.start_child(sup, { id = "b", name = "b", start = { say } })
      expect("start a", "upvalues travel")
      assert.equal(rk.whereis "b", pid)
      assert.equal("a running, b running", states(sup))
      pid:kill()
      expect "upvalues travel"
      assert(sup:stop())
      expect "end a"
    end)

    it("start_child may start a supervisor", function()
      local sup = runtime:supervise { child "a" }
      local pid = assert(rk.supervisor.start_child(sup, { id = "io", strategy = "one_for_one", child "b" }))
      assert.equal("supervisor", pid.kind)
      expect("start a", "start b")
      assert(sup:stop())
      expect("end b", "end a")
    end)

    it("start_child refuses an id that is there", function()
      local sup = runtime:supervise { child("a", { restart = "transient" }) }
      local pid, why, code = rk.supervisor.start_child(sup, child "a")
      assert.is_nil(pid)
      assert.equal("EEXIST", code)
      assert.matches('there is a child "a" already; it is running as <', why)
      rk.supervisor.terminate_child(sup, "a")
      assert.matches("it is stopped: restart_child starts it", select(2, rk.supervisor.start_child(sup, child "a")))
    end)

    it("start_child gives the reason when the child does not start, and forgets it", function()
      local sup = runtime:supervise { child "a" }
      local pid, why, code = rk.supervisor.start_child(sup, child("b", { start = { worker, rk.self(), "b", "no disk" } }))
      assert.is_nil(pid)
      assert.equal('child "b" did not start: no disk', why)
      assert.is_string(code)
      assert.equal("a running", states(sup))
    end)

    it("terminate_child, restart_child and delete_child work as in OTP", function()
      local sup = runtime:supervise { child "a", child "b" }
      expect("start a", "start b")
      local _, why, code = rk.supervisor.delete_child(sup, "a")
      assert.equal("ESTATE", code)
      assert.equal('child "a" is running: terminate_child comes first', why)
      assert.equal("ESTATE", select(3, rk.supervisor.restart_child(sup, "a")))
      assert.is_true(rk.supervisor.terminate_child(sup, "a"))
      expect "end a"
      assert.is_true(rk.supervisor.terminate_child(sup, "a"))
      assert.equal("a stopped, b running", states(sup))
      assert.equal(rk.whereis "b", rk.supervisor.which_children(sup)[2].pid)
      local pid = assert(rk.supervisor.restart_child(sup, "a"))
      assert.equal(rk.whereis "a", pid)
      expect "start a"
      rk.supervisor.terminate_child(sup, "a")
      assert.is_true(rk.supervisor.delete_child(sup, "a"))
      assert.equal("b running", states(sup))
      _, why, code = rk.supervisor.terminate_child(sup, "a")
      assert.equal("ENOENT", code)
      assert.equal('no child "a" here; there are: b', why)
      assert.equal(0, restarts(sup))
    end)

    it("terminate_child of a temporary child forgets it", function()
      local sup = runtime:supervise { child("a", { restart = "temporary" }) }
      assert.is_true(rk.supervisor.terminate_child(sup, "a"))
      assert.equal("", states(sup))
    end)

    it("is for supervisors", function()
      local pid = runtime:spawn(worker, { args = { rk.self(), "x" } })
      assert.matches('is no supervisor, its kind is lua', message_of(rk.supervisor.which_children, pid))
      assert.matches("the id of a child is a string, not a number", message_of(rk.supervisor.delete_child, pid, 1))
      pid:stop()
      local list, _, code = rk.supervisor.which_children(pid)
      assert.is_nil(list)
      assert.equal("EDEAD", code)
      assert.equal("ENOENT", select(3, rk.supervisor.which_children("SupSpecNobody")))
    end)

    it("requests to a supervisor that ends meanwhile are answered", function()
      local slow = load [[
        local rk, ctx, who = require "rk", ...
        ctx:receive()
        who:send { "asked", "x" }
        ctx:receive()
      ]]
      local sup = runtime:supervise { { id = "x", name = "x", shutdown = 60, start = { slow, rk.self() } } }
      local x, done = rk.whereis "x", nil
      sup:stop("enough", 0)
      expect "asked x"
      rk.fork(function() done = { rk.supervisor.which_children(sup) } end)
      rk.sleep(0.02)
      x:send {}
      eventually(function() return done end, "an answer")
      assert.equal("EDEAD", done[3])
    end)

    it("other messages do a supervisor no harm, and callers hear what it takes", function()
      local sup = runtime:supervise { child "a" }
      sup:send { "junk" }
      sup:cast("junk", 1)
      local _, why, code = sup:try_call({ "junk" }, 20)
      assert.equal("EINVAL", code)
      assert.matches("takes the requests of rk.supervisor only", why)
      assert.equal("EINVAL", select(3, sup:try_call("junk")))
      assert.equal("a running", states(sup))
    end)
  end)

  describe("ring kernels", function()
    local Number = rk.message("SupSpecNumber", { n = "i64" })
    local Sum = rk.message("SupSpecSum", { sum = "i64" })
    local source = [[
      RK_ON(SupSpecNumber, m)
      {
          if (m->n < 0) rk_fail(ctx, "below zero");
          rk_state *s = rk_get_state(ctx);
          if (rk_thread(ctx) == 0) s->sum += m->n;
          rk_sync(ctx);
          rk_reply(ctx, SupSpecSum, .sum = s->sum);
      }
    ]]
    rk.kernel("SupSpecSummer", { accepts = Number, replies = Sum, state = { sum = "i64" }, source = source })

    it("that failed are started again with a fresh state, their neighbours untouched", function()
      local sup = runtime:supervise {
        { start = { "SupSpecSummer" } },
        { start = { "SupSpecSummer" }, name = "neighbour" },
        child "a",
      }
      expect "start a"
      local one, two = rk.whereis "SupSpecSummer", rk.whereis "neighbour"
      assert.equal(5, one:call(Number { n = 5 }).sum)
      assert.equal(7, two:call(Number { n = 7 }).sum)
      local _, why = one:try_call(Number { n = -1 })
      assert.matches("below zero", why)
      local again = eventually(function()
        local pid = rk.whereis "SupSpecSummer"
        return pid and pid ~= one and pid:info().state == "ACTIVE" and pid
      end, "another kernel")
      assert.equal(1, again:call(Number { n = 1 }).sum)
      assert.equal(two, rk.whereis "neighbour")
      assert.equal(8, two:call(Number { n = 1 }).sum)
      assert.equal("kernel", rk.supervisor.which_children(sup)[1].kind)
      assert.equal(1, restarts(sup))
      quiet()
    end)

    it("end with a supervisor that is stopped or killed", function()
      local sup = runtime:supervise { { start = { "SupSpecSummer" } } }
      local kernel = rk.whereis "SupSpecSummer"
      assert(sup:stop())
      assert.is_false(kernel.alive)
      assert.is_nil((rk.whereis "SupSpecSummer"))
      sup = runtime:supervise { { start = { "SupSpecSummer" } } }
      kernel = rk.whereis "SupSpecSummer"
      sup:kill()
      eventually(function() return not kernel:info() end, "the kernel ended")
    end)

    it("may be given as a definition, which stays what it is", function()
      local definition = rk.kernel("SupSpecOther", { accepts = Number, replies = Sum, state = { sum = "i64" },
        source = source })
      runtime:supervise { { start = { definition }, name = "k" } }
      rk.kernel("SupSpecOther", { accepts = Sum, replies = Sum, source = "RK_ON(SupSpecSum, m) { (void)m; }" })
      assert.equal(5, rk.whereis("k"):call(Number { n = 5 }).sum)
      rk.whereis("k"):try_call(Number { n = -1 })
      local again = eventually(function()
        local pid = rk.whereis "k"
        return pid and pid:info().state == "ACTIVE" and pid
      end, "another kernel")
      assert.equal(1, again:call(Number { n = 1 }).sum)
    end)

    it("stand beside host actors in one_for_all", function()
      runtime:supervise { strategy = "one_for_all", child "a", { start = { "SupSpecSummer" } }, child "b" }
      expect("start a", "start b")
      local kernel = rk.whereis "SupSpecSummer"
      assert.equal(5, kernel:call(Number { n = 5 }).sum)
      kernel:try_call(Number { n = -1 })
      expect("end b", "end a", "start a", "start b")
      assert.equal(1, rk.whereis("SupSpecSummer"):call(Number { n = 1 }).sum)
    end)

    it("take no arguments", function()
      assert.equal('child "SupSpecSummer" of the supervisor has arguments in start: a ring kernel gets everything '
        .. "by messages", (refused { { id = "SupSpecSummer", start = { "SupSpecSummer", 1 } } }))
    end)

    it("keep their state when the child says so", function()
      if not require("rk.supervisor.core").estate then
        pending("estates")
        return
      end
      runtime:supervise { { start = { "SupSpecSummer" }, state = "keep" } }
      local kernel = rk.whereis "SupSpecSummer"
      assert.equal(5, kernel:call(Number { n = 5 }).sum)
      kernel:try_call(Number { n = -1 })
      local again = eventually(function()
        local pid = rk.whereis "SupSpecSummer"
        return pid and pid ~= kernel and pid:info().state == "ACTIVE" and pid
      end, "another kernel")
      assert.equal(6, again:call(Number { n = 1 }).sum)
    end)
  end)

  describe("a bad description", function()
    local function ok(fields)
      local spec = { id = "x", start = { plain, rk.self(), "x" } }
      for key, value in pairs(fields) do spec[key] = value end
      return spec
    end

    it("names unknown strategies, restarts and states, and lists the known ones", function()
      assert.equal('the supervisor "top" has an unknown strategy "two_for_one"; there are: one_for_all, one_for_one, '
        .. "rest_for_one", refused { name = "top", strategy = "two_for_one" })
      assert.equal('child "x" of "top" has an unknown restart "sometimes"; there are: permanent, temporary, transient',
        refused { name = "top", ok { restart = "sometimes" } })
      assert.equal('child "x" of the supervisor has an unknown state "lost"; there are: keep, reset',
        refused { ok { state = "lost" } })
    end)

    it("names unknown keys", function()
      assert.matches('^the supervisor has an unknown key "stratgy"; known keys: .*strategy', refused { stratgy = 1 })
      assert.matches('^child "x" of the supervisor has an unknown key "restrat"; known keys: .*restart',
        refused { ok { restrat = 1 } })
      assert.matches('has args: arguments follow the definition', refused { ok { args = { 1 } } })
    end)

    it("names bad numbers", function()
      for _, period in ipairs { 0, -1, 0 / 0, "long" } do
        assert.matches("^the supervisor has a bad period .*: it must be seconds, above 0$", refused { period = period })
      end
      for _, intensity in ipairs { -1, 1.5, 0 / 0, "3" } do
        assert.matches("^the supervisor has a bad intensity .*: it must be a whole number of restarts, 0 or more$",
          refused { intensity = intensity })
      end
      for _, shutdown in ipairs { -1, 0 / 0, "long" } do
        assert.matches('^child "x" of the supervisor has a bad shutdown .*: it must be seconds, 0 or more, or math.huge$',
          refused { ok { shutdown = shutdown } })
      end
    end)

    it("names ids and names that are there twice, or missing", function()
      assert.equal('child "x" of the supervisor has the id "x", which child "x" of the supervisor has already: '
        .. "ids are unique among the children of a supervisor", refused { ok {}, ok {} })
      assert.equal('child "y" of "io" (child 2 of "top") has the name "n", which child "x" of "top" has already',
        refused { name = "top", ok { name = "n" }, { name = "io", ok { id = "y", name = "n" } } })
      assert.matches('^child 1 of the supervisor has no id', refused { { start = { plain } } })
      assert.matches('^child 1 of the supervisor has a bad id 7', refused { { id = 7, start = { plain } } })
    end)

    it("names what is missing or unknown in start", function()
      assert.matches('^child "x" of "top" has no start: start = { definition, arguments%.%.%. }',
        refused { name = "top", { id = "x" } })
      assert.matches('^child 2 of the supervisor is nil: .*variable not set', refused { ok {}, nil, ok { id = "y" } })
      assert.matches("^child 1 of the supervisor is a number", refused { 7 })
      assert.matches("a start without a definition", refused { { id = "x", start = {} } })
      assert.matches("a handler table goes inside", refused { { id = "x", start = worker } })
      assert.matches('^child "x" of the supervisor cannot be started: .*SupSpecNone', refused {
        { id = "x", start = { "SupSpecNone" } } })
      assert.matches("not a number$", refused { { id = "x", start = { 7 } } })
      assert.matches("unknown handler table option 'cal'", refused { { id = "x", start = { { cal = {} } } } })
      assert.matches('^child "x" of the supervisor cannot be given to its supervisor: .*thread',
        refused { { id = "x", start = { plain, coroutine.create(print) } } })
    end)

    it("names bad spawn options", function()
      assert.equal([[child "x" of the supervisor cannot be started: option 'full' must be block, reject, drop_oldest ]]
        .. "or drop_newest, not some", refused { ok { full = "some" } })
      assert.matches("has a name that is a number", refused { ok { name = 7 } })
      assert.matches("has a name that is a boolean", refused { name = true })
    end)

    it("names a tree that contains itself", function()
      local top = { name = "top", ok {} }
      local io = { name = "io", ok {}, top }
      top[2] = io
      assert.equal('child 2 of "io" is the supervisor "top" itself: a tree cannot contain itself', refused(top))
    end)

    it("names what a child may not have", function()
      assert.equal('child "x" of the supervisor has state = "keep", which is for ring kernels: a host actor starts '
        .. "from its arguments", refused { ok { state = "keep" } })
      assert.matches('^child "io" of the supervisor has a state', refused { { id = "io", state = "reset", ok {} } })
      assert.matches('^child "x" of the supervisor has both start and children', refused { ok { ok {} } })
      assert.matches("described by a table", refused(7))
    end)

    it("is reported where it was written", function()
      local _, err = pcall(function() runtime:supervise { strategy = "none" } end)
      assert.matches("supervisor_spec.lua:%d+: the supervisor has an unknown strategy", err)
      local sup = runtime:supervise {}
      _, err = pcall(function() rk.supervisor.start_child(sup, {}) end)
      assert.matches("supervisor_spec.lua:%d+: the new child of the supervisor has no", err)
    end)
  end)

  it("are spawned with runtime:supervise, says the option restart", function()
    assert.matches("runtime:supervise", message_of(runtime.spawn, runtime, plain, { restart = "permanent" }))
  end)
end)
