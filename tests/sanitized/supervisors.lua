-- supervisors.lua: a nested tree of host actors and a ring kernel in which members fail, are killed, are
-- terminated and started again, in an order that a seed decides; after each blow the tree is whole again.
--
--   supervisors.lua [seed [blows]]

local rk = require "rk"

local seed, blows = tonumber(arg[1]) or 1, tonumber(arg[2]) or 60
math.randomseed(seed)

local Number = rk.message("TreeNumber", { n = "i64" })
rk.kernel("tree_summer", {
  accepts = Number, replies = Number, state = { sum = "i64" },
  source = [[
    RK_ON(TreeNumber, m)
    {
        if (m->n < 0) rk_fail(ctx, "below zero");
        rk_state *s = rk_get_state(ctx);
        if (rk_thread(ctx) == 0) s->sum += m->n;
        rk_sync(ctx);
        rk_reply(ctx, TreeNumber, .n = s->sum);
    }
  ]],
})

local worker = {
  init = function(self, name) self.name = name end,
  call = { name = function(self) return self.name end },
  cast = { fail = function() error("a blow", 0) end },
}

local names = {}

local function leaf(name)
  names[#names + 1] = name
  return { name = name, start = { worker, name }, shutdown = 30 }
end

local function branch(name, strategy, ...)
  return { name = name, strategy = strategy, intensity = 1000, period = 1, ... }
end

local runtime <close> = rk.runtime { device = "cpu", stop_timeout = 30 }
local top = runtime:supervise(branch("top", "one_for_one",
  branch("all", "one_for_all", leaf "a1", leaf "a2", leaf "a3"),
  branch("rest", "rest_for_one", leaf "r1", branch("deep", "one_for_all", leaf "d1", leaf "d2"), leaf "r3"),
  { name = "kernel", start = { "tree_summer" }, shutdown = 30 },
  leaf "w1"))

-- Every name answers: the tree is whole.
local function whole()
  for _, name in ipairs(names) do
    local pid = rk.whereis(name)
    if not pid or pid:try_call "name" ~= name then return false end
  end
  local kernel = rk.whereis "kernel"
  return kernel and kernel:try_call(Number { n = 1 }) ~= nil
end

local function await_whole(what)
  for _ = 1, 6000 do
    if whole() then return end
    rk.sleep(0.01)
  end
  error(("after %s the tree is not whole again (seed %d)"):format(what, seed))
end

local function pick(list) return list[math.random(#list)] end

local counted = 0
local supervisors = { "all", "rest", "deep" }

-- A supervisor may be away still: its old children answer until the links have ended them.
local function strike(name, method, ...)
  local pid = rk.whereis(name)
  if pid then pid[method](pid, ...) end
end

local kinds = {
  function(name) strike(name, "cast", "fail") end,
  function(name) strike(name, "kill") end,
  function(name) strike(name, "stop") end,
  function() strike(pick(supervisors), "kill") end,
  function() strike("kernel", "try_call", Number { n = -1 }) end,
  function()
    local id = "more" .. counted
    assert(rk.supervisor.start_child(top, { id = id, start = { worker, id } }))
    assert(rk.supervisor.terminate_child(top, id))
    assert(rk.supervisor.restart_child(top, id))
    assert(rk.supervisor.terminate_child(top, id))
    assert(rk.supervisor.delete_child(top, id))
  end,
}

await_whole "the start"
for i = 1, blows do
  counted = i
  local kind = math.random(#kinds)
  kinds[kind](pick(names))
  await_whole(("blow %d, of kind %d,"):format(i, kind))
end
local counts = rk.supervisor.count_children(top)
assert(counts.specs == 4 and counts.active == 4)
assert(top:stop("done", 60))
assert(#rk.actors() == 0, "nobody is left")
print(("%d blows, the tree whole after each (seed %d)"):format(blows, seed))
