-- Message types and messages as Lua sees them.
local rk = require "rk"

local Point = rk.message("SpecPoint", { x = "f64", y = "f64" })
local Request = rk.message("SpecRequest", {
  flag = "bool", small = "i8", wide = "i64", huge = "u64", byte = "u8",
  ratio = "f32", exact = "f64", id = "uuid", who = "pid",
  values = "f32[8]", counts = "i32[4]", marks = "bool[4]",
  text = "string[16]", blob = "bytes[4]", at = Point,
})

local function fails(pattern, fn, ...)
  local ok, err = pcall(fn, ...)
  assert.is_false(ok)
  err = tostring(type(err) == "table" and err.message or err)
  assert(err:find(pattern, 1, true), ("expected '%s' in: %s"):format(pattern, err))
end

describe("rk.message", function()
  it("gives one object per type", function()
    assert.equal(Point, rk.message("SpecPoint", { y = "f64", x = "f64" }))
    assert.equal(Point, rk.message("SpecPoint"))
    assert.equal("message type SpecPoint", tostring(Point))
  end)

  it("describes the type", function()
    assert.equal("SpecPoint", Point.name)
    assert.equal(16, Point.size)
    assert.truthy(Point.hash:match("^%x+$"))
    assert.equal(16, #Point.hash)
    assert.same({ x = "f64", y = "f64" }, Point:fields())
    assert.equal("SpecPoint", Request:fields().at)
    assert.equal("f32[8]", Request:fields().values)
    assert.truthy(Point:header():find("SpecPoint", 1, true))
    assert.truthy(Request:header():find("values_count", 1, true))
  end)

  it("looks types up and lists them when there is none", function()
    local type, message, code = rk.message("SpecNoSuchType")
    assert.is_nil(type)
    assert.truthy(message:find("SpecPoint", 1, true))
    assert.equal("ENOENT", code)
  end)

  it("refuses another schema and bad fields", function()
    fails("already exists with another schema", rk.message, "SpecPoint", { x = "f32" })
    fails("'x'", rk.message, "SpecBad", { x = "f33" })
    fails("'priority'", rk.message, "SpecBad", { priority = "u8" })
    fails("field 'x': expected a type", rk.message, "SpecBad", { x = 4 })
    fails("fields are written name", rk.message, "SpecBad", { "u8" })
    fails("zero byte", rk.message, "SpecBad", { x = "u8\0" })
    fails("string expected", rk.message, 12, {})
  end)
end)

describe("a message", function()
  it("is zero and empty where nothing is given", function()
    local m = Request()
    assert.equal(false, m.flag)
    assert.equal(0, m.small)
    assert.equal(0.0, m.exact)
    assert.equal("", m.text)
    assert.equal(0, #m.values)
    assert.is_nil(m.who)
    assert.equal(0.0, m.at.x)
    assert.equal("00000000-0000-0000-0000-000000000000", m.id)
  end)

  it("reads what was given", function()
    local m = Request {
      flag = true, small = -128, wide = math.mininteger, huge = 1 << 63, byte = 255.0,
      ratio = 0.5, exact = 0.1, id = "01234567-89AB-8cde-8123-456789abcdef", who = rk.self(),
      values = { 1, 2.5, -3 }, counts = { 7 }, marks = { true, false },
      text = "h\0llo", blob = "\xff\xfe", at = { x = 1, y = -2 },
    }
    assert.equal(true, m.flag)
    assert.equal(-128, m.small)
    assert.equal(math.mininteger, m.wide)
    assert.equal(1 << 63, m.huge)
    assert.equal(255, m.byte)
    assert.equal("integer", math.type(m.byte))
    assert.equal(0.5, m.ratio)
    assert.equal(0.1, m.exact)
    assert.equal("01234567-89ab-8cde-8123-456789abcdef", m.id)
    assert.equal(rk.self(), m.who)
    assert.equal("h\0llo", m.text)
    assert.equal("\xff\xfe", m.blob)
    assert.equal(-2.0, m.at.y)
    assert.equal("SpecPoint", m.at.type)
    assert.equal(2.5, m.values[2])
    assert.equal(7, m.counts[1])
    assert.equal(false, m.marks[2])
    assert.equal("SpecRequest", m.type)
  end)

  it("has arrays that read as sequences", function()
    local m = Request { values = { 1, 2, 3 } }
    assert.equal(3, #m.values)
    assert.is_nil(m.values[0])
    assert.is_nil(m.values[4])
    assert.is_nil(m.values["1"])
    local seen = {}
    for i, v in ipairs(m.values) do seen[i] = v end
    assert.same({ 1, 2, 3 }, seen)
    seen = {}
    for i, v in pairs(m.values) do seen[i] = v end
    assert.same({ 1, 2, 3 }, seen)
    assert.same({ 1, 2, 3 }, m.values:table())
    assert.equal("[3] 1, 2, 3", tostring(m.values))
    assert.equal("[4] 1, 2, 3, ...", tostring(Request { values = { 1, 2, 3, 4 } }.values))
    assert.same({ 1, 2, 3 }, { table.unpack(m.values) })
  end)

  it("gives plain tables and iterates its fields", function()
    local m = Request { byte = 3, counts = { 1, 2 }, at = { x = 4 } }
    local plain = m:table()
    assert.same({ x = 4.0, y = 0.0 }, plain.at)
    assert.same({ 1, 2 }, plain.counts)
    assert.equal(3, plain.byte)
    local names = {}
    for name, value in pairs(m) do
      names[name] = true
      if name == "byte" then assert.equal(3, value) end
    end
    for name in pairs(Request:fields()) do assert.truthy(names[name], name) end
  end)

  it("prints short", function()
    assert.equal("SpecPoint { x = 1, y = 0.25 }", tostring(Point { x = 1, y = 0.25 }))
    local One = rk.message("SpecPrint", { values = "f32[1000]" })
    assert.equal("SpecPrint { values = [5] 1, 2, 3, ... }",
      tostring(One { values = { 1, 2, 3, 4, 5 } }))
    local Text = rk.message("SpecPrintText", { text = "string[100]" })
    assert.equal('SpecPrintText { text = "a\\"\\x0a" }', tostring(Text { text = 'a"\n' }))
    assert.truthy(#tostring(Text { text = ("x"):rep(100) }) < 80)
    assert.truthy(#tostring(Request()) < 1000)
  end)

  it("is built from others", function()
    local p = Point { x = 1, y = 2 }
    local m = Request { at = p, values = { 9, 8 }, byte = 1, priority = 7 }
    assert.equal(2.0, m.at.y)
    local n = Request(m, { byte = 2 })
    assert.equal(2, n.byte)
    assert.equal(1, m.byte)
    assert.equal(8, n.values[2])
    assert.equal(7, n.priority)
    assert.same({ 9, 8 }, Request { values = m.values }.values:table())
    assert.same({ 9, 8 }, Request { counts = m.values }.counts:table())
    assert.equal(1.0, Point(m.at).x)
    assert.same({ 5 }, Request(n, { values = { 5 } }).values:table())
    fails("got a message of type 'SpecPoint'", Request, p)
    fails("expected a table or a message of type 'SpecPoint', got a message of type 'SpecRequest'",
      Request, { at = m })
  end)

  it("keeps the outer message alive through a view", function()
    local at, values
    do
      local m = Request { at = { x = 5 }, values = { 6 } }
      at, values = m.at, m.values
    end
    for _ = 1, 3 do collectgarbage() end
    for i = 1, 100 do Request { at = { x = -i }, values = { -i } } end
    assert.equal(5.0, at.x)
    assert.equal(6.0, values[1])
  end)

  it("does not change", function()
    local m = Request { values = { 1 } }
    fails("messages do not change", function() m.byte = 1 end)
    fails("SpecRequest(message, { byte", function() m.byte = 1 end)
    fails("messages do not change", function() m.values[1] = 1 end)
    assert.has_error(function() setmetatable(m, {}) end)
    assert.equal("SpecRequest", getmetatable(m))
  end)

  it("names the fields when one does not exist", function()
    fails("has no field 'valeus'", function() return Request().valeus end)
    fails("values", function() return Request().valeus end)
    fails("by name", function() return Request()[1] end)
    fails("has no field 'valeus'", Request, { valeus = 1 })
    fails("has no field 'z'", Request, { at = { z = 1 } })
    fails("has no field 'priority'", Request, { at = { priority = 1 } })
    fails("expected names of fields as keys", Request, { 1, 2 })
  end)

  it("is closed with the scope that says so", function()
    local kept
    do
      local m <close> = Request { values = { 1 } }
      kept = m
    end
    fails("was closed", function() return kept.byte end)
    fails("was closed", function() return kept:table() end)
    fails("closed", function() return rk.pack(kept) end)
    fails("closed", Request, kept)
    assert.equal("SpecRequest (closed)", tostring(kept))
  end)

  it("does not fill memory that the collector cannot see", function()
    local Big = rk.message("SpecBig", { data = "u8[4096]" })
    local function resident()
      local f = assert(io.open("/proc/self/statm"))
      local _, pages = f:read("n", "n")
      f:close()
      return pages * 4096
    end
    for _ = 1, 2000 do Big { data = { 1, 2, 3 } } end
    local before = resident()
    for _ = 1, 50000 do Big { data = { 1, 2, 3 } } end -- 200 MB if nothing were freed
    assert.truthy(resident() - before < 32 * 1024 * 1024)
  end)
end)

describe("the constructor", function()
  local cases = {
    { { byte = 256 }, "SpecRequest: field 'byte': expected u8 (0 to 255), got 256" },
    { { byte = -1 }, "field 'byte': expected u8 (0 to 255), got -1" },
    { { byte = 1.5 }, "field 'byte': expected u8 (0 to 255), got 1.5" },
    { { byte = "1" }, "field 'byte': expected u8 (0 to 255), got the string \"1\"" },
    { { byte = 0 / 0 }, "field 'byte': expected u8" },
    { { small = -129 }, "field 'small': expected i8 (-128 to 127), got -129" },
    { { wide = 2 ^ 63 }, "field 'wide': expected i64" },
    { { huge = 2 ^ 64 }, "field 'huge': expected u64" },
    { { huge = -1.0 }, "field 'huge': expected u64" },
    { { ratio = 1e300 }, "field 'ratio': expected f32 (up to" },
    { { ratio = "x" }, "field 'ratio': expected f32, got the string \"x\"" },
    { { exact = {} }, "field 'exact': expected f64, got a table" },
    { { flag = 1 }, "field 'flag': expected bool, got 1" },
    { { id = "no" }, "field 'id': expected uuid" },
    { { id = 3 }, "field 'id': expected uuid" },
    { { who = 3 }, "field 'who': expected a pid, got 3" },
    { { text = ("x"):rep(17) }, "field 'text': expected string[16] (at most 16 bytes), got 17" },
    { { text = 5 }, "field 'text': expected string[16], got 5" },
    { { blob = "12345" }, "field 'blob': expected bytes[4] (at most 4 bytes), got 5" },
    { { values = { 1, 2, "x" } }, "field 'values[3]': expected f32, got the string \"x\"" },
    { { counts = { 1, 2 ^ 31 } }, "field 'counts[2]': expected i32" },
    { { marks = { 1 } }, "field 'marks[1]': expected bool, got 1" },
    { { values = { 1, 2, 3, 4, 5, 6, 7, 8, 9 } },
      "field 'values': expected f32[8] (at most 8 elements), got 9" },
    { { values = 3 }, "field 'values': expected f32[8] (a sequence), got 3" },
    { { at = 3 }, "field 'at': expected a table or a message of type 'SpecPoint', got 3" },
    { { at = { x = "a" } }, "SpecRequest: field 'at.x': expected f64, got the string \"a\"" },
    { { priority = 256 }, "field 'priority': expected a priority (0 to 255), got 256" },
    { { priority = "high" }, "field 'priority': expected a priority" },
    { { correlation_id = "x" }, "field 'correlation_id': expected uuid" },
    { { from = 1 }, "'from' is set by the runtime" },
    { { type = "x" }, "'type' is set by the runtime" },
  }
  for _, case in ipairs(cases) do
    it("says: " .. case[2], function() fails(case[2], Request, case[1]) end)
  end

  it("takes integers for the upper half of u64 as they read", function()
    assert.equal(-1, Request { huge = -1 }.huge)
    assert.equal(-1 << 63, Request { huge = 2.0 ^ 63 }.huge)
    assert.equal("SpecWrap { huge = 18446744073709551615 }",
      tostring(rk.message("SpecWrap", { huge = "u64" }) { huge = -1 }))
  end)

  it("takes floats that f32 has no room for only when they are no numbers", function()
    assert.equal(math.huge, Request { ratio = math.huge }.ratio)
    local nan = Request { ratio = 0 / 0 }.ratio
    assert.truthy(nan ~= nan)
  end)

  it("refuses other arguments", function()
    fails("expected a table of fields, got number", Request, 3)
    fails("takes a table of fields", Request, {}, {})
    fails("expected a table of fields, got string", Request, Request(), "x")
  end)
end)

describe("an array field", function()
  it("takes sequences only, and loses nothing", function()
    fails("SpecRequest: field 'values': expected a sequence, got a hole at 2", Request,
      { values = { [1] = 1, [3] = 3 } })
    fails("field 'values': expected a sequence, got a hole at 1", Request, { values = { [2] = 5 } })
    fails("got a hole at 2", Request, { values = { [1] = 1, [3] = 3, [5] = 5 } })
    fails("got a hole at 2", Request, { values = { 1, nil, 3 } })
    fails("field 'values': expected a sequence, got key 'a'", Request, { values = { a = 1 } })
    fails("expected a sequence, got key 'x'", Request, { values = { 1, 2, x = 3 } })
    fails("expected a sequence, got key '0'", Request, { values = { [0] = 1, 2 } })
    fails("expected a sequence, got key '1.5'", Request, { values = { 1, [1.5] = 2 } })
    fails("got a hole at 2", Request, { values = { [1] = 1, [1 << 40] = 2 } })
    fails("field 'values[2]': expected f32, got the string", Request, { values = { 1, "x" } })
    local t = {}
    for i = 4, 1, -1 do t[i] = i end -- in the hash part
    assert.same({ 1, 2, 3, 4 }, Request { counts = t }.counts:table())
    assert.equal(0, #Request { values = {} }.values)
  end)
end)

describe("a nested table", function()
  it("is named in errors", function()
    fails("SpecRequest: field 'at': message type 'SpecPoint' has no field 'z'; it has x y", Request,
      { at = { z = 1 } })
    fails("SpecRequest: field 'at': expected names of fields as keys, got number 1", Request,
      { at = { 1 } })
    fails("message type 'SpecPoint' has no field 'z'", Point, { z = 1 })
    fails("SpecPoint: expected names of fields as keys, got number 1", Point, { 1 })
  end)
end)

describe("an any field", function()
  local Inner = rk.message("SpecAnyInner", { v = "any[24]" })
  local Any = rk.message("SpecAny", { v = "any", inner = Inner, n = "u8" })

  it("holds any value", function()
    assert.same({ v = "any[1000]", inner = "SpecAnyInner", n = "u8" }, Any:fields())
    assert.is_nil(Any().v)
    local values = { 1, -2.5, "text", "\xff", true, false, {}, { 1, 2, { k = "v" } }, { [3] = "x" } }
    for _, value in ipairs(values) do
      local m = Any { v = value, inner = { v = 7 } }
      assert.same(value, m.v)
      assert.equal(7, m.inner.v)
      assert.same({ v = value, inner = { v = 7 }, n = 0 }, m:table())
      assert.same(m:table(), rk.unpack(m:pack()):table())
      assert.same(value, Any(m, { n = 3 }).v)
    end
    assert.equal(rk.self(), Any { v = rk.self() }.v)
    assert.equal(2.0, Any { v = Point { x = 2 } }.v.x)
    assert.is_nil(rk.unpack(Any():pack()).v)
  end)

  it("shows itself", function()
    assert.equal("SpecAnyInner { v = 5 }", tostring(Inner { v = 5 }))
    assert.equal('SpecAnyInner { v = "x" }', tostring(Inner { v = "x" }))
    assert.equal("SpecAnyInner { v = nil }", tostring(Inner()))
    assert.truthy(tostring(Inner { v = { 1, 2 } }):find("an array", 1, true))
  end)

  it("names itself in errors", function()
    fails("SpecAny: field 'inner.v': expected any[24]", Any, { inner = { v = ("x"):rep(24) } })
    fails("SpecAny: field 'v': the value is a function", Any, { v = print })
    local deep = 1
    for _ = 1, 16 do deep = { deep } end
    assert.same(deep, Any { v = deep }.v)
    fails("SpecAny: field 'v': more than 16 containers", Any, { v = { deep } })
  end)

  it("is refused by ring kernels", function()
    local Outer = rk.message("SpecAnyOuter", { inner = Inner })
    for _, T in ipairs { Inner, Outer } do
      fails("host only", rk.kernel, "spec_any", { accepts = { T },
        source = "RK_ON(" .. T.name .. ", m) { (void)m; }" })
    end
  end)
end)

describe("the envelope", function()
  local correlation = "01234567-89ab-8cde-8123-456789abcdef"

  it("has an id of its own", function()
    local a, b = Point(), Point()
    assert.truthy(a.message_id:match("^%x+%-%x+%-%x+%-%x+%-%x+$"))
    assert.equal(36, #a.message_id)
    assert.equal(a.message_id, a.message_id)
    assert.not_equal(a.message_id, b.message_id)
  end)

  it("is what the constructor was given", function()
    assert.equal(128, Point().priority)
    assert.is_nil(Point().correlation_id)
    assert.is_nil(Point().from)
    assert.is_nil(Point().sent)
    local m = Point { priority = 200, correlation_id = correlation, message_id = correlation, x = 1 }
    assert.equal(200, m.priority)
    assert.equal(correlation, m.correlation_id)
    assert.equal(correlation, m.message_id)
    assert.equal(1.0, m.x)
  end)

  it("travels in the MessagePack form", function()
    local m = Request { priority = 9, correlation_id = correlation, byte = 4, values = { 1, 2 },
      who = rk.self(), at = { y = 3 }, text = "ä", huge = -1 }
    local n = rk.unpack(m:pack())
    assert.equal("SpecRequest", n.type)
    assert.equal(9, n.priority)
    assert.equal(correlation, n.correlation_id)
    assert.same(m:table(), n:table())
    local again = rk.unpack(rk.pack(m))
    assert.same(m:table(), again:table())
    m = Point { x = 1 }
    local id = m.message_id
    assert.equal(id, rk.unpack(m:pack()).message_id)
    assert.equal(3.0, rk.unpack(n.at:pack()).y)
    assert.equal("SpecPoint", rk.unpack(n.at:pack()).type)
  end)
end)
