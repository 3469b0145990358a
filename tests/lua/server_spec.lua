-- server_spec.lua: handler tables: call and cast, reentrant handlers, replies that are forgotten,
-- become, the stash, upgrades. Tables are given as source, so that they capture nothing of busted.

local rk = require "rk"

local runtime
local Number = rk.message("ServerNumber", { n = "i64" })

-- A handler table: its source sees `rk`.
local function handlers(source)
  return assert(load("local rk = require 'rk' return " .. source, "=handlers"))()
end

local function server(source, args, options)
  options = options or {}
  options.args = args
  return runtime:spawn(handlers(source), options)
end

local function exit_reason(pid)
  repeat
    local down = assert(rk.receive("down", 10))
    if down.pid == pid then return down.reason, down.traceback end
  until false
end

-- Calls in a coroutine; gives a table that has what try_call gave, once it is there.
local function calling(pid, ...)
  local out = {}
  rk.fork(function(...) out.result = table.pack(pid:timeout(20):try_call(...)) end, ...)
  return out
end

local function wait_for(what, condition)
  local stop = rk.now() + 20
  while not condition() do
    assert(rk.now() < stop, what .. " did not happen in 20 s")
    rk.sleep(0.002)
  end
end

local function result(out)
  wait_for("an answer", function() return out.result end)
  return table.unpack(out.result, 1, out.result.n)
end

-- Runs a script in a process of its own and gives its output, log lines included.
local rklua = (os.getenv "RK_BUILD" or "build") .. "/rklua"
local function script(source)
  local name = os.tmpname()
  local file = assert(io.open(name, "w"))
  file:write("local rk = require 'rk'\n", source)
  file:close()
  local pipe = assert(io.popen(("%s --device cpu %s 2>&1"):format(rklua, name)))
  local text = pipe:read "a"
  pipe:close()
  os.remove(name)
  return text
end

local function count(text, pattern)
  return select(2, text:gsub(pattern, ""))
end

describe("a handler table", function()
  local letters
  before_each(function()
    while rk.receive(0) do end
    runtime = rk.runtime { device = "cpu" }
    letters = {}
    runtime:on_dead_letter(function(letter) letters[#letters + 1] = letter end)
  end)
  after_each(function()
    runtime:on_dead_letter(nil)
    runtime:close()
    while rk.receive(0) do end
  end)

  local function letter(code)
    wait_for("a dead letter " .. code, function()
      for _, one in ipairs(letters) do
        if one.code == code then return true end
      end
    end)
  end

  describe("call and cast", function()
    it("answer an unknown call with an error that names the entries", function()
      local pid = server "{ call = { get = function() return 1 end, add = function() end } }"
      local value, message, code = pid:try_call("nope", 1)
      assert.is_nil(value)
      assert.equal("ENOENT", code)
      assert.equal("no call 'nope' here; there are: add, get", message)
      value, message, code = pid:try_call(Number { n = 1 })
      assert.is_nil(value)
      assert.equal("ENOENT", code)
      assert.matches("'ServerNumber'.*add, get", message)
      assert.equal(1, pid:call("get"))
    end)

    it("make a cast that nothing takes a dead letter EREJECTED", function()
      local pid = server "{ call = { get = function() return 1 end } }"
      local before = runtime:stats().dead_letters
      assert.is_true(pid:cast("nope", 1))
      letter("EREJECTED")
      assert.equal(pid, letters[1].to)
      assert.equal(rk.self(), letters[1].from)
      pid:send(Number { n = 1 })
      pid:send { "plain" }
      assert.equal(1, pid:call("get"))
      wait_for("three letters", function() return #letters == 3 end)
      assert.equal("ServerNumber", letters[2].type)
      assert.equal(before + 3, runtime:stats().dead_letters)
    end)

    it("log a rejected cast once for each entry", function()
      local text = script [[
        local runtime <close> = rk.runtime()
        local pid = runtime:spawn { call = { ok = function() return 1 end }, cast = { yes = function() end } }
        for _ = 1, 5 do pid:cast("nope") pid:cast("no") end
        pid:call("ok") ]]
      assert.equal(1, count(text, "no cast 'nope' here; there are: yes"))
      assert.equal(1, count(text, "no cast 'no' here; there are: yes"))
    end)

    it("give the caller the error of a handler with its traceback", function()
      local pid = server "{ call = { boom = function() error('broken') end } }"
      rk.monitor(pid)
      local ok, err = pcall(pid.call, pid, "boom")
      assert.is_false(ok)
      assert.equal("EHANDLER", err.code)
      assert.equal("handlers:1: broken", err.message)
      assert.matches("stack traceback:", err.traceback)
      assert.equal("handlers:1: broken", (exit_reason(pid)))
    end)

    it("give the caller the error of an answer that cannot travel", function()
      local pid = server "{ call = { f = function() return { g = print } end } }"
      local _, message, code = pid:try_call("f")
      assert.equal("ETYPE", code)
      assert.matches("function", message)
    end)

    it("have no ctx.request in a cast", function()
      local pid = server [[{
        cast = { c = function(self) self.request = tostring(self.ctx.request) end },
        call = { get = function(self) return self.request end } }]]
      pid:cast("c")
      assert.equal("nil", pid:call("get"))
    end)
  end)

  describe("that is reentrant", function()
    it("interleaves handlers where they wait, begun in order of arrival", function()
      local pid = server [[{
        reentrant = true,
        init = function(self) self.log = {} end,
        call = {
          slow = function(self, n)
            table.insert(self.log, "in" .. n)
            while not self.go do rk.sleep(0.001) end
            table.insert(self.log, "out" .. n)
            return n
          end,
          log = function(self) return table.concat(self.log, " ") end },
        cast = { go = function(self) self.go = true end } }]]
      local out = {}
      for i = 1, 3 do out[i] = calling(pid, "slow", i) end
      wait_for("three handlers", function() return pid:call("log") == "in1 in2 in3" end)
      pid:cast("go")
      for i = 1, 3 do assert.equal(i, (result(out[i]))) end
      assert.matches("^in1 in2 in3 out", pid:call("log"))
    end)

    it("is not without it, also while a handler waits", function()
      local pid = server [[{
        reentrant = false,
        init = function(self) self.log = {} end,
        call = {
          slow = function(self, n)
            table.insert(self.log, "in" .. n)
            rk.sleep(0.01)
            table.insert(self.log, "out" .. n)
          end,
          log = function(self) return table.concat(self.log, " ") end } }]]
      local first, second = calling(pid, "slow", 1), calling(pid, "slow", 2)
      result(first)
      result(second)
      assert.equal("in1 out1 in2 out2", pid:call("log"))
    end)

    it("calls itself through another actor without hanging", function()
      local pid = server [[{ reentrant = true, call = {
        outer = function(self, other) return other:call("bounce", rk.self()) .. "!" end,
        inner = function() return "inner" end } }]]
      local other = server "{ call = { bounce = function(self, back) return back:call('inner') end } }"
      assert.equal("inner!", pid:call("outer", other))
    end)

    it("has at most `reentrant` handlers at a time; the rest waits in the mailbox", function()
      local pid = server [[{
        reentrant = 2,
        init = function(self) self.now, self.most = 0, 0 end,
        call = { slow = function(self)
          self.now = self.now + 1
          self.most = math.max(self.most, self.now)
          rk.sleep(0.005)
          self.now = self.now - 1
          return self.most
        end } }]]
      local out = {}
      for i = 1, 8 do out[i] = calling(pid, "slow") end
      wait_for("mail that waits", function() return pid:info().mailbox.normal > 0 end)
      for i = 1, 8 do assert.equal(2, math.max(2, (result(out[i])))) end
      assert.equal(2, pid:call("slow"))
    end)

    it("shows each handler its own request, also after it waited", function()
      local pid = server [[{ reentrant = true,
        init = function(self) self.requests = {} end,
        call = {
          later = function(self, n)
            local before = self.ctx.request
            rk.sleep(0.01 * (3 - n))
            assert(before == self.ctx.request)
            self.ctx:reply(self.ctx.request, "answer " .. n)
            return rk.noreply
          end,
          direct = function(self, n) rk.sleep(0.01 * (3 - n)) self.ctx:reply(self.ctx.request, n) return "no" end,
          ServerNumber = function(self, m)
            rk.sleep(0.01 * (3 - m.n))
            assert(self.ctx.request == m)
            return m.n * 10
          end } }]]
      local out = {}
      for i = 1, 3 do
        out[i] = { calling(pid, "later", i), calling(pid, Number { n = i }), calling(pid, "direct", i) }
      end
      for i = 1, 3 do
        assert.equal("answer " .. i, (result(out[i][1])))
        assert.equal(i * 10, (result(out[i][2])))
        assert.equal(i, (result(out[i][3])))
      end
    end)

    it("lets running handlers finish after a stop, tells them of it, and begins nothing", function()
      local pid = server([[{ reentrant = true,
        init = function(self, to) self.to, self.log = to, {} end,
        call = { slow = function(self, n)
          self.to:send("in" .. n)
          local _, why = rk.sleep(60)
          rk.sleep(0.02)
          table.insert(self.log, n .. why)
          return why
        end },
        terminate = function(self, reason) self.to:send(table.concat(self.log, " ") .. " " .. reason) end }]],
        { rk.self() })
      local text = function(m) return type(m) == "string" end
      local one, two = calling(pid, "slow", 1), calling(pid, "slow", 2)
      assert.equal("in1", (rk.receive(text, 10)))
      assert.equal("in2", (rk.receive(text, 10)))
      rk.monitor(pid)
      assert.is_true(pid:stop("enough"))
      assert.equal("stop", (result(one)))
      assert.equal("stop", (result(two)))
      local last = rk.receive(text, 10)
      assert.is_true(last == "1stop 2stop enough" or last == "2stop 1stop enough", last)
      assert.equal("enough", (exit_reason(pid)))
    end)

    it("ends with a handler that fails: the others are cut off and their callers hear why", function()
      local pid = server([[{ reentrant = true,
        init = function(self, to) self.to = to end,
        call = {
          slow = function(self)
            local guard <close> = setmetatable({}, { __close = function() self.closed = true end })
            self.to:send("in")
            rk.sleep(60)
          end,
          boom = function() rk.sleep(0.001) error("broken") end },
        terminate = function(self, reason) self.to:send(reason .. " " .. tostring(self.closed)) end }]],
        { rk.self() })
      local text = function(m) return type(m) == "string" end
      local slow = calling(pid, "slow")
      assert.equal("in", (rk.receive(text, 10)))
      rk.monitor(pid)
      local _, message, code = pid:try_call("boom")
      assert.equal("EHANDLER", code)
      assert.equal("handlers:9: broken", message)
      assert.equal("handlers:9: broken true", (rk.receive(text, 10)))
      _, message, code = result(slow)
      assert.equal("EDEAD", code)
      assert.matches("handlers:9: broken", message)
      assert.equal("handlers:9: broken", (exit_reason(pid)))
    end)

    it("comes to rest when it is deactivated, and goes on", function()
      local other = server "{ call = { slow = function(self, n) rk.sleep(0.01) return n end } }"
      local pid = server([[{ reentrant = true,
        init = function(self, other) self.other = other end,
        call = { via = function(self, n) return self.other:call("slow", n) end } }]], { other })
      local out = {}
      for i = 1, 6 do out[i] = calling(pid, "via", i) end
      rk.sleep(0.002)
      assert.is_true(pid:deactivate())
      assert.equal("DEACTIVATED", pid:info().state)
      out[7] = calling(pid, "via", 7)
      assert.is_true(pid:reactivate())
      for i = 1, 7 do assert.equal(i, (result(out[i]))) end
    end)

    it("survives many handlers that wait for many callers", function()
      local pid = server [[{ reentrant = 50, call = { echo = function(self, n) rk.sleep(0) return n end } }]]
      local sum, left = 0, 500
      for i = 1, 500 do
        rk.fork(function()
          local n = pid:timeout(20):call("echo", i)
          sum, left = sum + n, left - 1
        end)
      end
      wait_for("all answers", function() return left == 0 end)
      assert.equal(500 * 501 / 2, sum)
    end)
  end)

  describe("that forgets to answer", function()
    it("answers ENOREPLY, counts it and warns once for each entry, with the sender", function()
      local text = script [[
        local T = rk.message("ForgetT", { n = "i64" })
        local runtime <close> = rk.runtime()
        local pid = runtime:spawn({
          call = { never = function() return rk.noreply end, ForgetT = function() return rk.noreply end,
                   dropped = function(self) local _ = self.ctx.request return rk.noreply end } }, { name = "lazy" })
        for _, what in ipairs { "never", "never", "dropped", T { n = 1 } } do
          local _, _, code = pid:timeout(20):try_call(what)
          print(code)
        end
        print("forgotten", runtime:stats().forgotten)
        print("me", rk.self()) ]]
      assert.equal(4, count(text, "ENOREPLY\n"))
      assert.matches("forgotten%s+4\n", text)
      local me = text:match("me%s+(<.->)")
      for _, what in ipairs { 'call "never"', 'call "dropped"', "call with a 'ForgetT'" } do
        local line = '"lazy"> forgot to answer: a ' .. what .. " from " .. me .. " was dropped"
        assert.equal(1, count(text, line:gsub("%p", "%%%0")))
      end
    end)

    it("warns of what it owes when it ends normally, and the callers hear EDEAD", function()
      local text = script [[
        local runtime <close> = rk.runtime()
        local pid = runtime:spawn { call = {
          keep = function(self) self.kept = self.ctx.request return rk.noreply end, ok = function() end } }
        rk.fork(function() print(pid:try_call("keep")) end)
        rk.sleep(0.01)
        pid:call("ok")
        pid:stop("bye")
        rk.sleep(0.01) ]]
      assert.equal(1, count(text, 'ended %(bye%) and still owed 1 answer: a call "keep" from <'))
      assert.equal(1, count(text, "nil%s.-bye%s+EDEAD"))
    end)

    it("says nothing when all is answered", function()
      local text = script [[
        local runtime <close> = rk.runtime()
        local pid = runtime:spawn { call = { later = function(self)
          local request = self.ctx.request
          rk.after(0.001, function() self.ctx:reply(request, "fine") end)
          return rk.noreply
        end } }
        print(pid:call("later")) ]]
      assert.equal("fine\n", text)
    end)
  end)

  describe("become", function()
    local machine = [[{
      init = function(self, to) self.to = to end,
      call = { where = function() return "off" end },
      cast = { on = function(self, keep)
        self.ctx:become({
          call = { where = function() return "on" end, now = function(self) return self.n end },
          cast = { off = function(self) self.back = self.ctx:unbecome() end,
                   deeper = function(self)
                     self.ctx:become({ call = { where = function() return "deep" end },
                       cast = { up = function(self) self.ctx:unbecome() end } }, true)
                   end },
          info = function(self, m) self.n = m end,
          terminate = function(self, reason) self.to:send("on " .. reason) end }, keep)
      end },
      terminate = function(self, reason) self.to:send("off " .. reason) end }]]

    it("replaces all handlers from the next message on; unbecome goes back", function()
      local pid = server(machine, { rk.self() })
      assert.equal("off", pid:call("where"))
      pid:cast("on")
      assert.equal("on", pid:call("where"))
      pid:send(7)
      assert.equal(7, pid:call("now"))
      local _, message, code = pid:try_call("nope")
      assert.equal("ENOENT", code)
      assert.matches("now, where", message)
      pid:cast("off")
      assert.equal("off", pid:call("where"))
    end)

    it("keeps the handlers below when asked, and without it goes back to what was kept last", function()
      local pid = server(machine, { rk.self() })
      pid:cast("on", true)
      pid:cast("deeper")
      assert.equal("deep", pid:call("where"))
      pid:cast("up")
      assert.equal("on", pid:call("where"))
      pid:cast("off")
      assert.equal("off", pid:call("where"))
    end)

    it("has the terminate that is in force", function()
      local pid = server(machine, { rk.self() })
      pid:cast("on")
      assert.equal("on", pid:call("where")) -- a stop request overtakes mail
      assert.is_true(pid:stop("bye"))
      assert.equal("on bye", (rk.receive(function(m) return type(m) == "string" end, 5)))
    end)

    it("makes an entry that the new handlers lack unknown", function()
      local pid = server(machine, { rk.self() })
      pid:cast("on")
      pid:cast("on")
      letter("EREJECTED")
      assert.equal("on", pid:call("where"))
    end)

    it("refuses what is no handler table, names what is wrong, and changes nothing", function()
      local pid = server [[{ call = {
        try = function(self, what)
          local tries = {
            number = 5, entry = { call = { get = 5 } }, key = { calls = {} }, topic = { topic = { [1] = print } },
            other = { reentrant = true } }
          local ok, err = pcall(self.ctx.become, self.ctx, tries[what])
          return err
        end,
        deep = function(self)
          for i = 1, 1000 do
            local ok, err = pcall(self.ctx.become, self.ctx, { call = { up = function(self) return self.ctx:unbecome() end } }, true)
            if not ok then return i, err end
          end
        end } }]]
      assert.matches("become: a handler table is expected, not a number", pid:call("try", "number"))
      assert.matches("become: a handler table is expected, not a nil", pid:call("try"))
      assert.matches("become: .*'call.get' must be a function, not a number", pid:call("try", "entry"))
      assert.matches("become: .*'calls'; known options: init, call", pid:call("try", "key"))
      assert.matches("become: .*'topic' is a number; entries are named by strings: a topic", pid:call("try", "topic"))
      assert.matches("become: 'reentrant' belongs to the actor's definition", pid:call("try", "other"))
      assert.equal(101, (pid:call("deep")))
      for _ = 1, 100 do assert.is_true(pid:call("up")) end
      assert.matches("not a number", pid:call("try", "number"))
    end)

    it("is an error in an actor that is a function", function()
      local pid = runtime:spawn(assert(load "local ctx = ... local ok, err = pcall(ctx.become, ctx, {}) return err"))
      rk.monitor(pid)
      assert.matches("ctx:become is for actors that are handler tables", exit_reason(pid))
    end)
  end)

  describe("the stash", function()
    local door = [[{
      init = function(self) self.log = {} end,
      call = {
        enter = function(self, who)
          if not self.open then self.ctx:stash() return "ignored" end
          table.insert(self.log, who)
          return "welcome " .. who
        end,
        ServerNumber = function(self, m, from)
          if not self.open then return self.ctx:stash() end
          table.insert(self.log, m.n)
          return m.n + 1
        end,
        log = function(self) return table.concat(self.log, " ") end,
        n = function(self) return self.unstashed end },
      cast = {
        put = function(self, what)
          if not self.open then return self.ctx:stash() end
          table.insert(self.log, what)
        end,
        ServerNumber = function(self, m, from)
          if not self.open then return self.ctx:stash() end
          table.insert(self.log, m.n .. type(from) .. type(m.from))
        end,
        open = function(self) self.open = true self.unstashed = self.ctx:unstash() end },
      info = function(self, m, from)
        if not self.open then return self.ctx:stash() end
        table.insert(self.log, (type(m) == "table" and m.text or m))
        return "info"
      end }]]

    it("puts messages of every kind aside and handles them again in order, before newer mail", function()
      local pid = server(door)
      local one = calling(pid, "enter", "ann")
      wait_for("the first", function() return pid:info().received >= 1 end)
      pid:cast("put", "box")
      pid:send(Number { n = 5 })
      pid:send { text = "table" }
      pid:send("plain")
      local two = calling(pid, Number { n = 8 })
      wait_for("the last", function() return pid:info().received >= 6 end)
      local three = calling(pid, { text = "asked" })
      wait_for("the last", function() return pid:info().received >= 7 end)
      assert.equal("", pid:call("log"))
      pid:cast("open")
      pid:cast("put", "newer")
      assert.equal("welcome ann", (result(one)))
      assert.equal(9, (result(two)))
      assert.equal("info", (result(three)))
      assert.equal("ann box 5userdatauserdata table plain 8 asked newer", pid:call("log"))
      assert.equal(7, pid:call("n"))
    end)

    it("keeps a call unanswered until it is handled again", function()
      local pid = server(door)
      local out = calling(pid, "enter", "bob")
      assert.equal("", pid:call("log"))
      rk.sleep(0.15) -- a look for dropped requests would be over
      assert.is_nil(out.result)
      pid:cast("open")
      assert.equal("welcome bob", (result(out)))
    end)

    it("works with become, and in between", function()
      local pid = server [[{
        init = function(self)
          self.log = {}
          self.connected = { cast = { put = function(self, n) table.insert(self.log, n) end,
                                      drop = function(self) self.ctx:unbecome() end },
                             call = { log = function(self) return table.concat(self.log, " ") end } }
        end,
        cast = { put = function(self) self.ctx:stash() end,
                 connect = function(self) self.ctx:unstash() self.ctx:become(self.connected) end } }]]
      for i = 1, 3 do pid:cast("put", i) end
      pid:cast("connect")
      pid:cast("put", 4)
      assert.equal("1 2 3 4", pid:call("log"))
      pid:cast("drop")
      for i = 5, 6 do pid:cast("put", i) end
      pid:cast("connect")
      assert.equal("1 2 3 4 5 6", pid:call("log"))
    end)

    it("may take the same message again, and keeps the order", function()
      local pid = server [[{
        init = function(self) self.log, self.tries = {}, 0 end,
        cast = { put = function(self, n)
                   self.tries = self.tries + 1
                   if self.tries < 10 then
                     self.ctx:stash()
                     if self.tries % 3 == 0 then self.ctx:unstash() end
                     return
                   end
                   table.insert(self.log, n)
                 end },
        call = { log = function(self) self.ctx:unstash() return table.concat(self.log, " ") end } }]]
      for i = 1, 3 do pid:cast("put", i) end
      local log
      wait_for("all three", function() log = pid:call("log") return #log >= 5 end)
      local seen = {}
      for n in log:gmatch("%d") do seen[n] = true end
      assert.same({ ["1"] = true, ["2"] = true, ["3"] = true }, seen)
    end)

    it("is an error when it is full, when nothing is handled, twice, and after an answer", function()
      local pid = server [[{ stash = 2,
        init = function(self) self.early = select(2, pcall(self.ctx.stash, self.ctx)) end,
        cast = { put = function(self) self.ctx:stash() end },
        call = {
          try = function(self)
            local ok, err = pcall(self.ctx.stash, self.ctx)
            return tostring(err)
          end,
          twice = function(self)
            self.ctx:stash()
            local ok, err = pcall(self.ctx.stash, self.ctx)
            self.second = err
          end,
          second = function(self) return self.second end,
          early = function(self) return self.early end,
          answered = function(self)
            self.ctx:reply(self.ctx.request, 1)
            self.after = select(2, pcall(self.ctx.stash, self.ctx))
          end,
          after = function(self) return self.after end,
          fork = function(self)
            local err
            rk.fork(function() err = select(2, pcall(self.ctx.stash, self.ctx)) end)
            rk.sleep(0.001)
            return err
          end } }]]
      assert.matches("stash: no message is being handled here", pid:call("early"))
      assert.matches("stash: no message is being handled here", pid:call("fork"))
      assert.equal(1, pid:call("answered"))
      assert.matches("stash: this call has its answer", pid:call("after"))
      local before = pid:info().received
      calling(pid, "twice")
      wait_for("the call", function() return pid:info().received > before end)
      assert.matches("stash: this message is in the stash already", pid:call("second"))
      pid:cast("put")
      assert.matches("the stash is full %(2 messages%)", pid:call("try"))
    end)

    it("fails the actor when a handler does not catch that it is full", function()
      local pid = server "{ stash = 0, call = { put = function(self) self.ctx:stash() end } }"
      rk.monitor(pid)
      local _, message, code = pid:try_call("put")
      assert.equal("EHANDLER", code)
      assert.matches("the stash is full %(0 messages%)", message)
      assert.matches("the stash is full", (exit_reason(pid)))
    end)

    it("answers its calls EDEAD with the reason when the actor ends, and its casts are dead letters", function()
      local pid = server(door)
      local one, two = calling(pid, "enter", "ann"), calling(pid, Number { n = 1 })
      pid:cast("put", 1)
      pid:send(Number { n = 2 })
      pid:send("plain")
      wait_for("the mail", function() return pid:info().received == 5 end)
      pid:stop("closing time")
      for _, out in ipairs { one, two } do
        local _, message, code = result(out)
        assert.equal("EDEAD", code)
        assert.matches("closing time", message)
      end
      wait_for("three letters", function() return #letters == 3 end)
      for i = 1, 3 do assert.equal("EDEAD", letters[i].code) end
    end)

    it("loses what expired in it", function()
      local pid = server(door)
      pid:ttl(0.01):cast("put", "old")
      pid:cast("put", "young")
      assert.equal("", pid:call("log"))
      rk.sleep(0.02)
      pid:cast("open")
      assert.equal("young", pid:call("log"))
      letter("EEXPIRED")
    end)

    it("is for each handler of a reentrant table", function()
      local pid = server [[{ reentrant = true,
        init = function(self) self.log = {} end,
        call = { enter = function(self, n)
          rk.sleep(0.001)
          if not self.open then self.ctx:stash() rk.sleep(0.001) return "ignored" end
          return n
        end },
        cast = { open = function(self) self.open = true self.ctx:unstash() end } }]]
      local out = {}
      for i = 1, 5 do out[i] = calling(pid, "enter", i) end
      wait_for("all to come", function() return pid:info().received == 5 end)
      rk.sleep(0.05)
      pid:cast("open")
      for i = 1, 5 do assert.equal(i, (result(out[i]))) end
    end)

    it("refuses bounds that are none", function()
      local function refused(source, pattern)
        local ok, err = pcall(server, source)
        assert.is_false(ok)
        assert.matches(pattern, tostring(err))
      end
      refused("{ stash = -1 }", "'stash' must be a whole number from 0 to 1000000, not %-1")
      refused("{ stash = true }", "'stash' must be a whole number from 0 to 1000000, not true")
      refused("{ reentrant = 0 }", "'reentrant' must be true, false or a whole number from 1 to 1000000, not 0")
      refused("{ reentrant = 'yes' }", "'reentrant' must be true, false or .* not yes")
      refused("{ migrate = 1 }", "'migrate' must be a function, not a number")
      refused("{ topic = { 'a' } }", "the key 1 in 'topic' is a number; entries are named by strings: a topic or a pattern")
    end)
  end)

  if rk.subscribe then
  describe("topics", function()
    local listener = [[{
      init = function(self) self.log = {} end,
      topic = {
        ["sensors.*.temp"] = function(self, m, topic, from)
          table.insert(self.log, "temp " .. topic .. " " .. m.v .. " " .. type(from))
        end,
        ["sensors.>"] = function(self, m, topic) table.insert(self.log, "rest " .. topic) end,
        ["sensors.a.temp"] = function(self, m, topic) table.insert(self.log, "exact " .. topic) end },
      cast = { ServerNumber = function(self, m, from, topic) table.insert(self.log, m.n .. " " .. tostring(topic)) end },
      info = function(self, m, from, topic) table.insert(self.log, "info " .. tostring(topic)) end,
      call = {
        log = function(self) return table.concat(self.log, ", ") end,
        subscribe = function(self, pattern) return (rk.subscribe(pattern)) end,
        become = function(self)
          self.ctx:become { topic = { ["other.*"] = function(it, m, topic) table.insert(it.log, "other " .. topic) end },
            call = { log = function(it) return table.concat(it.log, ", ") end,
                     back = function(it) return it.ctx:unbecome() end } }
        end } }]]

    it("go to the entry whose pattern matched, the most specific one; spawn has subscribed", function()
      local pid = server(listener)
      assert.equal(1, rk.publish("sensors.a.temp", { v = 1 }))
      rk.publish("sensors.b.temp", { v = 2 })
      rk.publish("sensors.b.power.now", { v = 3 })
      assert.equal(0, rk.publish("other.x", { v = 4 }))
      assert.equal("exact sensors.a.temp, temp sensors.b.temp 2 userdata, rest sensors.b.power.now", pid:call("log"))
    end)

    it("go to cast by type, else to info, when no entry matches", function()
      local pid = server(listener)
      assert.is_true(pid:call("subscribe", "news.*"))
      rk.publish("news.a", Number { n = 5 })
      rk.publish("news.b", { v = 1 })
      assert.equal("5 news.a, info news.b", pid:call("log"))
    end)

    it("follow become and unbecome", function()
      local pid = server(listener)
      pid:call("become")
      assert.equal(0, rk.publish("sensors.a.temp", { v = 1 }))
      assert.equal(1, rk.publish("other.x", { v = 1 }))
      assert.is_true(pid:call("back"))
      assert.equal(0, rk.publish("other.x", { v = 1 }))
      assert.equal(1, rk.publish("sensors.a.temp", { v = 1 }))
      assert.equal("other other.x, exact sensors.a.temp", pid:call("log"))
    end)

    it("follow an upgrade, and keep their topic in the stash", function()
      local pid = server(listener)
      assert.is_true(pid:upgrade(handlers [[{
        topic = { ["new.>"] = function(self, m, topic)
          if not self.open then return self.ctx:stash() end
          table.insert(self.log, "new " .. topic)
        end },
        cast = { open = function(self) self.open = true self.ctx:unstash() end },
        call = { log = function(self) return table.concat(self.log, ", ") end } }]]))
      assert.equal(0, rk.publish("sensors.a.temp", { v = 1 }))
      assert.equal(1, rk.publish("new.x.y", { v = 1 }))
      assert.equal("", pid:call("log"))
      pid:cast("open")
      assert.equal("new new.x.y", pid:call("log"))
    end)

    it("that are no patterns make spawn fail with what is wrong", function()
      local ok, err = pcall(server, "{ topic = { ['a..b'] = function() end } }")
      assert.is_false(ok)
      assert.matches("topic 'a..b': ", tostring(err))
    end)
  end)
  end

  describe("an upgrade", function()
    local old = [[{
      init = function(self, n) self.n, self.made = n or 0, "old" end,
      call = { get = function(self) return "old " .. self.n end,
               slow = function(self) rk.sleep(0.03) return "old " .. self.n end,
               become = function(self)
                 self.ctx:become({ call = { get = function() return "become" end } }, true)
               end },
      cast = { add = function(self, k) self.n = self.n + k end,
               old = function(self) self.n = -1 end } }]]
    local new = [[{
      call = { get = function(self) return "new " .. self.n .. " " .. tostring(self.made) end,
               unbecome = function(self) return self.ctx:unbecome() end },
      cast = { add = function(self, k) self.n = self.n + 100 * k end } }]]

    it("swaps the handlers and keeps self", function()
      local pid = server(old, { 3 })
      assert.equal("old 3", pid:call("get"))
      assert.is_true(pid:upgrade(handlers(new)))
      assert.equal("new 3 old", pid:call("get"))
      local _, _, code = pid:try_call("slow")
      assert.equal("ENOENT", code)
    end)

    it("takes a registered name, a definition and a module", function()
      local pid = server(old, { 3 })
      rk.actor("server_upgraded", handlers(new))
      assert.is_true(pid:upgrade("server_upgraded"))
      assert.equal("new 3 old", pid:call("get"))
      local object = rk.actor("server_upgraded", handlers "{ call = { get = function() return 'object' end } }")
      rk.actor("server_upgraded", handlers(new))
      assert.is_true(pid:upgrade(object))
      assert.equal("object", pid:call("get"))
      local folder = os.tmpname()
      os.remove(folder)
      assert(os.execute("mkdir " .. folder))
      local path = package.path
      package.path = folder .. "/?.lua;" .. path
      local function write(text)
        local file = assert(io.open(folder .. "/server_module.lua", "w"))
        file:write("return { call = { get = function() return '" .. text .. "' end } }")
        file:close()
      end
      write("first")
      local other = runtime:spawn("server_module")
      assert.equal("first", other:call("get"))
      write("second")
      assert.is_true(other:upgrade("server_module"))
      assert.equal("second", other:call("get"))
      write("third")
      package.loaded.server_module = nil
      assert.is_true(other:upgrade(require "server_module"))
      assert.equal("third", other:call("get"))
      package.loaded.server_module = nil
      local file = assert(io.open(folder .. "/server_module.lua", "w"))
      file:write("return { call = oops")
      file:close()
      local ok, message, code = other:upgrade("server_module")
      assert.is_nil(ok)
      assert.equal("ELUA", code)
      assert.matches("server_module.lua:1:", message)
      assert.equal("third", other:call("get"))
      package.path = path
      os.execute("rm -r " .. folder)
    end)

    it("gives migrate the fields of the old self, and self what it returns", function()
      local pid = server(old, { 3 })
      assert.is_true(pid:upgrade(handlers [[{
        migrate = function(state)
          assert(state.ctx == nil)
          rk.sleep(0.005)
          return { total = state.n * 2, was = state.made }
        end,
        call = { get = function(self)
          return self.total .. self.was .. tostring(self.n) .. type(self.ctx)
        end } }]]))
      assert.equal("6oldniluserdata", pid:call("get"))
    end)

    it("keeps the table that timers and forks of the old code have", function()
      local pid = server [[{
        init = function(self) self.n = 0 rk.every(0.002, function() self.n = self.n + 1 end) end }]]
      assert.is_true(pid:upgrade(handlers [[{
        migrate = function(state) return { n = 1000000 } end,
        call = { get = function(self) return self.n end } }]]))
      wait_for("a tick", function() return pid:call("get") > 1000000 end)
    end)

    it("happens between two messages, and mail that waits is for the new handlers", function()
      local pid = server(old, { 1 })
      local slow = calling(pid, "slow")
      wait_for("the handler", function() return pid:info().received == 1 end)
      pid:cast("add", 2)
      assert.is_true(pid:upgrade(handlers(new)))
      assert.equal("old 1", (result(slow)))
      assert.equal("new 201 old", pid:call("get"))
    end)

    it("waits for all handlers of a reentrant table, and changes how many there may be", function()
      local pid = server [[{ reentrant = true,
        init = function(self) self.n = 0 end,
        call = { slow = function(self) rk.sleep(0.03) return "old" end } }]]
      local out = { calling(pid, "slow"), calling(pid, "slow") }
      wait_for("two handlers", function() return pid:info().received == 2 end)
      local done
      rk.fork(function()
        done = pid:upgrade(handlers [[{
          migrate = function(state) rk.sleep(0.01) return state end,
          call = { slow = function(self)
            self.n = self.n + 1
            local n = self.n
            rk.sleep(0.005)
            return n == self.n and "alone" or "not alone"
          end } }]])
      end)
      rk.sleep(0.005)
      out[3], out[4] = calling(pid, "slow"), calling(pid, "slow")
      assert.equal("old", (result(out[1])))
      assert.equal("old", (result(out[2])))
      assert.equal("alone", (result(out[3])))
      assert.equal("alone", (result(out[4])))
      assert.is_true(done)
    end)

    it("drops what become has put in force", function()
      local pid = server(old)
      pid:call("become")
      assert.equal("become", pid:call("get"))
      assert.is_true(pid:upgrade(handlers(new)))
      assert.equal("new 0 old", pid:call("get"))
      assert.is_false(pid:call("unbecome"))
      assert.equal("new 0 old", pid:call("get"))
    end)

    it("keeps the stash for the new handlers", function()
      local pid = server "{ call = { wait = function(self) self.ctx:stash() end } }"
      local out = calling(pid, "wait")
      wait_for("the call", function() return pid:info().received == 1 end)
      assert.is_true(pid:upgrade(handlers [[{
        migrate = function(state) return state end,
        call = { wait = function() return "answered by the new" end },
        cast = { go = function(self) self.ctx:unstash() end } }]]))
      pid:cast("go")
      assert.equal("answered by the new", (result(out)))
    end)

    it("leaves everything as it was when it fails, and the caller gets error and traceback", function()
      local pid = server(old, { 3 })
      local function refused(definition, pattern, want)
        local ok, message, code = pid:upgrade(definition)
        assert.is_nil(ok)
        assert.matches(pattern, message)
        assert.equal(want, code)
        assert.equal("old 3", pid:call("get"))
        return message
      end
      local message = refused(handlers [[{
        migrate = function(state) state.n = 99 error("cannot do that") end }]], "handlers:2: cannot do that", "ELUA")
      assert.matches("stack traceback:.*handlers:2:", message)
      refused(handlers "{ migrate = function() return 5 end }",
        "migrate must return a table, what self has from now on, not a number", "ELUA")
      refused(handlers "{ migrate = function() end }", "not a nil", "ELUA")
      rk.actor("server_function", load "return 1")
      refused("server_function", "a function cannot replace what an actor runs", "ELUA")
      refused(load "return 1", "a function cannot replace what an actor runs", "EUNSUPPORTED")
      refused("server_no_such", "server_no_such.*require finds no module", "ENOENT")
      local file <close> = io.tmpfile()
      local t = handlers "(function() local file; return { set = function(f) file = f end, get = function() return file end } end)()"
      t.set(file)
      refused({ call = { get = t.get } }, "cannot go to another actor", "ETYPE")
    end)

    it("raises for what is no definition", function()
      local pid = server(old)
      local function raises(value, pattern)
        local ok, err = pcall(pid.upgrade, pid, value)
        assert.is_false(ok)
        assert.matches(pattern, tostring(err))
      end
      raises({ call = 1 }, "'call' must be a table, not a number")
      raises(5, "name, definition or handler table")
      raises(nil, "name, definition or handler table")
      assert.equal("old 0", pid:call("get"))
    end)

    it("is for handler tables only, and says what the other is", function()
      local pid = runtime:spawn(assert(load "local ctx = ... ctx:receive() return 'done'"))
      local ok, message, code = pid:upgrade(handlers(new))
      assert.is_nil(ok)
      assert.equal("EUNSUPPORTED", code)
      assert.matches("runs a function: only an actor that is a handler table can be upgraded", message)
      ok, message, code = rk.self():upgrade(handlers(new))
      assert.is_nil(ok)
      assert.equal("EUNSUPPORTED", code)
      assert.matches("kind port", message)
    end)

    it("is an error for an actor that is dead, that dies, and for itself", function()
      local pid = server(old)
      pid:stop("bye")
      local ok, _, code = pid:upgrade(handlers(new))
      assert.is_nil(ok)
      assert.equal("EDEAD", code)
      pid = server "{ call = { hang = function() rk.sleep(60) end } }"
      local hang = calling(pid, "hang")
      wait_for("the handler", function() return pid:info().received == 1 end)
      local out
      rk.fork(function() out = table.pack(pid:upgrade(handlers(new))) end)
      rk.sleep(0.01)
      pid:kill("shot")
      wait_for("the answer", function() return out end)
      assert.is_nil(out[1])
      assert.equal("EDEAD", out[3])
      assert.equal("EDEAD", select(3, result(hang)))
      pid = server [[{ call = { me = function()
        local _, message, code = rk.self():upgrade({})
        return { message, code }
      end } }]]
      local said = pid:call("me")
      assert.equal("ESELF", said[2])
      assert.matches("become", said[1])
    end)

    it("that comes to no place between two messages is withdrawn, and will not happen later", function()
      local pid = server(old, { 3 })
      assert.is_true(pid:deactivate())
      local ok, message, code = pid:upgrade(handlers(new))
      assert.is_nil(ok)
      assert.equal("ETIMEOUT", code)
      assert.matches("DEACTIVATED.*between two messages within 5 s; the upgrade was withdrawn", message)
      assert.is_true(pid:reactivate())
      assert.equal("old 3", pid:call("get"))
      assert.is_true(pid:deactivate())
      rk.after(0.02, function() pid:reactivate() end)
      assert.is_true(pid:upgrade(handlers(new)))
      assert.equal("new 3 old", pid:call("get"))
    end)

    it("works from an actor, and one after the other", function()
      local pid = server(old, { 3 })
      local by = server([[{ call = { up = function(self, pid, text)
        return (pid:upgrade({ call = { get = function() return text end } }))
      end } }]])
      for i = 1, 20 do
        assert.is_true(by:call("up", pid, "version " .. i))
        assert.equal("version " .. i, pid:call("get"))
      end
    end)

    it("loses nothing under load", function()
      local adder = [[{
        init = function(self) self.n = 0 end,
        cast = { add = function(self) self.n = self.n + 1 end },
        call = { get = function(self) return self.n end } }]]
      local pid = server(adder)
      local from = server([[{
        cast = { go = function(self, pid) for i = 1, 3000 do pid:cast("add") end end },
        call = { done = function() return true end } }]])
      from:cast("go", pid)
      for _ = 1, 30 do
        assert.is_true(pid:upgrade(handlers(adder)))
      end
      from:timeout(30):call("done")
      assert.equal(3000, pid:call("get"))
    end)
  end)
end)
