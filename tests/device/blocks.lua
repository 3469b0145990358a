-- blocks.lua: what the threads of a block do together, and several blocks of one instance. How many
-- threads a block has differs by device, so handlers say it and expectations are made from that.

local rk = require "rk"
local check = dofile((arg[0]:gsub("[^/]*$", "")) .. "check.lua")

-- Sizes of blocks: { threads on a GPU, threads on the cpu device }.
local ALONE = { 1, 1 } -- compiled on its own on the cpu device: barriers vanish
local SIZES = { { 4, 3 }, { 32, 2 }, { 64, 5 }, { 96, 2 }, ALONE }

local function each_size(fn, without_alone)
  for i = 1, #SIZES - (without_alone and 1 or 0) do
    local size = SIZES[i]
    fn(size, { block = size[1], cpu_threads = size[2] })
  end
end

-- ---- reductions ---------------------------------------------------------------------------------

local Job = rk.message("BlockJob", { base = "i32", salt = "u32" })
local NUMBERS = {
  { name = "Int", c = "int", field = "i32" },
  { name = "Unsigned", c = "unsigned", field = "u32" },
  { name = "Long", c = "int64_t", field = "i64" },
  { name = "ULong", c = "uint64_t", field = "u64" },
  { name = "LongLong", c = "long long", field = "i64" },
  { name = "Float", c = "float", field = "f32" },
  { name = "Double", c = "double", field = "f64" },
}
local OPERATIONS = { "sum", "min", "max", "last", "middle" }

-- The number of thread t; every sum of them is exact in each type.
local FACTOR = { Int = 1, Unsigned = 40, Long = 1 << 40, ULong = 1 << 50, LongLong = -(1 << 40), Float = 0.25,
  Double = 2.0 ^ -40 }

for _, n in ipairs(NUMBERS) do
  n.fields = { threads = "u32", scan_wrong = "u32" }
  for _, operation in ipairs(OPERATIONS) do n.fields[operation] = n.field end
  n.type = rk.message("Block" .. n.name, n.fields)
  local factor = math.type(FACTOR[n.name]) == "integer" and FACTOR[n.name] .. "ll" or
    ("%.17g"):format(FACTOR[n.name])
  -- The scan is checked where its values are: against a loop over the threads before.
  check.kernel("reduce-" .. n.name, {
    accepts = Job, replies = n.type,
    source = ([[
      static TYPE value(int thread, const BlockJob *m)
      {
          return (TYPE)((TYPE)((thread * 7 + (int)m->salt) % 101 + m->base) * (TYPE)FACTOR);
      }
      RK_ON(BlockJob, m)
      {
          int threads = (int)rk_threads(ctx), thread = (int)rk_thread(ctx);
          TYPE mine = value(thread, m), before = 0;
          TYPE scan = rk_block_scan(ctx, mine);
          for (int t = 0; t <= thread; t++) before += value(t, m);
          rk_reply(ctx, BlockNAME, .threads = (uint32_t)threads,
                   .scan_wrong = (uint32_t)rk_block_sum(ctx, scan != before ? 1 : 0),
                   .sum = rk_block_sum(ctx, mine), .min = rk_block_min(ctx, mine),
                   .max = rk_block_max(ctx, mine), .last = rk_broadcast(ctx, mine, (uint32_t)threads - 1),
                   .middle = rk_broadcast(ctx, scan, (uint32_t)threads / 2));
      }
    ]]):gsub("FACTOR", factor):gsub("TYPE", n.c):gsub("NAME", n.name),
  })
end

local function expected_of(n, threads, base, salt)
  local sum, least, most, last, middle = 0, nil, nil, nil, nil
  local u64 = n.field == "u64"
  for t = 0, threads - 1 do
    local v = ((t * 7 + salt) % 101 + base) * FACTOR[n.name]
    sum = sum + v
    if not least or (u64 and math.ult(v, least)) or (not u64 and v < least) then least = v end
    if not most or (u64 and math.ult(most, v)) or (not u64 and most < v) then most = v end
    if t == threads // 2 then middle = sum end
    last = v
  end
  return { threads = threads, scan_wrong = 0, sum = sum, min = least, max = most, last = last,
    middle = middle }
end

for _, n in ipairs(NUMBERS) do
  check.case("sum, min, max, scan and broadcast of " .. n.c, function()
    each_size(function(size, options)
      local kernel = check.spawn("reduce-" .. n.name, options)
      local unsigned = n.field:sub(1, 1) == "u"
      for _, base in ipairs { 0, 1, unsigned and 1000 or -50, unsigned and 7 or -1000 } do
        for salt = 0, 100, 50 do
          local answer = kernel:call(Job { base = base, salt = salt })
          check.truthy(answer.threads == size[1] or answer.threads == size[2], "threads of a block")
          check.equal(expected_of(n, answer.threads, base, salt), answer:table(),
            ("%d threads, base %d, salt %d"):format(answer.threads, base, salt))
        end
      end
      kernel:stop()
    end, n.name ~= "Int" and n.name ~= "Double")
  end)
end

local Truths = rk.message("BlockTruths", { threads = "u32", any = "bool", all = "bool", none = "bool" })

check.kernel("truths", {
  accepts = Job, replies = Truths,
  source = [[
    RK_ON(BlockJob, m)
    {
        uint32_t thread = rk_thread(ctx);
        rk_reply(ctx, BlockTruths, .threads = rk_threads(ctx),
                 .any = rk_block_any(ctx, (int)thread == m->base),
                 .all = rk_block_all(ctx, (int)thread != m->base),
                 .none = rk_block_any(ctx, thread >= rk_threads(ctx)));
    }
  ]],
})

check.case("any and all, for one thread after the other", function()
  each_size(function(_, options)
    local kernel = check.spawn("truths", options)
    local threads = kernel:call(Job {}).threads
    for thread = -1, threads do
      local answer = kernel:call(Job { base = thread })
      local inside = thread >= 0 and thread < threads
      check.equal({ threads = threads, any = inside, all = not inside, none = false }, answer:table())
    end
    kernel:stop()
  end)
end)

-- ---- loops and shared scratch -------------------------------------------------------------------

local Values = rk.message("BlockValues", { v = "i32[200]" })
local Check = rk.message("BlockCheck", { v = "i32[200]", w = "i64[200]", visits = "u32" })

check.kernel("exchange", {
  accepts = Values, replies = Check,
  source = [[
    RK_ON(BlockValues, m)
    {
        RK_SHARED(int, left, [200]);
        RK_SHARED(int64_t, right, [200]);
        int n = (int)m->v_count, visits = 0;
        RK_FOR (i, n) {
            left[i] = m->v[i];
            right[n - 1 - i] = (int64_t)m->v[i] * 1000000000ll;
            visits++;
        }
        rk_sync(ctx);
        BlockCheck *r = rk_reply_begin(ctx, BlockCheck);
        RK_FOR (i, n) {
            r->v[i] = left[(i + 1) % n];       /* another thread's */
            r->w[i] = right[i] + left[n - 1 - i];
        }
        visits = rk_block_sum(ctx, visits);
        if (rk_thread(ctx) == 0) {
            r->v_count = r->w_count = m->v_count;
            r->visits = (uint32_t)visits;
        }
        rk_reply_end(ctx);
    }
  ]],
})

check.case("two shared arrays, exchanged between threads", function()
  each_size(function(_, options)
    local kernel = check.spawn("exchange", options)
    for _, n in ipairs { 1, 2, 31, 32, 33, 95, 96, 97, 200 } do
      local v, shifted, other = {}, {}, {}
      for i = 1, n do v[i] = i * i - 3 * n end
      for i = 1, n do
        shifted[i] = v[i % n + 1]
        other[i] = v[n + 1 - i] * 1000000000 + v[n + 1 - i]
      end
      for _ = 1, 3 do
        local answer = kernel:call(Values { v = v })
        check.equal(shifted, check.list(answer.v), n .. " values")
        check.equal(other, check.list(answer.w), n .. " values")
        check.equal(n, answer.visits)
      end
    end
    kernel:stop()
  end)
end)

local Sorted = rk.message("BlockSorted", { v = "i32[200]" })

check.kernel("sort", {
  accepts = Values, replies = Sorted,
  source = [[
    RK_ON(BlockValues, m)
    {
        RK_SHARED(int, a, [200]);
        int n = (int)m->v_count;
        RK_FOR (i, n) a[i] = m->v[i];
        for (int round = 0; round < n; round++) { /* odd-even transposition */
            rk_sync(ctx);
            RK_FOR (k, n / 2) {
                int i = 2 * k + round % 2;
                if (i + 1 < n && a[i + 1] < a[i]) {
                    int x = a[i];
                    a[i] = a[i + 1];
                    a[i + 1] = x;
                }
            }
        }
        rk_sync(ctx);
        BlockSorted *r = rk_reply_begin(ctx, BlockSorted);
        RK_FOR (i, n) r->v[i] = a[i];
        if (rk_thread(ctx) == 0) r->v_count = m->v_count;
        rk_reply_end(ctx);
    }
  ]],
})

check.case("a sort with a barrier in each round", function()
  each_size(function(_, options)
    local kernel = check.spawn("sort", options)
    local seed = 12345
    for _, n in ipairs { 1, 2, 50, 151 } do
      local v = {}
      for i = 1, n do
        seed = (seed * 1103515245 + 12345) & 0x7fffffff
        v[i] = seed - 0x40000000
      end
      local answer = check.list(kernel:call(Values { v = v }).v)
      table.sort(v)
      check.equal(v, answer, n .. " values")
    end
    kernel:stop()
  end)
end)

local Full = rk.message("BlockFull", { sum = "u64" })

check.kernel("scratch", {
  accepts = Job, replies = Full,
  source = [[
    RK_ON(BlockJob, m)
    {
        RK_SHARED(uint32_t, big, [11000]);
        RK_FOR (i, 11000) big[i] = (uint32_t)i * 3u + m->salt;
        rk_sync(ctx);
        unsigned long long sum = 0;
        RK_FOR (i, 11000) sum += big[10999 - i];
        sum = rk_block_sum(ctx, sum);
        rk_reply(ctx, BlockFull, .sum = sum);
    }
  ]],
})

check.case("44,000 bytes of shared scratch", function()
  local kernel = check.spawn("scratch", { block = 64, cpu_threads = 2 })
  for salt = 0, 3 do
    check.equal(3 * (11000 * 10999 // 2) + 11000 * salt, kernel:call(Job { salt = salt }).sum)
  end
end)

-- ---- several blocks -----------------------------------------------------------------------------

local Shares = rk.message("BlockShares", { blocks = "u32", block = "u32", n = "i64" })

check.kernel("spmd", {
  accepts = { Values, Job }, replies = Shares, grid = 3,
  state = { share = "i64[16]", messages = "u32[16]", blocks = "u32" },
  source = [[
    RK_ON_START
    {
        rk_state *s = rk_get_state(ctx);
        if (rk_block(ctx) == 0 && rk_thread(ctx) == 0) s->share_count = s->messages_count = 16;
    }
    RK_ON(BlockValues, m) /* each block adds its part to its own place */
    {
        rk_state *s = rk_get_state(ctx);
        int blocks = (int)rk_blocks(ctx), block = (int)rk_block(ctx);
        int64_t sum = 0;
        RK_FOR (i, m->v_count) {
            if (i % blocks == block) sum += m->v[i];
        }
        sum = rk_block_sum(ctx, sum);
        if (rk_thread(ctx) == 0) {
            s->share[block] += sum;
            s->messages[block]++;
            if (block == 0) s->blocks = (uint32_t)blocks;
        }
        rk_reply(ctx, BlockShares, .blocks = (uint32_t)blocks, .block = (uint32_t)block, .n = sum);
    }
    RK_ON(BlockJob, m) /* what the others did for the messages before is there */
    {
        const rk_state *s = rk_get_state(ctx);
        int64_t sum = 0;
        for (int i = 0; i < (int)rk_blocks(ctx); i++) sum += s->share[i];
        rk_reply(ctx, BlockShares, .block = rk_block(ctx), .blocks = rk_blocks(ctx), .n = sum + m->base);
    }
  ]],
})

for _, threads in ipairs { 1, 4 } do
  check.case(("three blocks, %d threads on the cpu: all run each message, block 0 answers"):format(threads),
    function()
      local kernel = check.spawn("spmd", { cpu_threads = threads })
      local shares, total = { 0, 0, 0 }, 0
      for round = 1, 20 do
        local v = {}
        for i = 1, 200 do
          v[i] = i * round - 1000
          shares[(i - 1) % 3 + 1] = shares[(i - 1) % 3 + 1] + v[i]
          total = total + v[i]
        end
        local answer = kernel:call(Values { v = v })
        check.equal(3, answer.blocks)
        check.equal(0, answer.block)
        check.equal(total, kernel:call(Job {}).n, "round " .. round)
      end
      local s = kernel:state()
      for i = 1, 3 do
        check.equal(shares[i], s.share[i], "block " .. i)
        check.equal(20, s.messages[i])
      end
      check.equal(0, s.messages[4])
      check.equal(3, s.blocks)
      check.equal(40, kernel:info().received)
    end)
end

check.case("one block and three of the same definition, side by side", function()
  local one, three = check.spawn("spmd", { grid = 1, name = "one" }), check.spawn("spmd", { name = "three" })
  for i = 1, 10 do
    check.equal(1, one:call(Values { v = { i, i, i } }).blocks)
    check.equal(3, three:call(Values { v = { i, i, i } }).blocks)
  end
  check.equal({ 165, 0, 0 }, { table.unpack(check.list(one:state().share), 1, 3) })
  check.equal({ 55, 55, 55 }, { table.unpack(check.list(three:state().share), 1, 3) })
end)

check.finish()
