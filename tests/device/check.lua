-- check.lua: what the device tests share: the runtime they ask for, cases, comparisons, waiting.
-- A script loads it with dofile, runs cases and ends with check.finish(), which exits with status 1
-- when a case failed. Each case begins with an empty mailbox and without ring kernels of the last.
-- The device and the mode come from RK_TEST_DEVICE ("cpu") and RK_TEST_MODE ("persistent").

local rk = require "rk"

local check = {
  device = os.getenv("RK_TEST_DEVICE") or "cpu",
  mode = os.getenv("RK_TEST_MODE") or "persistent",
  patience = 20, -- seconds until something counts as not happening
}
local passed, failed = 0, 0
local shared

-- A runtime of the device and mode under test. Without one no case means anything.
function check.open()
  local ok, runtime = pcall(rk.runtime, { device = check.device, mode = check.mode })
  if not ok then
    print(("FAILED no runtime: %s\n0 passed, 1 failed"):format(runtime))
    os.exit(1, true)
  end
  local device = runtime:device()
  if device:sub(1, #check.device) ~= check.device then
    error(("asked for the device %s, got %s"):format(check.device, device))
  end
  return runtime
end

-- The runtime of this script, opened when it is first asked for.
function check.runtime()
  shared = shared or check.open()
  return shared
end

-- Registers a ring kernel: blocks are small unless a case says otherwise.
function check.kernel(name, options)
  options.block = options.block or 4
  return rk.kernel(name, options)
end

function check.spawn(name, options)
  return check.runtime():spawn(name, options)
end

-- ---- comparisons ------------------------------------------------------------------------------

local function show(value)
  if type(value) == "string" then
    local text = ("%q"):format(#value > 80 and value:sub(1, 80) or value)
    return #value > 80 and text .. ("... (%d bytes)"):format(#value) or text
  end
  if math.type(value) == "float" then
    return value == math.floor(value) and tostring(value) or ("%.17g"):format(value)
  end
  if type(value) ~= "table" then return tostring(value) end
  local parts = {}
  for k, v in pairs(value) do
    if #parts == 12 then parts[#parts + 1] = "..." break end
    parts[#parts + 1] = tostring(k) .. " = " .. show(v)
  end
  return "{ " .. table.concat(parts, ", ") .. " }"
end

-- Floats are the same when no operation tells them apart: nan is nan, 0.0 is not -0.0.
local function same(a, b)
  if type(a) == "table" and type(b) == "table" then
    for k, v in pairs(a) do if not same(v, b[k]) then return false end end
    for k in pairs(b) do if a[k] == nil then return false end end
    return true
  end
  if math.type(a) == "float" and math.type(b) == "float" then
    return (a ~= a and b ~= b) or (a == b and (a ~= 0 or 1 / a == 1 / b))
  end
  return a == b and math.type(a) == math.type(b)
end

local function fail(what, text, ...)
  error((what and what .. ": " or "") .. text:format(...), 3)
end

function check.equal(expected, actual, what)
  if not same(expected, actual) then
    fail(what, "expected %s, got %s", show(expected), show(actual))
  end
end

-- a == b by Lua's own rules: pids, an integer and a float.
function check.is(expected, actual, what)
  if expected ~= actual then fail(what, "expected %s, got %s", show(expected), show(actual)) end
end

function check.truthy(value, what)
  if not value then fail(what, "expected something true, got %s", show(value)) end
  return value
end

function check.matches(pattern, text, what)
  if not tostring(text):find(pattern) then
    fail(what, "expected a match of %s, got %s", show(pattern), show(text))
  end
end

-- An expected failure, as it is returned: nil, a message that matches, the code.
function check.fails(code, pattern, value, message, actual)
  if value ~= nil or actual ~= code or not tostring(message):find(pattern) then
    fail(nil, "expected nil, %s, %s; got %s, %s, %s", show(pattern), show(code), show(value),
      show(message), show(actual))
  end
end

-- An expected failure, as it is raised.
function check.raises(pattern, fn, ...)
  local ok, err = pcall(fn, ...)
  if ok then fail(nil, "expected an error that matches %s", show(pattern)) end
  if not tostring(err):find(pattern) then
    fail(nil, "expected an error that matches %s, got %s", show(pattern), show(tostring(err)))
  end
  return err
end

-- A sequence in a message as a plain table.
function check.list(sequence)
  local t = {}
  for i, v in ipairs(sequence) do t[i] = v end
  return t
end

-- ---- waiting ----------------------------------------------------------------------------------

-- Until condition() gives something true, which it returns.
function check.await(condition, what)
  local deadline = rk.now() + check.patience
  repeat
    local value = condition()
    if value then return value end
    rk.sleep(0.002)
  until rk.now() > deadline
  fail(what or "waiting", "nothing came in %d s", check.patience)
end

-- The next message of a type; of any other type: an error.
function check.receive(type)
  local m, from, code = rk.receive(check.patience)
  if m == nil then fail(type.name, "nothing came: %s, %s", from, code) end
  if m.type ~= type.name then fail(type.name, "got %s", tostring(m)) end
  return m, from
end

function check.state_of(pid)
  local info = pid:info()
  return info and info.state
end

-- Runs the functions as coroutines of this script; waits for all and raises what one raised.
function check.together(functions)
  local left, problem = #functions, nil
  for _, fn in ipairs(functions) do
    rk.fork(function()
      local ok, err = pcall(fn)
      problem = problem or (not ok and tostring(err) or nil)
      left = left - 1
    end)
  end
  check.await(function() return left == 0 end, "forked functions")
  if problem then error(problem, 2) end
end

-- The program that runs this script, for scripts that start another one.
function check.program()
  local i = 0
  while arg[i - 1] do i = i - 1 end
  return arg[i]
end

-- ---- cases ------------------------------------------------------------------------------------

local function tidy()
  if shared then
    for _, info in ipairs(shared:list()) do
      if info.kind == "kernel" then shared:terminate(info.pid) end
    end
  end
  while rk.receive(0) do end
end

function check.case(name, fn)
  local start = rk.now()
  local ok, err = xpcall(fn, function(e) return debug.traceback(tostring(e), 2) end)
  if ok then
    passed = passed + 1
    print("ok " .. name .. (os.getenv("RK_TEST_TIMES") and (" %.3f s"):format(rk.now() - start) or ""))
  else
    failed = failed + 1
    print("FAILED " .. name .. "\n    " .. tostring(err):gsub("\n", "\n    "))
  end
  tidy()
end

function check.finish()
  if shared then shared:close() end
  print(("%d passed, %d failed"):format(passed, failed))
  os.exit(failed == 0 and passed > 0 and 0 or 1, true)
end

return check
