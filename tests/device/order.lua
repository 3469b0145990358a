-- order.lua: order per sender, priorities, and what the envelope says.

local rk = require "rk"
local check = dofile((arg[0]:gsub("[^/]*$", "")) .. "check.lua")

local Item = rk.message("OrderItem", { lane = "u32", n = "u64" })
local Look = rk.message("OrderLook", {})
local Seen = rk.message("OrderSeen", { count = "u64", wrong = "u64", first_wanted = "u64",
  first_got = "u64" })

check.kernel("ordered", {
  accepts = { Item, Look }, replies = Seen, queue_size = 256,
  source = [[
    RK_STATE { uint64_t count[8], all, wrong, wanted, got; };
    RK_ON(OrderItem, m)
    {
        rk_state *s = rk_get_state(ctx);
        if (rk_thread(ctx) == 0) {
            uint64_t wanted = ++s->count[m->lane];
            s->all++;
            if (m->n != wanted && s->wrong++ == 0) {
                s->wanted = wanted;
                s->got = m->n;
            }
        }
    }
    RK_ON(OrderLook, m)
    {
        rk_state *s = rk_get_state(ctx);
        (void)m;
        rk_sync(ctx);
        rk_reply(ctx, OrderSeen, .count = s->all, .wrong = s->wrong, .first_wanted = s->wanted,
                 .first_got = s->got);
    }
  ]],
})

local function in_order(kernel, count)
  check.equal({ count = count, wrong = 0, first_wanted = 0, first_got = 0 }, kernel:call(Look {}):table())
end

check.case("10,000 sends of one script arrive in order", function()
  local kernel = check.spawn("ordered")
  for i = 1, 10000 do check.truthy(kernel:send(Item { n = i }, check.patience)) end
  in_order(kernel, 10000)
end)

check.case("also with a mailbox of four", function()
  local kernel = check.spawn("ordered", { mailbox = 4 })
  for i = 1, 1000 do check.truthy(kernel:send(Item { n = i }, check.patience)) end
  in_order(kernel, 1000)
end)

check.case("sends and calls of one sender in turn", function()
  local kernel, sent = check.spawn("ordered"), 0
  for round = 1, 100 do
    for _ = 1, round % 7 do
      sent = sent + 1
      check.truthy(kernel:send(Item { n = sent }))
    end
    in_order(kernel, sent)
  end
end)

local Done = rk.message("OrderDone", { lane = "u32" })

rk.actor("order-sender", function(_, to, report, lane, count)
  for i = 1, count do assert(to:send(Item { lane = lane, n = i }, 20)) end
  report:send(Done { lane = lane })
end)

check.case("five host actors at once, each in its order", function()
  local kernel = check.spawn("ordered")
  local runtime, me = check.runtime(), rk.self()
  for lane = 0, 4 do
    runtime:spawn("order-sender", { args = { kernel, me, lane, 2000 } })
  end
  for _ = 1, 5 do check.receive(Done) end
  in_order(kernel, 10000)
end)

check.case("deactivations in between change nothing", function()
  local kernel, runtime = check.spawn("ordered"), check.runtime()
  runtime:spawn("order-sender", { args = { kernel, rk.self(), 0, 3000 } })
  for _ = 1, 10 do
    check.truthy(kernel:deactivate())
    check.truthy(kernel:reactivate())
  end
  check.receive(Done)
  in_order(kernel, 3000)
end)

-- ---- envelopes ----------------------------------------------------------------------------------

local Ask = rk.message("OrderAsk", { n = "u64" })
local Envelope = rk.message("OrderEnvelope", { n = "u64", sender = "pid", own = "pid",
  urgency = "i32" })

check.kernel("envelope", {
  accepts = Ask, replies = Envelope,
  source = [[
    RK_ON(OrderAsk, m)
    {
        rk_reply(ctx, OrderEnvelope, .n = m->n, .sender = rk_from(ctx), .own = rk_self(ctx),
                 .urgency = rk_priority(ctx));
    }
  ]],
})

rk.actor("order-asker", function(ctx, kernel)
  for msg, from in ctx:messages() do
    local answer = kernel:call(Ask { n = 1 })
    from:send { sender = answer.sender, own = answer.own, tag = msg }
  end
end)

check.case("rk_from and rk_self", function()
  local a, b = check.spawn("envelope", { name = "a" }), check.spawn("envelope", { name = "b" })
  for _, kernel in ipairs { a, b } do
    local answer = kernel:call(Ask { n = 1 })
    check.is(rk.self(), answer.sender)
    check.is(kernel, answer.own)
  end
  local asker = check.runtime():spawn("order-asker", { args = { b } })
  asker:send("x")
  local m = check.truthy(rk.receive(check.patience))
  check.is(asker, m.sender)
  check.is(b, m.own)
  check.truthy(asker:stop())
end)

check.case("rk_priority, and priorities of answers", function()
  local kernel = check.spawn("envelope")
  for _, priority in ipairs { 0, 1, 63, 64, 128, 159, 160, 223, 224, 255 } do
    check.equal(priority, kernel:call(Ask { n = 1, priority = priority }).urgency)
  end
  check.equal(128, kernel:call(Ask { n = 1 }).urgency)
end)

check.case("waiting messages are taken by priority, and in order inside of a band", function()
  -- Launched but not active: all wait. What is already on the device is not overtaken, so the first
  -- messages may come before more urgent ones; inside a band nothing overtakes.
  local kernel, answers = check.runtime():launch("envelope"), {}
  local COUNT, bands = 240, { 10, 100, 200, 250 }
  for i = 1, COUNT do
    check.truthy(kernel:send(Ask { n = i, priority = bands[i % 4 + 1] }))
  end
  check.truthy(kernel:activate())
  local place = {}
  for i = 1, COUNT do
    answers[i] = check.receive(Envelope)
    place[answers[i].n] = i
  end
  for i = 1, COUNT - 4 do
    check.truthy(place[i] < place[i + 4], ("message %d before %d"):format(i, i + 4))
  end
  check.equal(COUNT, #answers)
end)

check.case("a reply carries the correlation of its request", function()
  local kernel = check.spawn("envelope")
  for i = 1, 20 do
    local request = Ask { n = i }
    local id = tostring(request.message_id)
    check.truthy(kernel:send(request))
    local answer, from = check.receive(Envelope)
    check.is(kernel, from)
    check.equal(id, tostring(answer.correlation_id))
    check.equal(i, answer.n)
  end
end)

check.finish()
