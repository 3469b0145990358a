-- pairs.lua: one Lua caller and one actor that answers, run by bench/lua.c.
--
--   lua_typed   actor -> actor, a typed message of three fields
--   lua_table   actor -> actor, a plain table of three fields (MessagePack)
--   port_lua    main script -> actor, the typed message
--   lua_kernel  actor -> ring kernel on the cpu device, the typed message
--
-- The caller sits on the first cpu, the other on the second. One clock read ends a round trip and
-- begins the next; the first fifth of the time warms up and is not counted. It goes on until there
-- are enough round trips for a p99.9, however slow they are. Every answer is checked.

local rk, bench, runtime = require "rk", _G.bench, _G.runtime
local seconds = bench.seconds
local TRIPS <const> = 2000

local Item = rk.message("BenchItem", { number = "i64", kind = "i64", value = "f64" })

local function table_of(fields) return fields end

-- kind 0 is answered with number + 1; others are counted, and kind 2 is answered with the count.
local function echo(ctx, plain)
  local make = plain and table_of or Item
  local seen, wrong = 0, 0
  for m in ctx:messages() do
    if m.kind == 0 then
      ctx:reply(m, make { number = m.number + 1, kind = 0, value = m.value })
    else
      if m.number ~= seen then wrong = wrong + 1 end
      seen = seen + 1
      if m.kind == 2 then
        ctx:reply(m, make { number = seen, kind = wrong, value = 0 })
        seen, wrong = 0, 0
      end
    end
  end
end

local function round_trips(target, make)
  local now, samples, count, number = rk.now, {}, 0, 0
  local last = now()
  local warm, stop = last + seconds / 5, last + seconds
  repeat
    local answer = target:call(make { number = number, kind = 0, value = 0.5 })
    if answer.number ~= number + 1 or answer.value ~= 0.5 then error("a wrong answer") end
    number = number + 1
    local time = now()
    if last >= warm then
      count = count + 1
      samples[count] = time - last
    end
    last = time
  until time >= stop and count >= TRIPS
  table.sort(samples)
  local function quantile(q) return samples[math.max(1, math.ceil(q * count))] * 1e9 end
  return { p50 = quantile(0.5), p99 = quantile(0.99), p999 = quantile(0.999), trips = count }
end

local function one_way(target, make)
  local now, number = rk.now, 0
  local start = now()
  local stop = start + seconds
  while number % 64 ~= 63 or now() < stop do
    assert(target:send(make { number = number, kind = 1, value = 0.5 }))
    number = number + 1
  end
  local answer = target:call(make { number = number, kind = 2, value = 0.5 })
  local time = now() - start
  number = number + 1
  if answer.number ~= number or answer.kind ~= 0 then
    error(("%d of %d arrived, %d out of order"):format(answer.number, number, answer.kind))
  end
  return number / time
end

local function measure(target, plain)
  local make = plain and table_of or Item
  local result = round_trips(target, make)
  collectgarbage()
  result.rate = one_way(target, make)
  return result
end

local function caller(ctx, target, plain)
  local request = ctx:receive()
  ctx:reply(request, measure(target, plain))
end

local function answerer(case)
  if case ~= "lua_kernel" then
    return runtime:spawn(echo, { args = { case == "lua_table" }, cpu = bench.cpus[2] })
  end
  rk.kernel("bench_item", { accepts = Item, replies = Item, source = [[
    RK_STATE { int64_t seen, wrong; };
    RK_ON(BenchItem, m)
    {
        if (m->kind == 0) {
            rk_reply(ctx, BenchItem, .number = m->number + 1, .value = m->value);
            return;
        }
        rk_state *s = rk_get_state(ctx);
        s->wrong += m->number != s->seen++;
        if (m->kind == 2) {
            rk_reply(ctx, BenchItem, .number = s->seen, .kind = s->wrong);
            s->seen = s->wrong = 0;
        }
    } ]] })
  return runtime:spawn("bench_item", { cpu = bench.cpus[2] })
end

local function clock_cost()
  local start = rk.now()
  for _ = 1, 100000 do rk.now() end
  return (rk.now() - start) / 100000 * 1e9
end

local target = answerer(bench.case)
local result
if bench.case == "port_lua" then
  result = measure(target, false)
  result.clock = clock_cost()
else
  local plain = bench.case == "lua_table"
  local from = runtime:spawn(caller, { args = { target, plain }, cpu = bench.cpus[1] })
  result = from:timeout(60):call({ go = true })
end
for _, metric in ipairs { "p50", "p99", "p999", "trips", "rate", "clock" } do
  if result[metric] then print(("%s %s %.9g"):format(bench.case, metric, result[metric])) end
end
