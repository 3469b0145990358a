-- examples/pipeline.lua [COUNT]     four stages, host and device in turn; 10000 messages
--
--   source ──> summarize ──> scale ──> total ──> this script
--   (Lua)      (kernel)      (Lua)     (kernel)
--
-- Every message carries 16 readings, or what was made of them, and its number. A device never waits
-- for room in a mailbox, so this script gives the source credit: at most CREDIT messages are on
-- their way at any time, which is less than any mailbox here holds.
local rk = require "rk"

local COUNT, CREDIT, READINGS = math.tointeger(tonumber(arg[1] or 10000)), 512, 16
if not COUNT or COUNT < 1 then
  io.stderr:write("usage: pipeline.lua [COUNT], a whole number above 0\n")
  os.exit(2)
end

local Readings = rk.message("Readings", { number = "u64", values = "i32[16]" })
local Summary  = rk.message("Summary",  { number = "u64", sum = "i64", peak = "i32" })
local Scaled   = rk.message("Scaled",   { number = "u64", value = "i64" })
local Report   = rk.message("Report",   { number = "u64", count = "u64", total = "i64" })
local Next     = rk.message("Next",     { pid = "pid" })      -- where a kernel sends what it makes
local Credit   = rk.message("Credit",   { messages = "u32" })

rk.kernel("summarize", {
  accepts = { Next, Readings }, replies = { Next, Summary }, state = { next = "pid" }, block = 32,
  source = [[
    RK_ON(Next, to)
    {
        rk_get_state(ctx)->next = to->pid;
        rk_reply(ctx, Next, .pid = to->pid);
    }

    RK_ON(Readings, r)
    {
        int64_t sum = 0;
        int peak = -2147483647;
        RK_FOR (i, r->values_count) {
            sum += r->values[i];
            peak = r->values[i] > peak ? r->values[i] : peak;
        }
        rk_send(ctx, rk_get_state(ctx)->next, Summary, .number = r->number,
                .sum = rk_block_sum(ctx, sum), .peak = rk_block_max(ctx, peak));
    }
  ]],
})

rk.kernel("total", {
  accepts = { Next, Scaled }, replies = { Next, Report }, block = 32,
  state = { next = "pid", count = "u64", total = "i64" },
  source = [[
    RK_ON(Next, to)
    {
        rk_get_state(ctx)->next = to->pid;
        rk_reply(ctx, Next, .pid = to->pid);
    }

    RK_ON(Scaled, s)
    {
        rk_state *state = rk_get_state(ctx);
        if (rk_thread(ctx) == 0) {
            state->count += 1;
            state->total += s->value;
        }
        rk_sync(ctx);
        rk_send(ctx, state->next, Report, .number = s->number, .count = state->count,
                .total = state->total);
    }
  ]],
})

rk.actor("source", function(ctx, to, count)
  local values, credit = {}, 0
  for number = 1, count do
    for i = 1, READINGS do
      values[i] = number % 1000 + i
    end
    while credit == 0 do
      credit = ctx:receive(Credit).messages
    end
    credit = credit - 1
    assert(to:send(Readings { number = number, values = values }))
  end
  return "done"
end)

rk.actor("scale", function(ctx, to)
  for m in ctx:messages() do
    assert(to:send(Scaled { number = m.number, value = 10 * m.sum + m.peak }))
  end
end)

local runtime <close> = rk.runtime()
local total     = runtime:spawn "total"
local scale     = runtime:spawn("scale", { args = { total } })
local summarize = runtime:spawn "summarize"
total:call(Next { pid = rk.self() })
summarize:call(Next { pid = scale })
local start  = rk.now()
local source = runtime:spawn("source", { args = { summarize, COUNT } })
rk.monitor(source)
source:send(Credit { messages = CREDIT })

-- What the last kernel reports, against what is known of the readings.
local wrong, expected, last = 0, 0, nil
for number = 1, COUNT do
  repeat
    last = assert(rk.receive(10))
  until last.type == "Report" or last.reason ~= "done" and error("the source: " .. last.reason)
  local base = number % 1000
  expected = expected + 10 * (READINGS * base + READINGS * (READINGS + 1) // 2) + base + READINGS
  if last.number ~= number or last.count ~= number or last.total ~= expected then
    wrong = wrong + 1
  end
  if number % (CREDIT // 2) == 0 then
    source:send(Credit { messages = CREDIT // 2 })
  end
end
local seconds = rk.now() - start

print(("%d messages through 4 stages in %.2f s: %.0f messages/s"):format(COUNT, seconds,
  COUNT / seconds))
for _, stage in ipairs { summarize, scale, total } do
  local info = stage:info()
  print(("  %-10s %-5s received %d, sent %d, dropped %d"):format(info.name or "scale", info.device,
    info.received, info.sent, info.dropped))
end
print(("lost %d, wrong or out of order %d"):format(COUNT - last.count, wrong))
os.exit(last.count == COUNT and wrong == 0, true)
