-- replies.lua: answers given twice, not at all, by somebody else; messages of a kernel's own.

local rk = require "rk"
local check = dofile((arg[0]:gsub("[^/]*$", "")) .. "check.lua")

local Number = rk.message("ReplyNumber", { n = "i64" })
local To = rk.message("ReplyTo", { pid = "pid", n = "i64", count = "u32" })

-- ---- rk_reply -----------------------------------------------------------------------------------

check.kernel("answers", {
  accepts = Number, replies = Number, state = { handled = "u32" },
  source = [[
    RK_ON(ReplyNumber, m)
    {
        if (rk_thread(ctx) == 0) rk_get_state(ctx)->handled++;
        for (int i = 0; i < (int)m->n; i++) rk_reply(ctx, ReplyNumber, .n = 10 * m->n + i);
    }
  ]],
})

check.case("of several answers the first one counts", function()
  local kernel = check.spawn("answers")
  for i = 1, 20 do check.equal(10 * i, kernel:call(Number { n = i }).n) end
  check.truthy(kernel:send(Number { n = 3 }))
  check.equal(30, check.receive(Number).n)
  check.equal(10, kernel:call(Number { n = 1 }).n)
  check.equal(nil, (rk.receive(0)))
end)

check.case("a call without an answer fails and says which handler", function()
  local kernel = check.spawn("answers")
  check.fails("ENOREPLY", "answers.*the handler of ReplyNumber ended without rk_reply",
    kernel:try_call(Number { n = 0 }))
  local err = check.raises("ended without rk_reply", kernel.call, kernel, Number { n = 0 })
  check.equal("ENOREPLY", err.code)
  check.truthy(kernel:send(Number { n = 0 }))
  check.equal(10, kernel:call(Number { n = 1 }).n)
  check.equal(4, kernel:state().handled)
  check.equal("ACTIVE", check.state_of(kernel))
end)

check.kernel("open", {
  accepts = Number, replies = Number,
  source = [[
    RK_ON(ReplyNumber, m)
    {
        ReplyNumber *r = rk_reply_begin(ctx, ReplyNumber);
        if (rk_thread(ctx) == 0) r->n = m->n;
        if (m->n == 1) rk_reply(ctx, ReplyNumber, .n = 5);
        if (m->n != 2) rk_reply_end(ctx);
    }
  ]],
})

check.case("publishing between rk_reply_begin and rk_reply_end fails the handler", function()
  local kernel = check.spawn("open")
  check.equal(7, kernel:call(Number { n = 7 }).n)
  check.fails("EHANDLER", "between rk_reply_begin and rk_reply_end", kernel:try_call(Number { n = 1 }))
end)

check.case("rk_reply_begin without rk_reply_end fails the handler", function()
  local kernel = check.spawn("open")
  check.fails("EHANDLER", "rk_reply_begin without rk_reply_end", kernel:try_call(Number { n = 2 }))
end)

-- ---- rk_forward ---------------------------------------------------------------------------------

check.kernel("relay", {
  accepts = { To, Number }, replies = Number, state = { to = "pid" },
  source = [[
    RK_ON(ReplyTo, m)
    {
        if (rk_thread(ctx) == 0) rk_get_state(ctx)->to = m->pid;
        rk_reply(ctx, ReplyNumber, .n = 0);
    }
    RK_ON(ReplyNumber, m)
    {
        (void)m;
        rk_forward(ctx, rk_get_state(ctx)->to);
    }
  ]],
})

rk.actor("reply-server", function(ctx, bonus)
  for msg, from in ctx:messages() do
    if msg.n < 0 then from:send(Number { n = -msg.n }) else ctx:reply(msg, Number { n = msg.n + bonus }) end
  end
end)

check.case("rk_forward to a host actor: it answers the caller", function()
  local relay = check.spawn("relay")
  local server = check.runtime():spawn("reply-server", { args = { 1000 } })
  relay:call(To { pid = server })
  for i = 1, 50 do check.equal(1000 + i, relay:call(Number { n = i }).n) end
  local request = Number { n = 77 }
  local id = tostring(request.message_id)
  check.truthy(relay:send(request))
  local answer, from = check.receive(Number)
  check.equal(1077, answer.n)
  check.is(server, from)
  check.equal(id, tostring(answer.correlation_id))
  check.truthy(relay:send(Number { n = -5 })) -- the server sends to whoever it has the message from
  answer, from = check.receive(Number)
  check.equal(5, answer.n)
  check.is(server, from)
  check.truthy(server:stop())
end)

check.case("rk_forward through three kernels", function()
  local a, b = check.spawn("relay", { name = "a" }), check.spawn("relay", { name = "b" })
  local last = check.spawn("answers")
  a:call(To { pid = b })
  b:call(To { pid = last })
  for i = 1, 50 do check.equal(10 * i, a:call(Number { n = i }).n) end
  check.fails("ENOREPLY", "answers", a:try_call(Number { n = 0 }))
  check.equal(51, last:state().handled)
end)

check.case("rk_forward to the dead: the caller is told", function()
  local relay = check.spawn("relay")
  local server = check.runtime():spawn("reply-server", { args = { 1 } })
  relay:call(To { pid = server })
  check.equal(3, relay:call(Number { n = 2 }).n)
  check.truthy(server:stop())
  check.fails("EDEAD", "", relay:try_call(Number { n = 2 }))
  check.equal("ACTIVE", check.state_of(relay))
end)

-- ---- rk_send ------------------------------------------------------------------------------------

check.kernel("sender", {
  accepts = { To }, replies = Number, state = { to = "pid", turns = "u32" },
  source = [[
    RK_ON(ReplyTo, m)
    {
        for (int i = 0; i < (int)m->count; i++) {
            rk_send(ctx, m->pid, ReplyNumber, .n = m->n + i);
        }
        rk_reply(ctx, ReplyNumber, .n = -1);
    }
  ]],
})

for _, count in ipairs { 1, 5, 300, 2000 } do
  check.case(("%d messages from one handler"):format(count), function()
    local kernel = check.spawn("sender")
    check.equal(-1, kernel:call(To { pid = rk.self(), n = 100, count = count }).n)
    for i = 0, count - 1 do
      local m, from = check.receive(Number)
      check.equal(100 + i, m.n)
      check.is(kernel, from)
    end
    check.equal(nil, (rk.receive(0)))
  end)
end

local sixteen = {}
for i = 1, 16 do sixteen["v" .. i] = "u64" end
local Chunk = rk.message("ReplyChunk", sixteen)
local Block = rk.message("ReplyBlock", { number = "u32", a = "ReplyChunk", b = "ReplyChunk", c = "ReplyChunk",
  d = "ReplyChunk", e = "ReplyChunk" })

check.kernel("blocks", {
  accepts = { To }, replies = { Block, Number }, block = 32, cpu_threads = 2,
  source = [[
    static ReplyChunk chunk(uint64_t k)
    {
        ReplyChunk c;
        c.v1 = k; c.v2 = k + 1; c.v3 = k + 2; c.v4 = k + 3; c.v5 = k + 4; c.v6 = k + 5; c.v7 = k + 6;
        c.v8 = k + 7; c.v9 = k + 8; c.v10 = k + 9; c.v11 = k + 10; c.v12 = k + 11; c.v13 = k + 12;
        c.v14 = k + 13; c.v15 = k + 14; c.v16 = k + 15;
        return c;
    }
    RK_ON(ReplyTo, m)
    {
        for (uint32_t k = 0; k < m->count; k++) {
            rk_send(ctx, m->pid, ReplyBlock, .number = k, .a = chunk(k), .b = chunk(2 * k), .c = chunk(3 * k),
                    .d = chunk(4 * k), .e = chunk(5 * k));
        }
        rk_reply(ctx, ReplyNumber, .n = (int64_t)m->count);
    }
  ]],
})

check.case("larger messages from one handler, more than its memory for answers holds", function()
  local kernel, COUNT = check.spawn("blocks"), 300
  check.equal(COUNT, kernel:call(To { pid = rk.self(), count = COUNT }).n)
  check.equal(16 * 8, Chunk.size)
  for k = 0, COUNT - 1 do
    local m = check.receive(Block)
    check.equal(k, m.number)
    for factor, name in ipairs { "a", "b", "c", "d", "e" } do
      local part = m[name]
      for i = 1, 16 do
        check.equal(factor * k + i - 1, part["v" .. i], ("number %d, %s, %d"):format(k, name, i))
      end
    end
  end
end)

check.case("to another ring kernel", function()
  check.kernel("summed", {
    accepts = { Number, To }, replies = Number, state = { sum = "i64", wrong = "u32", sender = "pid" },
    source = [[
      RK_ON(ReplyNumber, m)
      {
          rk_state *s = rk_get_state(ctx);
          if (rk_thread(ctx) == 0) {
              s->sum += m->n;
              s->wrong += rk_from(ctx) != s->sender;
          }
      }
      RK_ON(ReplyTo, m)
      {
          if (rk_thread(ctx) == 0) rk_get_state(ctx)->sender = m->pid;
          rk_reply(ctx, ReplyNumber, .n = 0);
      }
    ]],
  })
  local sender, summed = check.spawn("sender"), check.spawn("summed")
  summed:call(To { pid = sender })
  local sum = 0
  for round = 1, 20 do
    check.equal(-1, sender:call(To { pid = summed, n = round, count = 10 }).n)
    sum = sum + 10 * round + 45
  end
  check.await(function() return summed:info().received == 201 end, "200 messages")
  local s = summed:state()
  check.equal(sum, s.sum)
  check.equal(0, s.wrong)
end)

check.case("to a kernel itself", function()
  check.kernel("countdown", {
    accepts = { Number }, replies = Number, state = { handled = "u32", to = "pid" },
    source = [[
      RK_ON(ReplyNumber, m)
      {
          rk_state *s = rk_get_state(ctx);
          if (rk_thread(ctx) == 0) {
              s->handled++;
              if (rk_from(ctx) != rk_self(ctx)) s->to = rk_from(ctx);
          }
          rk_sync(ctx);
          if (m->n > 0) {
              rk_send(ctx, rk_self(ctx), ReplyNumber, .n = m->n - 1);
          } else {
              rk_send(ctx, s->to, ReplyNumber, .n = (int64_t)s->handled);
          }
      }
    ]],
  })
  local kernel = check.spawn("countdown")
  check.truthy(kernel:send(Number { n = 99 }))
  check.equal(100, check.receive(Number).n)
end)

check.case("to the dead and to nobody: lost, and nothing else happens", function()
  local kernel = check.spawn("sender")
  local dead = check.runtime():spawn("reply-server", { args = { 1 } })
  check.truthy(dead:stop())
  check.equal(-1, kernel:call(To { pid = dead, n = 1, count = 3 }).n)
  check.equal(-1, kernel:call(To { n = 1, count = 3 }).n)
  check.equal("ACTIVE", check.state_of(kernel))
end)

-- ---- outside of messages ------------------------------------------------------------------------

check.case("from RK_EVERY and RK_ON_STOP, to whom a message named", function()
  check.kernel("reporter", {
    accepts = To, replies = Number, state = { to = "pid", turns = "i64" },
    source = [[
      RK_ON(ReplyTo, m)
      {
          if (rk_thread(ctx) == 0) rk_get_state(ctx)->to = m->pid;
          rk_reply(ctx, ReplyNumber, .n = 0);
      }
      RK_EVERY(0.005)
      {
          rk_state *s = rk_get_state(ctx);
          if (s->to == 0 || s->turns == 3) return;
          rk_sync(ctx);
          if (rk_thread(ctx) == 0) s->turns++;
          rk_sync(ctx);
          rk_send(ctx, s->to, ReplyNumber, .n = s->turns);
      }
      RK_ON_STOP
      {
          rk_send(ctx, rk_get_state(ctx)->to, ReplyNumber, .n = -1000 - rk_priority(ctx));
      }
    ]],
  })
  local kernel = check.spawn("reporter")
  check.equal(0, kernel:call(To { pid = rk.self() }).n)
  for i = 1, 3 do
    local m, from = check.receive(Number)
    check.equal(i, m.n)
    check.is(kernel, from)
  end
  check.truthy(kernel:stop())
  check.equal(-1128, check.receive(Number).n)
end)

check.case("from RK_ON_START and RK_ON_STOP, to the kernel itself", function()
  check.kernel("starter", {
    accepts = { Number, To }, replies = Number, state = { started = "i64", got = "i64" },
    source = [[
      RK_ON_START
      {
          if (rk_thread(ctx) == 0) rk_get_state(ctx)->started = rk_from(ctx) == 0 ? 1 : -1;
          rk_send(ctx, rk_self(ctx), ReplyNumber, .n = 41);
      }
      RK_ON(ReplyNumber, m)
      {
          if (rk_thread(ctx) == 0) rk_get_state(ctx)->got += m->n;
      }
      RK_ON(ReplyTo, m)
      {
          (void)m;
          rk_reply(ctx, ReplyNumber, .n = rk_get_state(ctx)->started + rk_get_state(ctx)->got);
      }
    ]],
  })
  local kernel = check.spawn("starter")
  check.await(function() return kernel:call(To {}).n == 42 end, "its own message")
end)

check.finish()
