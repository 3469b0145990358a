-- sizes.lua: payloads of sizes around the borders of slots and arenas, in both directions, with
-- contents that every byte of counts.

local rk = require "rk"
local check = dofile((arg[0]:gsub("[^/]*$", "")) .. "check.lua")

-- The checksum of handlers and of this script: each byte counts by its place.
local HASH = [[
    static unsigned long long weighed(int place, uint8_t byte)
    {
        return (unsigned long long)(byte + 1) * (2654435761u + 2u * (unsigned)place);
    }
]]
local function checksum(bytes)
  local sum = 0
  for i = 1, #bytes do
    sum = sum + (bytes:byte(i) + 1) * ((2654435761 + 2 * (i - 1)) & 0xffffffff)
  end
  return sum
end

-- Byte number `place` (from 0) of contents number `seed`, here and in handlers.
local PATTERN = [[
    static uint8_t pattern(int place, uint32_t seed)
    {
        return (uint8_t)((unsigned)place * 73u + seed * 31u + (unsigned)place / 251u);
    }
]]
local function contents(size, seed)
  local t = {}
  for place = 0, size - 1 do
    t[place + 1] = string.char((place * 73 + seed * 31 + place // 251) & 255)
  end
  return table.concat(t)
end

-- Types of an exact size: parts without alignment, laid out by name. Kernels see raw bytes.
rk.message("SizePart16", { id = "uuid" })
rk.message("SizePart64", { a = "SizePart16", b = "SizePart16", c = "SizePart16", d = "SizePart16" })
local function shape(size)
  local parts, fields = {}, {}
  local function add(kind, bytes, letter)
    for i = 1, (size - (parts.used or 0)) // bytes do
      local name = ("%s%02d"):format(letter, i)
      fields[name] = kind
      parts[#parts + 1] = { name = name, bytes = bytes, at = parts.used or 0 }
      parts.used = (parts.used or 0) + bytes
    end
  end
  add("SizePart64", 64, "a")
  add("uuid", 16, "b")
  add("u8", 1, "c")
  local type = rk.message("Size" .. size, fields)
  check.equal(size, type.size)
  return { size = size, type = type, parts = parts }
end

local function part(bytes, text)
  if bytes == 1 then return text:byte() end
  if bytes == 16 then return text end
  return { a = { id = text:sub(1, 16) }, b = { id = text:sub(17, 32) }, c = { id = text:sub(33, 48) },
    d = { id = text:sub(49, 64) } }
end

local function build(s, text)
  local fields = {}
  for _, p in ipairs(s.parts) do fields[p.name] = part(p.bytes, text:sub(p.at + 1, p.at + p.bytes)) end
  return s.type(fields)
end

-- The bytes of a message of such a type, by way of its fields.
local function raw(id) return (tostring(id):gsub("-", ""):gsub("%x%x", function(x)
  return string.char(tonumber(x, 16))
end)) end
local function bytes_of(s, m)
  local t = {}
  for i, p in ipairs(s.parts) do
    local v = m[p.name]
    t[i] = p.bytes == 1 and string.char(v) or p.bytes == 16 and raw(v)
      or raw(v.a.id) .. raw(v.b.id) .. raw(v.c.id) .. raw(v.d.id)
  end
  return table.concat(t)
end

local EXACT = { 1, 15, 16, 31, 32, 33, 47, 48, 49, 64, 80, 81, 256, 367, 368, 369, 1000, 1009, 1024 }
local shapes, types = {}, {}
for i, size in ipairs(EXACT) do
  shapes[i] = shape(size)
  types[i] = shapes[i].type
end

-- ---- to the device ------------------------------------------------------------------------------

local Sum = rk.message("SizeSum", { sum = "u64", size = "u32" })
local Empty = rk.message("SizeEmpty", {})

local handlers = {}
for i, size in ipairs(EXACT) do
  handlers[i] = ("RK_ON(Size%d, m) { SUMMED(m, %d) }"):format(size, size)
end

check.kernel("weigh", {
  accepts = { Empty, table.unpack(types) }, replies = Sum,
  source = HASH .. [[
    #define SUMMED(m, bytes) \
        const uint8_t *raw = (const uint8_t *)(m); \
        unsigned long long sum = 0; \
        RK_FOR (i, bytes) sum += weighed(i, raw[i]); \
        sum = rk_block_sum(ctx, sum); \
        rk_reply(ctx, SizeSum, .sum = sum, .size = (uint32_t)sizeof(*m));
    RK_ON(SizeEmpty, m) { (void)m; rk_reply(ctx, SizeSum, .sum = 42); }
]] .. table.concat(handlers, "\n"),
})

check.case("a message without fields", function()
  local kernel = check.spawn("weigh")
  check.equal(42, kernel:call(Empty {}).sum)
end)

for _, options in ipairs { { block = 4 }, { block = 64, cpu_threads = 4 } } do
  check.case(("requests of exact sizes, block = %d"):format(options.block), function()
    local kernel = check.spawn("weigh", options)
    for _, s in ipairs(shapes) do
      for seed = 1, 3 do
        local text = contents(s.size, seed)
        local m = build(s, text)
        local answer = kernel:call(m)
        check.equal(checksum(text), answer.sum, s.size .. " bytes")
        check.equal(s.size, answer.size)
      end
    end
  end)
end

-- ---- from the device ----------------------------------------------------------------------------

local Ask = rk.message("SizeAsk", { size = "u32", seed = "u32", in_place = "bool" })

-- Values of rk_reply are made by functions that give a part of the pattern.
local cases = {}
for i, s in ipairs(shapes) do
  local values = {}
  for k, p in ipairs(s.parts) do
    values[k] = (".%s = part_%d(%d, m->seed)"):format(p.name, p.bytes, p.at)
  end
  cases[i] = ([[
    case SIZE:
        if (m->in_place) {
            uint8_t *raw = (uint8_t *)rk_reply_begin(ctx, SizeSIZE);
            RK_FOR (i, SIZE) raw[i] = pattern(i, m->seed);
            rk_reply_end(ctx);
        } else {
            rk_reply(ctx, SizeSIZE, VALUES);
        }
        break;]]):gsub("SIZE", s.size):gsub("VALUES", (table.concat(values, ", ")))
end

check.kernel("make", {
  accepts = { Ask }, replies = { Empty, table.unpack(types) },
  source = PATTERN .. [[
    static uint8_t part_1(int at, uint32_t seed) { return pattern(at, seed); }
    static rk_uuid part_16(int at, uint32_t seed)
    {
        rk_uuid id;
        for (int i = 0; i < 16; i++) id.bytes[i] = pattern(at + i, seed);
        return id;
    }
    static SizePart64 part_64(int at, uint32_t seed)
    {
        SizePart64 p;
        p.a.id = part_16(at, seed);
        p.b.id = part_16(at + 16, seed);
        p.c.id = part_16(at + 32, seed);
        p.d.id = part_16(at + 48, seed);
        return p;
    }
    RK_ON(SizeAsk, m)
    {
        switch (m->size) {
        case 0: rk_reply(ctx, SizeEmpty); break;
]] .. table.concat(cases, "\n") .. "\n        }\n    }\n",
})

for _, in_place in ipairs { false, true } do
  check.case("answers of exact sizes by " .. (in_place and "rk_reply_begin" or "rk_reply"), function()
    local kernel = check.spawn("make")
    check.equal("SizeEmpty", kernel:call(Ask { size = 0 }).type)
    for _, s in ipairs(shapes) do
      for seed = 1, 3 do
        local answer = kernel:call(Ask { size = s.size, seed = seed, in_place = in_place })
        check.equal("Size" .. s.size, answer.type)
        check.equal(contents(s.size, seed), bytes_of(s, answer), s.size .. " bytes")
      end
    end
  end)
end

-- ---- larger ones, both ways ---------------------------------------------------------------------

-- Bytes and their count: a struct of n + 4 bytes.
local LARGE = { 12, 44, 252, 996, 1000, 1020, 4092, 4096, 16380, 16384, 65536 }
local large = {}
handlers = {}
for i, n in ipairs(LARGE) do
  large[i] = rk.message("SizeBytes" .. n, { data = ("bytes[%d]"):format(n) })
  check.equal(n + 4, large[i].size)
  handlers[i] = ([[
    RK_ON(SizeBytesN, m)
    {
        SizeBytesN *r = rk_reply_begin(ctx, SizeBytesN);
        if (rk_thread(ctx) == 0) r->data_count = m->data_count;
        RK_FOR (i, m->data_count) r->data[i] = (uint8_t)(m->data[i] ^ pattern(i, 7));
        rk_reply_end(ctx);
    }]]):gsub("SizeBytesN", "SizeBytes" .. n)
end

check.kernel("mask", { accepts = large, replies = large, block = 32, cpu_threads = 2,
  source = PATTERN .. table.concat(handlers, "\n") })

local function masked(text)
  local t = {}
  for place = 0, #text - 1 do
    t[place + 1] = string.char(text:byte(place + 1) ~ ((place * 73 + 7 * 31 + place // 251) & 255))
  end
  return table.concat(t)
end

check.case("large messages there and back, empty, half full and full", function()
  local kernel = check.spawn("mask")
  for i, n in ipairs(LARGE) do
    for _, size in ipairs { 0, 1, n // 2, n - 1, n } do
      local text = contents(size, i)
      local answer = kernel:call(large[i] { data = text })
      check.equal(masked(text), answer.data, ("%d of %d bytes"):format(size, n))
    end
  end
end)

check.case("a hundred large messages under way at once", function()
  local kernel = check.spawn("mask")
  for k = 1, 100 do
    local i = k % #LARGE + 1
    check.truthy(kernel:send(large[i] { data = contents(math.min(LARGE[i], 5000), k) }))
  end
  for k = 1, 100 do
    local i = k % #LARGE + 1
    check.equal(masked(contents(math.min(LARGE[i], 5000), k)), check.receive(large[i]).data, "number " .. k)
  end
end)

check.finish()
