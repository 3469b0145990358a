-- trips.lua DEVICE [MODE]: round trips from a Lua actor to a ring kernel, for the sizes of trips.c;
-- every answer is checked. Prints result lines as the C programs do.

local rk = require "rk"
local lines = dofile((arg[0]:gsub("[^/]*$", "")) .. "lines.lua")

local device, mode = arg[1] or "cpu", arg[2] or "persistent"
local SIZES = { 0, 16, 48, 256, 1024, 16384 }
local TRIPS <const> = 100000

local FIELDS = { "a_number", "b", "c", "d", "e", "f" }
local types, handlers = {}, {}

for i, size in ipairs(SIZES) do
  local fields = {}
  if size > 48 then
    fields = { a_number = "u64", data = ("bytes[%d]"):format(size - 12) }
  else
    for k = 1, size // 8 do fields[FIELDS[k]] = "u64" end
  end
  types[i] = rk.message("LuaRig" .. size, fields)
  local body = "rk_reply(ctx, T"
  for k = 1, size // 8 do
    local name = FIELDS[k]
    body = body .. (k == 1 and ", .a_number = m->a_number + 1" or (", .%s = m->%s"):format(name, name))
    if size > 48 then break end
  end
  body = "(void)m; " .. body .. ");"
  if size > 48 then
    body = [[
      T *r = rk_reply_begin(ctx, T);
      RK_FOR (i, m->data_count) r->data[i] = m->data[i];
      if (rk_thread(ctx) == 0) {
          r->a_number = m->a_number + 1;
          r->data_count = m->data_count;
      }
      rk_reply_end(ctx);]]
  end
  handlers[i] = ("RK_ON(T, m) { " .. body .. " }"):gsub("%f[%w]T%f[%W]", "LuaRig" .. size)
end

rk.kernel("lua_rig", {
  accepts = types, replies = types, block = lines.standin and 1 or 32, source = table.concat(handlers, "\n"),
})

-- Runs in an actor: so many round trips of one size, or fewer when the time is over.
local function measure(kernel, size, make, wanted)
  local data = size > 48 and ("x"):rep(size - 12) or nil
  local h, number = lines.histogram(), 0
  local warm = math.min(1000, wanted // 10)
  local last = rk.now()
  local over = last + lines.cap
  repeat
    if size == 0 then
      kernel:call(make {})
    else
      local answer = kernel:call(make { a_number = number, data = data })
      if answer.a_number ~= number + 1 or data and #answer.data ~= #data then
        error("a wrong answer to a message of " .. size .. " bytes")
      end
    end
    number = number + 1
    local now = rk.now()
    if number > warm then lines.add(h, (now - last) * 1e9) end
    last = now
  until h.n >= wanted or now >= over
  return h
end

local function source_of(id)
  for _, found in ipairs(rk.devices()) do
    if found.id:sub(1, #id) == id then
      return (found.id == "cpu" and "cpu device: " or "") .. found.name
    end
  end
  error("no device " .. id)
end

local runtime <close> = rk.runtime { device = device, mode = mode }
local source = source_of(device)
local kernel = runtime:spawn("lua_rig")

local sizes = mode == "persistent" and SIZES or { 48 }
for i = 1, #sizes do
  local at = (i + lines.round - 1) % #sizes + 1
  local size = sizes[at]
  local make
  for k, s in ipairs(SIZES) do if s == size then make = types[k] end end
  local asker = runtime:spawn(function(ctx)
    local request = ctx:receive()
    local fine, h = pcall(measure, kernel, size, make, lines.share(TRIPS))
    local text = fine and lines.json(lines.summary(h)) or ""
    ctx:reply(request, { text = text, problem = fine and "" or tostring(h) })
  end)
  local answer = asker:timeout(60):call({ go = true })
  if answer.problem ~= "" then error(answer.problem, 0) end
  local h = lines.histogram()
  lines.merge(h, lines.parse(answer.text))
  lines.put("round trip", ("Lua actor, %s, %s"):format(device, mode), source, { payload = size }, h)
end
