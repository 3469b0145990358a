-- log.lua: rk_log arrives in the log, formatted. A second rklua runs the part below and logs to a
-- file; `log.lua child` is that part.

local rk = require "rk"
local check = dofile((arg[0]:gsub("[^/]*$", "")) .. "check.lua")

local Say = rk.message("LogSay", { i = "i32", u = "u32", l = "i64", f = "f32", d = "f64", b = "u8" })
local Done = rk.message("LogDone", {})

check.kernel("speaker", {
  accepts = Say, replies = Done,
  source = [[
    RK_ON_START { rk_log(ctx, RK_LOG_INFO, "started"); }
    RK_ON_STOP { rk_log(ctx, RK_LOG_WARN, "stopping"); }
    RK_ON(LogSay, m)
    {
        rk_log(ctx, RK_LOG_DEBUG, "debug %d", m->i);
        rk_log(ctx, RK_LOG_INFO, "i=%d u=%u l=%d f=%g d=%.3f b=%d", m->i, m->u, m->l, m->f, m->d, m->b);
        rk_log(ctx, RK_LOG_WARN, "hex %x padded %05d percent %% sum %d", m->u, m->i, m->i + m->b);
        rk_log(ctx, RK_LOG_ERROR, "%d %d %d %d %d %d %d %d", 1, 2, 3, 4, 5, 6, 7, (int)m->b);
        rk_log(ctx, RK_LOG_INFO,
               "a text that is longer than a slot of the ring holds, so that it takes the long way: %d",
               (int)rk_thread(ctx));
        rk_reply(ctx, LogDone);
    }
  ]],
})

if arg[1] == "child" then
  local runtime <close> = check.open()
  local speaker = runtime:spawn("speaker")
  speaker:call(Say { i = -42, u = 3735928559, l = math.mininteger, f = 0.5, d = 3.14159, b = 200 })
  for i = 1, 50 do speaker:call(Say { i = i }) end
  print(tostring(speaker)) -- a stopped one has no name any more
  speaker:stop()
  os.exit(0, true)
end

local function quoted(text) return "'" .. text:gsub("'", "'\\''") .. "'" end

-- What the child's log has, and the pid it printed.
local function lines_of(level)
  local file = os.tmpname()
  local program = check.program()
  local child = assert(io.popen(("%s --log %s:%s %s child"):format(quoted(program), level, quoted(file),
    quoted(arg[0]))))
  local who = child:read("l")
  check.truthy(child:close(), "the child ends well")
  local lines = {}
  for line in io.lines(file) do lines[#lines + 1] = line end
  os.remove(file)
  return lines, who
end

local function count(lines, text)
  local n = 0
  for _, line in ipairs(lines) do n = n + (line:find(text, 1, true) and 1 or 0) end
  return n
end

check.case("formatted lines of all levels, with the actor's pid", function()
  local lines, who = lines_of("debug")
  check.equal(1, count(lines, "i=-42 u=3735928559 l=-9223372036854775808 f=0.5 d=3.142 b=200"))
  check.equal(1, count(lines, "hex deadbeef padded -0042 percent % sum 158"))
  check.equal(1, count(lines, "1 2 3 4 5 6 7 200"))
  check.equal(50, count(lines, "1 2 3 4 5 6 7 0"))
  check.equal(51, count(lines, "so that it takes the long way: 0"))
  check.equal(1, count(lines, "debug -42"))
  check.equal(1, count(lines, "started"))
  check.equal(1, count(lines, "stopping"))
  for i = 1, 50 do check.equal(1, count(lines, ("i=%d u=0 "):format(i))) end
  check.equal(1, count(lines, "debug 50"))
  for _, line in ipairs(lines) do
    if line:find("hex", 1, true) then
      check.truthy(line:find("WARN", 1, true) and line:find(who, 1, true), line)
    elseif line:find("1 2 3", 1, true) then
      check.truthy(line:find("ERROR", 1, true), line)
    end
  end
end)

check.case("a level leaves the lower ones out", function()
  local lines = lines_of("warn")
  check.equal(0, count(lines, "debug "))
  check.equal(0, count(lines, "started"))
  check.equal(51, count(lines, "hex "))
  check.equal(51, count(lines, "1 2 3 4 5 6 7"))
  check.equal(1, count(lines, "stopping"))
end)

check.finish()
