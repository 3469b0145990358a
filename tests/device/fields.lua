-- fields.lua: every type of field, read and written by handlers. Handlers do something with what
-- they get (complement, reverse, negate), so that an echo of the bytes alone would not pass.

local rk = require "rk"
local check = dofile((arg[0]:gsub("[^/]*$", "")) .. "check.lua")

-- ---- integers -----------------------------------------------------------------------------------

local RANGES = {
  i8 = { -128, 127 }, i16 = { -32768, 32767 }, i32 = { -2147483648, 2147483647 },
  i64 = { math.mininteger, math.maxinteger },
  u8 = { 0, 255 }, u16 = { 0, 65535 }, u32 = { 0, 4294967295 }, u64 = { 0, -1 }, -- -1 is 2^64-1
}
local Integers = rk.message("FieldIntegers", { a = "i8", b = "i16", c = "i32", d = "i64", e = "u8",
  f = "u16", g = "u32", h = "u64" })

check.kernel("complement", {
  accepts = Integers, replies = Integers,
  source = [[
    RK_ON(FieldIntegers, m)
    {
        rk_reply(ctx, FieldIntegers, .a = (int8_t)~m->a, .b = (int16_t)~m->b, .c = ~m->c,
                 .d = ~m->d, .e = (uint8_t)~m->e, .f = (uint16_t)~m->f, .g = ~m->g, .h = ~m->h);
    }
  ]],
})

-- ~n as a field of this type reads.
local function complement(kind, n)
  local range = RANGES[kind]
  return kind:sub(1, 1) == "u" and range[2] ~ n or ~n
end

check.case("integers of all widths, with extreme values", function()
  local kernel = check.spawn("complement")
  local kinds = Integers:fields()
  local values = {
    function(range) return range[1] end, function(range) return range[2] end,
    function() return 0 end, function() return 1 end, function() return 100 end,
    function(range) return range[1] == 0 and 3 or -3 end,
    function(range) return range[2] >> 1 end,
  }
  for i, value in ipairs(values) do
    local given, expected = {}, {}
    for name, kind in pairs(kinds) do
      given[name] = value(RANGES[kind])
      expected[name] = complement(kind, given[name])
    end
    check.equal(expected, kernel:call(Integers(given)):table(), "value " .. i)
  end
end)

-- ---- floats, bool -------------------------------------------------------------------------------

local Floats = rk.message("FieldFloats", { f = "f32", d = "f64" })
local Seen = rk.message("FieldSeen", { f = "f32", d = "f64", f_bits = "u32", d_bits = "u64", nan = "bool",
  negative = "bool" })

check.kernel("floats", {
  accepts = Floats, replies = Seen,
  source = [[
    RK_ON(FieldFloats, m)
    {
        union { float f; uint32_t bits; } f;
        union { double d; uint64_t bits; } d;
        f.f = m->f;
        d.d = m->d;
        rk_reply(ctx, FieldSeen, .f = m->f, .d = m->d, .f_bits = f.bits, .d_bits = d.bits,
                 .nan = m->d != m->d, .negative = m->d < 0);
    }
  ]],
})

check.case("floats, with infinities, nan, -0.0 and subnormals", function()
  local kernel = check.spawn("floats")
  local single = { 0.0, -0.0, 1.5, -1.5, math.huge, -math.huge, 0 / 0, 2.0 ^ -149, -(2.0 ^ -126),
    (2 - 2.0 ^ -23) * 2.0 ^ 127, 0.1 }
  local double = { 0.0, -0.0, 0.1, -0.1, math.huge, -math.huge, 0 / 0, 2.0 ^ -1074, -(2.0 ^ -1022),
    (2 - 2.0 ^ -52) * 2.0 ^ 1023, 1 / 3 }
  for i = 1, #double do
    local f, d = string.unpack("f", string.pack("f", single[i])), double[i]
    local seen = kernel:call(Floats { f = f, d = d })
    check.equal(f, seen.f)
    check.equal(d, seen.d)
    check.equal(d ~= d, seen.nan)
    check.equal(d < 0, seen.negative)
    if d == d then
      check.equal(string.unpack("I4", string.pack("f", f)), seen.f_bits)
      check.equal(string.unpack("i8", string.pack("d", d)), seen.d_bits)
    end
  end
end)

local Flags = rk.message("FieldFlags", { yes = "bool", no = "bool", many = "bool[9]" })

check.kernel("flags", {
  accepts = Flags, replies = Flags,
  source = [[
    RK_ON(FieldFlags, m)
    {
        FieldFlags *r = rk_reply_begin(ctx, FieldFlags);
        if (rk_thread(ctx) == 0) {
            r->yes = !m->no;
            r->no = m->yes;
            r->many_count = m->many_count;
        }
        RK_FOR (i, m->many_count) r->many[i] = !m->many[i];
        rk_reply_end(ctx);
    }
  ]],
})

check.case("bool, and arrays of it", function()
  local kernel = check.spawn("flags")
  local r = kernel:call(Flags { yes = true, no = true, many = { true, false, false, true, true } })
  check.equal(false, r.yes)
  check.equal(true, r.no)
  check.equal({ false, true, true, false, false }, check.list(r.many))
  check.equal({}, check.list(kernel:call(Flags {}).many))
end)

-- ---- uuid, pid ----------------------------------------------------------------------------------

local Ids = rk.message("FieldIds", { id = "uuid", other = "uuid", who = "pid", nobody = "pid" })

check.kernel("ids", {
  accepts = Ids, replies = Ids,
  source = [[
    static rk_uuid reversed(rk_uuid id)
    {
        rk_uuid r;
        for (int i = 0; i < 16; i++) r.bytes[i] = id.bytes[15 - i];
        return r;
    }
    RK_ON(FieldIds, m)
    {
        rk_reply(ctx, FieldIds, .id = reversed(m->id), .other = m->id, .who = rk_self(ctx),
                 .nobody = m->who);
    }
  ]],
})

check.case("uuid and pid", function()
  local kernel = check.spawn("ids")
  local r = kernel:call(Ids { id = "00112233-4455-6677-8899-aabbccddeeff", who = rk.self() })
  check.equal("ffeeddcc-bbaa-9988-7766-554433221100", tostring(r.id))
  check.equal("00112233-4455-6677-8899-aabbccddeeff", tostring(r.other))
  check.is(kernel, r.who)
  check.is(rk.self(), r.nobody)
  check.is(Ids { id = r.id }.id, r.id)
end)

-- ---- arrays -------------------------------------------------------------------------------------

local KINDS = { "i8", "i16", "i32", "i64", "u8", "u16", "u32", "u64", "f32", "f64" }
local MOST = 13
local fields, code = {}, {}
for i, kind in ipairs(KINDS) do
  local f = "v_" .. kind
  fields[f] = ("%s[%d]"):format(kind, MOST + i)
  code[i] = ([[
        if (rk_thread(ctx) == 0) r->FIELD_count = m->FIELD_count;
        RK_FOR (i, m->FIELD_count) r->FIELD[i] = m->FIELD[(int)m->FIELD_count - 1 - i];]]):gsub("FIELD", f)
end
local Arrays = rk.message("FieldArrays", fields)

check.kernel("reverse", {
  accepts = Arrays, replies = Arrays,
  source = "RK_ON(FieldArrays, m)\n{\n        FieldArrays *r = rk_reply_begin(ctx, FieldArrays);\n"
    .. table.concat(code, "\n") .. "\n        rk_reply_end(ctx);\n}\n",
})

check.case("arrays of every number type with no, one and all elements", function()
  local kernel = check.spawn("reverse")
  for _, fill in ipairs { 0, 1, 2, MOST, "all" } do
    local given, expected = {}, {}
    for i, kind in ipairs(KINDS) do
      local n, field, range = fill == "all" and MOST + i or fill, "v_" .. kind, RANGES[kind]
      given[field], expected[field] = {}, {}
      for k = 1, n do
        local value = range and (k % 3 == 0 and range[1] or k % 3 == 1 and range[2] or k) or k * 0.5
        given[field][k], expected[field][n + 1 - k] = value, value
      end
    end
    local answer = kernel:call(Arrays(given))
    for _, kind in ipairs(KINDS) do
      local field = "v_" .. kind
      check.equal(expected[field], check.list(answer[field]), field .. " with " .. fill)
    end
  end
end)

local Lists = rk.message("FieldLists", { ids = "uuid[3]", pids = "pid[4]" })

check.kernel("lists", {
  accepts = Lists, replies = Lists,
  source = [[
    RK_ON(FieldLists, m)
    {
        FieldLists *r = rk_reply_begin(ctx, FieldLists);
        RK_FOR (i, m->ids_count) r->ids[i] = m->ids[(int)m->ids_count - 1 - i];
        RK_FOR (i, m->pids_count) r->pids[i] = m->pids[(int)m->pids_count - 1 - i];
        if (rk_thread(ctx) == 0) {
            r->ids_count = m->ids_count;
            r->pids_count = m->pids_count;
        }
        rk_reply_end(ctx);
    }
  ]],
})

check.case("arrays of uuid and pid", function()
  local kernel = check.spawn("lists")
  local one, two = "00000000-0000-0000-0000-000000000001", "fedcba98-7654-3210-fedc-ba9876543210"
  local r = kernel:call(Lists { ids = { one, two }, pids = { rk.self(), kernel, kernel } })
  check.equal(2, #r.ids)
  check.equal(two, tostring(r.ids[1]))
  check.equal(one, tostring(r.ids[2]))
  check.equal(3, #r.pids)
  check.is(kernel, r.pids[1])
  check.is(rk.self(), r.pids[3])
end)

-- ---- strings, bytes -----------------------------------------------------------------------------

local Text = rk.message("FieldText", { s = "string[40]", b = "bytes[70]" })

check.kernel("text", {
  accepts = Text, replies = Text,
  source = [[
    RK_ON(FieldText, m)
    {
        FieldText *r = rk_reply_begin(ctx, FieldText);
        RK_FOR (i, m->s_count) r->s[i] = m->s[(int)m->s_count - 1 - i];
        RK_FOR (i, m->b_count) r->b[i] = (uint8_t)(m->b[i] ^ 0xff);
        if (rk_thread(ctx) == 0) {
            r->s_count = m->s_count;
            r->b_count = m->b_count;
        }
        rk_reply_end(ctx);
    }
  ]],
})

check.case("strings and bytes of no, one and all bytes", function()
  local kernel = check.spawn("text")
  local bytes = {}
  for i = 1, 70 do bytes[i] = string.char((i * 37) % 256) end
  for _, n in ipairs { 0, 1, 2, 31, 39, 40 } do
    local s = ("abcdefghijklmnopqrstuvwxyz0123456789-+/ "):sub(1, n)
    local b = table.concat(bytes, "", 1, n * 7 // 4)
    local r = kernel:call(Text { s = s, b = b })
    check.equal(s:reverse(), r.s)
    check.equal(b:gsub(".", function(c) return string.char(c:byte() ~ 255) end), r.b)
  end
  check.equal("\0b\0a", kernel:call(Text { s = "a\0b\0" }).s)
  check.equal(("\0"):rep(70), kernel:call(Text { b = ("\xff"):rep(70) }).b)
end)

-- ---- nested types -------------------------------------------------------------------------------

local Point = rk.message("FieldPoint", { x = "f32", y = "f64", tag = "u8" })
rk.message("FieldPath", { start = "FieldPoint", stop = "FieldPoint", steps = "i16[5]" })
local Trip = rk.message("FieldTrip", { path = "FieldPath", home = "FieldPoint", title = "string[8]",
  one = "u8" })

check.kernel("nested", {
  accepts = Trip, replies = Trip,
  source = [[
    RK_ON(FieldTrip, m)
    {
        FieldTrip *r = rk_reply_begin(ctx, FieldTrip);
        if (rk_thread(ctx) == 0) {
            *r = *m;
            r->path.start = m->path.stop;
            r->path.stop = m->path.start;
            r->path.steps_count = m->path.steps_count + 1;
            r->path.steps[m->path.steps_count] = -1;
            r->home.x = m->home.x * 2;
            r->home.tag = (uint8_t)(m->home.tag + 1);
            r->one = m->title_count > 0 ? (uint8_t)m->title[0] : (uint8_t)0;
        }
        rk_reply_end(ctx);
    }
  ]],
})

check.case("types inside types", function()
  local kernel = check.spawn("nested")
  local r = kernel:call(Trip {
    path = { start = Point { x = 1, y = 2, tag = 3 }, stop = { x = 4, y = 5, tag = 6 }, steps = { 7, 8, 9 } },
    home = { x = 10, y = 11, tag = 12 }, title = "journey", one = 1,
  })
  check.equal({
    path = { start = { x = 4.0, y = 5.0, tag = 6 }, stop = { x = 1.0, y = 2.0, tag = 3 },
      steps = { 7, 8, 9, -1 } },
    home = { x = 20.0, y = 11.0, tag = 13 }, title = "journey", one = ("j"):byte(),
  }, r:table())
  r = kernel:call(Trip {})
  check.equal({ -1 }, check.list(r.path.steps))
  check.equal(1, r.home.tag)
end)

check.case("a count above what a field holds is refused", function()
  local Wild = rk.message("FieldWild", { n = "u32" })
  local Few = rk.message("FieldFew", { v = "u8[4]" })
  check.kernel("wild", {
    accepts = Wild, replies = Few,
    source = "RK_ON(FieldWild, m) { rk_reply(ctx, FieldFew, .v_count = m->n); }",
  })
  local kernel = check.spawn("wild")
  check.equal({ 0, 0, 0, 0 }, check.list(kernel:call(Wild { n = 4 }).v))
  check.fails("EHANDLER", "'v' has 5 elements, at most 4", kernel:try_call(Wild { n = 5 }))
  check.equal({}, check.list(kernel:call(Wild {}).v))
end)

check.finish()
