-- sanitize.lua [DEVICE]: a little of everything that a ring kernel does, short enough to be run under
-- compute-sanitizer, in mode "bounded": the tool may make a launch wait for its kernel's end, and
-- there the kernel ends by itself. Ends with the line "sanitize: N answers are right".

local rk = require "rk"

local Work = rk.message("SanitizeWork", { number = "u64", values = "f32[300]" })
local Done = rk.message("SanitizeDone", { number = "u64", sum = "f64", seen = "u64" })
local Copy = rk.message("SanitizeCopy", { number = "u64", data = "bytes[3000]" })

rk.kernel("sanitize", {
  accepts = { Work, Copy }, replies = { Done, Copy }, state = { seen = "u64" }, block = 64,
  source = [[
    RK_EVERY(0.01) { rk_sync(ctx); }
    RK_ON(SanitizeWork, m)
    {
        RK_SHARED(float, tile, [300]);
        double sum = 0;
        RK_FOR (i, m->values_count) tile[m->values_count - 1 - (uint32_t)i] = m->values[i];
        rk_sync(ctx);
        RK_FOR (i, m->values_count) sum += tile[i];
        sum = rk_block_sum(ctx, sum);
        if (rk_thread(ctx) == 0) rk_get_state(ctx)->seen++;
        rk_sync(ctx);
        rk_reply(ctx, SanitizeDone, .number = m->number, .sum = sum, .seen = rk_get_state(ctx)->seen);
    }
    RK_ON(SanitizeCopy, m)
    {
        SanitizeCopy *r = rk_reply_begin(ctx, SanitizeCopy);
        RK_FOR (i, m->data_count) r->data[i] = (uint8_t)~m->data[i];
        if (rk_thread(ctx) == 0) {
            r->number = m->number;
            r->data_count = m->data_count;
        }
        rk_reply_end(ctx);
    }
  ]],
})

local device = arg[1] or "cuda"
local runtime <close> = rk.runtime { device = device, mode = device ~= "cpu" and "bounded" or nil }
local kernel = runtime:spawn("sanitize")
local right = 0
for number = 1, 60 do
  local values, sum = {}, 0
  for i = 1, number * 5 do
    values[i] = i
    sum = sum + i
  end
  local done = kernel:timeout(60):call(Work { number = number, values = values })
  assert(done.number == number and done.sum == sum and done.seen == number, "a wrong sum")
  local data = string.char(number):rep(number * 50)
  local copy = kernel:timeout(60):call(Copy { number = number, data = data })
  assert(copy.number == number and copy.data == string.char(255 - number):rep(number * 50), "a wrong copy")
  right = right + 2
end
print(("sanitize: %d answers are right"):format(right))
