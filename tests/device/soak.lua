-- soak.lua [SECONDS]: mixed sizes, several kernels and host actors at once, for as long as asked (2).
-- Every request has a number; every answer is checked and counted. Meanwhile kernels come and go, and
-- one is paused again and again. Ends with the line `N answers, lost 0, wrong 0`.

local rk = require "rk"
local check = dofile((arg[0]:gsub("[^/]*$", "")) .. "check.lua")

local SECONDS = tonumber(arg[1] or 2)
local SIZES = { 8, 40, 300, 1000, 5000 }

local Stop = rk.message("SoakStop", {})
local Tally = rk.message("SoakTally", { asked = "u64", answered = "u64", wrong = "u64" })
local Total = rk.message("SoakTotal", { handled = "u64" })
local kinds, handlers = {}, {}
for i, size in ipairs(SIZES) do
  kinds[i] = rk.message("Soak" .. size, { number = "u64", data = ("bytes[%d]"):format(size) })
  handlers[i] = ([[
    RK_ON(SoakN, m)
    {
        SoakN *r = rk_reply_begin(ctx, SoakN);
        RK_FOR (i, m->data_count) r->data[i] = (uint8_t)~m->data[m->data_count - 1 - (uint32_t)i];
        if (rk_thread(ctx) == 0) {
            r->number = m->number + 1;
            r->data_count = m->data_count;
            rk_get_state(ctx)->handled++;
        }
        rk_reply_end(ctx);
    }]]):gsub("SoakN", "Soak" .. size)
end

local accepts = { Stop, table.unpack(kinds) }
for i = 1, 3 do
  check.kernel("soak-" .. i, {
    accepts = accepts, replies = { Total, table.unpack(kinds) }, state = { handled = "u64" },
    block = ({ 4, 32, 4 })[i], cpu_threads = ({ 1, 2, 1 })[i], queue_size = ({ 1024, 1024, 8 })[i],
    source = ("enum { FLAVOUR = %d };\n"):format(i) .. [[
      RK_EVERY(0.01) { if (FLAVOUR == 2) rk_sync(ctx); }
      RK_ON(SoakStop, m) { (void)m; rk_reply(ctx, SoakTotal, .handled = rk_get_state(ctx)->handled); }
    ]] .. table.concat(handlers, "\n"),
  })
end

-- Definitions that nobody else uses, so that what the device runs changes when they come and go.
local Number = rk.message("SoakNumber", { n = "u64" })
for i = 1, 2 do
  check.kernel("soak-guest-" .. i, {
    accepts = Number, replies = Number,
    source = ("RK_ON(SoakNumber, m) { rk_reply(ctx, SoakNumber, .n = m->n * %d); }"):format(i + 1),
  })
end

-- Calls and sends to kernels in turn until it is told to stop; then says what came of it.
rk.actor("soak-asker", function(ctx, seed, kernels, names)
  local asked, answered, wrong, number = 0, 0, 0, seed * 1000000000
  local expected = {}
  local function random(n)
    seed = (seed * 1103515245 + 12345) & 0x7fffffff
    return (seed >> 8) % n + 1
  end
  local function judge(answer)
    answered = answered + 1
    local want = expected[answer.number]
    expected[answer.number] = nil
    wrong = wrong + (want == answer.data and 0 or 1)
  end
  local to
  repeat
    for _ = 1, 20 do
      local kind = names[random(#names)]
      local size = random(kind.size + 1) - 1
      local byte = random(256) - 1
      local data = string.char(byte):rep(size // 2) .. string.char(255 - byte):rep(size - size // 2)
      number = number + 2
      expected[number + 1] = data:reverse():gsub(".", function(c) return string.char(255 - c:byte()) end)
      local request = rk.message(kind.name) { number = number, data = data }
      local kernel = kernels[random(#kernels)]
      asked = asked + 1
      if random(3) == 1 then
        assert(kernel:send(request, 20))
      else
        judge(kernel:timeout(20):call(request))
      end
    end
    local m, from = ctx:receive(0)
    while m do
      if m.type == "SoakStop" then to = from else judge(m) end
      m, from = ctx:receive(0)
    end
  until to
  while answered < asked do
    local m = ctx:receive(20)
    if not m then break end
    judge(m)
  end
  to:send(rk.message("SoakTally") { asked = asked, answered = answered, wrong = wrong })
end)

local runtime <close> = check.open()
local kernels, names, askers = {}, {}, {}
for i = 1, 3 do kernels[i] = runtime:spawn("soak-" .. i) end
kernels[4] = runtime:spawn("soak-1", { name = "soak-1-again" })
for i, kind in ipairs(kinds) do names[i] = { name = kind.name, size = SIZES[i] } end
for i = 1, 4 do askers[i] = runtime:spawn("soak-asker", { args = { i, kernels, names } }) end

local deadline, visits, wrong = rk.now() + SECONDS, 0, 0
while rk.now() < deadline do
  assert(kernels[4]:deactivate())
  rk.sleep(0.002)
  assert(kernels[4]:reactivate())
  if visits % 8 == 4 then
    local i = visits % 3 == 0 and 1 or 2
    local guest = runtime:spawn("soak-guest-" .. i)
    for n = 1, 5 do
      if guest:call(Number { n = n }).n ~= n * (i + 1) then wrong = wrong + 1 end
    end
    assert(guest:stop())
  elseif visits % 8 == 0 then
    local visitor = runtime:spawn("soak-2", { name = "visitor" })
    for n = 1, 5 do
      if visitor:call(kinds[1] { number = n, data = "ab" }).number ~= n + 1 then wrong = wrong + 1 end
    end
    assert(visitor:stop())
  end
  visits = visits + 1
  rk.sleep(0.02)
end

local asked, answered, handled = 0, 0, 0
for _, asker in ipairs(askers) do
  rk.monitor(asker)
  assert(asker:send(Stop {}))
end
for _ = 1, #askers do
  local tally = rk.receive(Tally, 60)
  if not tally then
    local down = rk.receive("down", 0)
    error("an asker did not end well: " .. (down and down.reason or "it still waits"))
  end
  asked, answered, wrong = asked + tally.asked, answered + tally.answered, wrong + tally.wrong
end
for i, kernel in ipairs(kernels) do
  local here = kernel:call(Stop {}).handled
  handled = handled + here
  io.write(("soak-%d handled %d, "):format(i, here))
end
print(("%d visits"):format(visits))
print(("%d answers, lost %d, wrong %d"):format(answered, asked - answered, wrong))
os.exit(asked == answered and answered == handled and wrong == 0 and answered > 0 and 0 or 1, true)
