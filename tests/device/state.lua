-- state.lua: the state of an instance: zero at launch, kept while deactivated, its own, readable.

local rk = require "rk"
local check = dofile((arg[0]:gsub("[^/]*$", "")) .. "check.lua")

local Number = rk.message("StateNumber", { n = "i64" })
local Report = rk.message("StateReport", { count = "u32", sum = "i64", zero = "bool", starts = "u32" })

check.kernel("counted", {
  accepts = Number, replies = Report,
  source = [[
    RK_STATE {
        uint32_t count, starts;
        int64_t sum;
        double more[500];
    };
    RK_ON_START
    {
        if (rk_thread(ctx) == 0) rk_get_state(ctx)->starts++;
    }
    RK_ON(StateNumber, m)
    {
        rk_state *s = rk_get_state(ctx);
        int zero = 1;
        RK_FOR (i, 500) zero = zero && s->more[i] == 0;
        zero = rk_block_all(ctx, zero);
        if (rk_thread(ctx) == 0) {
            s->count++;
            s->sum += m->n;
        }
        RK_FOR (i, 500) s->more[i] = m->n + i;
        rk_sync(ctx);
        rk_reply(ctx, StateReport, .count = s->count, .sum = s->sum, .zero = zero, .starts = s->starts);
    }
  ]],
})

local function report(kernel, n) return kernel:call(Number { n = n }):table() end

check.case("zero at launch, then what the messages made of it", function()
  local kernel = check.spawn("counted")
  check.equal({ count = 1, sum = 5, zero = true, starts = 1 }, report(kernel, 5))
  check.equal({ count = 2, sum = 12, zero = false, starts = 1 }, report(kernel, 7))
  for i = 3, 50 do check.equal({ count = i, sum = 12, zero = false, starts = 1 }, report(kernel, 0)) end
end)

check.case("survives deactivation", function()
  local kernel = check.spawn("counted")
  for round = 1, 5 do
    check.equal({ count = round, sum = 10 * round, zero = round == 1, starts = 1 }, report(kernel, 10))
    check.truthy(kernel:deactivate())
    check.equal("DEACTIVATED", check.state_of(kernel))
    check.truthy(kernel:reactivate())
    check.equal("ACTIVE", check.state_of(kernel))
  end
end)

check.case("survives other definitions coming and going", function()
  local kernel = check.spawn("counted")
  for round = 1, 4 do
    check.kernel("neighbour-" .. round, {
      accepts = Number, replies = Number,
      source = ("RK_ON(StateNumber, m) { rk_reply(ctx, StateNumber, .n = m->n + %d); }"):format(100 * round),
    })
    check.equal(round, report(kernel, 1).count)
    local neighbour = check.spawn("neighbour-" .. round)
    check.equal(100 * round + 1, neighbour:call(Number { n = 1 }).n)
    neighbour:stop()
  end
end)

check.case("belongs to one instance", function()
  local a, b = check.spawn("counted", { name = "a" }), check.spawn("counted", { name = "b" })
  for i = 1, 9 do check.equal(i, report(a, 1).count) end
  check.equal({ count = 1, sum = 2, zero = true, starts = 1 }, report(b, 2))
  check.equal({ count = 10, sum = 9, zero = false, starts = 1 }, report(a, 0))
end)

check.case("is zero again in the next instance of the name", function()
  for _ = 1, 4 do
    local kernel = check.spawn("counted")
    check.equal({ count = 1, sum = 3, zero = true, starts = 1 }, report(kernel, 3))
    check.truthy(kernel:stop())
  end
end)

-- ---- a schema -----------------------------------------------------------------------------------

local Put = rk.message("StatePut", { at = "u32", value = "f64", who = "pid", text = "string[16]" })
local Done = rk.message("StateDone", {})

check.kernel("stored", {
  accepts = Put, replies = Done,
  state = { values = "f64[100]", puts = "u64", last = "pid", text = "string[16]", flag = "bool",
    small = "i8", ratio = "f32" },
  source = [[
    RK_ON(StatePut, m)
    {
        rk_state *s = rk_get_state(ctx);
        if (rk_thread(ctx) == 0) {
            s->values[m->at] += m->value;
            if (s->values_count <= m->at) s->values_count = m->at + 1;
            s->puts++;
            s->last = m->who;
            s->text_count = m->text_count;
            s->flag = !s->flag;
            s->small = (int8_t)(s->small - 1);
            s->ratio = (float)s->puts / 4;
        }
        RK_FOR (i, m->text_count) s->text[i] = m->text[i];
        rk_reply(ctx, StateDone);
    }
  ]],
})

check.case("pid:state() reads what messages did", function()
  local kernel = check.runtime():launch("stored")
  local s = kernel:state()
  check.equal(0, s.puts)
  check.equal(0, #s.values)
  check.equal("", s.text)
  check.truthy(kernel:activate())
  local expected = {}
  for i = 1, 60 do
    local at = (i * 7) % 40
    expected[at + 1] = (expected[at + 1] or 0) + i * 0.5
    kernel:call(Put { at = at, value = i * 0.5, who = rk.self(), text = "put " .. i })
    if i % 12 == 0 then
      s = kernel:state()
      check.equal("stored.state", s.type)
      check.equal(i, s.puts)
      check.is(rk.self(), s.last)
      check.equal("put " .. i, s.text)
      check.equal(i % 2 == 1, s.flag)
      check.equal(-i, s.small)
      check.equal(i / 4, s.ratio)
      for k = 1, #s.values do check.equal(expected[k] or 0.0, s.values[k], "value " .. k) end
    end
  end
  check.equal(40, #kernel:state().values)
  check.equal("ACTIVE", check.state_of(kernel))
  check.truthy(kernel:deactivate())
  check.equal(60, kernel:state().puts)
  check.truthy(kernel:reactivate())
  kernel:call(Put { at = 0, value = 1 })
  check.equal(61, kernel:state().puts)
end)

check.case("pid:state() while messages are handled is that of a message border", function()
  check.kernel("pairs", {
    accepts = Number, state = { a = "i64", b = "i64" },
    source = [[
      RK_ON(StateNumber, m)
      {
          rk_state *s = rk_get_state(ctx);
          if (rk_thread(ctx) == 0) s->a += m->n;
          rk_sync(ctx);
          if (rk_thread(ctx) == 0) s->b += m->n;
      }
    ]],
  })
  local kernel, last = check.spawn("pairs"), 0
  for i = 1, 1000 do
    check.truthy(kernel:send(Number { n = 1 }))
    if i % 100 == 0 then
      local s = kernel:state()
      check.equal(s.a, s.b)
      check.truthy(s.a >= last and s.a <= i, "it only grows")
      last = s.a
    end
  end
  check.await(function() return kernel:state().a == 1000 end, "all messages")
  check.equal(1000, kernel:state().b)
end)

check.case("pid:state() without a schema says so", function()
  local kernel = check.spawn("counted")
  check.fails("EUNSUPPORTED", "no state schema", kernel:state())
end)

check.finish()
