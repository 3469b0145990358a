-- Handler tables under load: reentrant handlers, stash, become, upgrades, failures, stops and kills,
-- at random. Every call has an answer or an error.   servers.lua [seconds [seed]]
local rk = require "rk"
local seconds = tonumber(arg and arg[1]) or 2
local seed = tonumber(arg and arg[2]) or os.time()
math.randomseed(seed)
print(("rerun: servers.lua %g %d"):format(seconds, seed))

local Number = rk.message("ServersNumber", { n = "i64" })

local function make(reentrant)
  return {
    reentrant = reentrant, stash = 20,
    init = function(self) self.n = 0 end,
    migrate = function(state) if state.n % 7 == 3 then error("not now") end return state end,
    call = {
      now = function(self, n) self.n = self.n + 1 return n end,
      slow = function(_, n) rk.sleep(n / 10000) return n end,
      later = function(self, n)
        local request = self.ctx.request
        rk.after(n / 10000, function() self.ctx:reply(request, n) end)
        return rk.noreply
      end,
      never = function() return rk.noreply end,
      aside = function(self, n)
        if math.random(3) == 1 then return n end
        self.ctx:stash()
        if math.random(2) == 1 then self.ctx:unstash() end
      end,
      boom = function() error("on purpose") end,
      ServersNumber = function(self, m)
        if m.n % 3 == 0 then self.ctx:stash() else return m.n end
      end,
      become = function(self, n)
        local handlers = { cast = { back = function(it) it.ctx:unbecome() it.ctx:unstash() end },
          info = function(it) if math.random(4) == 1 then it.ctx:unbecome() it.ctx:unstash() end end }
        handlers.call = { now = function(it) it.ctx:stash() end }
        self.ctx:become(handlers)
        return n
      end,
    },
    cast = { back = function(self) self.ctx:unstash() end, aside = function(self) self.ctx:stash() end,
             ServersNumber = function() end },
    info = function() end,
  }
end

local runtime <close> = rk.runtime { device = "cpu" }
local pids, answers, open = {}, {}, 0
local entries = { "now", "now", "slow", "slow", "later", "never", "aside", "aside", "become" }

local function spawn(i)
  pids[i] = runtime:spawn(make(({ false, true, 3 })[math.random(3)]))
end
for i = 1, 4 do spawn(i) end

local function one()
  local i, kind = math.random(#pids), math.random(100)
  local pid = pids[i]
  if kind <= 60 then
    open = open + 1
    rk.fork(function()
      local what = math.random(5) == 1 and Number { n = math.random(9) } or entries[math.random(#entries)]
      local value, _, code
      if type(what) == "string" then
        value, _, code = pid:timeout(0.2):try_call(what, math.random(20))
      else
        value, _, code = pid:try_call(what, 0.2)
      end
      local key = value and "answered" or code
      answers[key] = (answers[key] or 0) + 1
      open = open - 1
    end)
  elseif kind <= 75 then
    pid:cast(({ "back", "aside", "nope" })[math.random(3)])
  elseif kind <= 85 then
    pid:send(math.random(2) == 1 and Number { n = 3 } or { "plain" })
  elseif kind <= 93 then
    rk.fork(function() pid:upgrade(make(math.random(2) == 1)) end)
  elseif kind == 94 then
    pid:stop("stopped", 0.2)
  elseif kind == 95 then
    pid:kill()
  elseif kind == 96 then
    rk.fork(function() pid:try_call("boom") end)
  else
    rk.sleep(0.001)
  end
  if not pid.alive then spawn(i) end
  if open > 200 then rk.sleep(0.005) end
end

local stop = rk.now() + seconds
while rk.now() < stop do one() end
local late = rk.now() + 20
while open > 0 and rk.now() < late do rk.sleep(0.01) end
assert(open == 0, open .. " calls have neither answer nor error")
local list, count = {}, 0
for key, n in pairs(answers) do
  list[#list + 1] = key .. " " .. n
  count = count + n
end
table.sort(list)
assert(answers.answered and answers.EDEAD, "the mix is not what it should be")
print(("%d calls: %s"):format(count, table.concat(list, ", ")))
