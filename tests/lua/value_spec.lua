-- Plain Lua values to MessagePack and back.
local rk = require "rk"

local function back(value)
  return rk.unpack(rk.pack(value))
end

local function fails(pattern, value)
  local ok, err = pcall(rk.pack, value)
  assert.is_false(ok)
  assert(tostring(err):find(pattern, 1, true), ("expected '%s' in: %s"):format(pattern, err))
end

local function malformed(bytes, pattern, expected_code)
  local value, message, code = rk.unpack(bytes)
  assert.is_nil(value)
  assert.equal(expected_code or "EFORMAT", code)
  assert(message:find(pattern, 1, true), ("expected '%s' in: %s"):format(pattern, message))
end

describe("rk.pack", function()
  it("writes the bytes of the MessagePack standard", function()
    assert.equal("\xc0", rk.pack(nil))
    assert.equal("\xc3", rk.pack(true))
    assert.equal("\x07", rk.pack(7))
    assert.equal("\xff", rk.pack(-1))
    assert.equal("\xcd\x01\x00", rk.pack(256))
    assert.equal("\xcb\x3f\xf0\0\0\0\0\0\0", rk.pack(1.0))
    assert.equal("\xa3abc", rk.pack("abc"))
    assert.equal("\xc4\x02\xff\xfe", rk.pack("\xff\xfe"))
    assert.equal("\x93\1\2\3", rk.pack({ 1, 2, 3 }))
    assert.equal("\x81\xa1a\1", rk.pack({ a = 1 }))
    assert.equal("\x90", rk.pack({}))
    assert.equal("\x81\x02\x01", rk.pack({ [2] = 1 }))
  end)

  it("chooses str for UTF-8 and bin for everything else", function()
    local texts = { "", "plain ascii text", "ä", "€uro", "\u{10FFFF}", "12345678é", "a\0b" }
    for _, text in ipairs(texts) do
      assert.equal(0xa0 + #text, rk.pack(text):byte(1), text)
    end
    local others = { "\x80", "\xc0\x80", "\xc1\xbf", "\xe0\x80\x80", "\xed\xa0\x80", "\xf4\x90\x80\x80",
      "\xf5\x80\x80\x80", "\xc3", "\xe2\x82", "ok\xff", "12345678\xff", "\xe2\x82\x41" }
    for _, bytes in ipairs(others) do
      assert.equal(0xc4, rk.pack(bytes):byte(1), bytes)
      assert.equal(bytes, back(bytes))
    end
  end)

  it("keeps values as they are", function()
    for _, value in ipairs { 0, 1, -1, 127, 128, -32, -33, 255, 256, 65535, 65536, 1 << 31, 1 << 32,
      math.maxinteger, math.mininteger, 0.0, -0.5, 1e300, math.huge, "", "x", true, false,
      ("y"):rep(70000) } do
      assert.equal(value, back(value))
      assert.equal(math.type(value), math.type(back(value)))
    end
    local nan = back(0 / 0)
    assert.truthy(nan ~= nan)
    assert.is_nil((rk.unpack("\xc0")))
  end)

  it("keeps tables as they are", function()
    local value = { 1, "two", { three = 3, [4] = "vier", [true] = false, [-1.5] = {} }, { { {} } } }
    assert.same(value, back(value))
    local sparse = { [1] = 1, [2] = 2, [5] = 5 }
    assert.same(sparse, back(sparse))
    local mixed = { 1, 2, n = 2 }
    assert.same(mixed, back(mixed))
    local long = {}
    for i = 1, 70000 do long[i] = i end
    assert.same(long, back(long))
    local wide = {}
    for i = 1, 70000 do wide["k" .. i] = i end
    assert.same(wide, back(wide))
  end)

  it("writes maps of every header size", function()
    local t = {}
    for i = 1, 70 do
      t["k" .. i] = i
      local bytes = rk.pack(t)
      assert.equal(i < 16 and 0x80 + i or 0xde, bytes:byte(1))
      assert.same(t, rk.unpack(bytes))
      assert.same({ a = t, b = { t } }, back({ a = t, b = { t } }))
    end
  end)

  it("tells a hole from the end", function()
    local t = { nil, 2, x = 1 }
    assert.same(t, back(t))
    t = { 1, nil, 3 }
    assert.same(t, back(t))
  end)

  it("carries pids as values and keys", function()
    local pid = rk.self()
    assert.equal(pid, back(pid))
    assert.equal(pid, back({ who = pid }).who)
    assert.equal("me", back({ [pid] = "me" })[pid])
  end)

  it("carries typed messages inside tables", function()
    local Point = rk.message("ValueSpecPoint", { x = "f64" })
    local t = back({ at = Point { x = 3 }, list = { Point { x = 4 } } })
    assert.equal("ValueSpecPoint", t.at.type)
    assert.equal(3.0, t.at.x)
    assert.equal(4.0, t.list[1].x)
  end)

  it("leaves maps of unknown types as tables", function()
    assert.same({ __type = "NobodyDefinedThis", a = 1 },
      rk.unpack("\x82\xa6__type\xb1NobodyDefinedThis\xa1a\1"))
  end)

  it("reads tables raw", function()
    local t = setmetatable({ 1 }, { __len = function() return 9 end, __index = { x = 1 } })
    assert.same({ 1 }, back(t))
  end)

  it("names what cannot be sent by its path", function()
    fails("the value is a function", print)
    fails("field .a.b[3] is a function", { a = { b = { 1, 2, print } } })
    fails("field .t is a thread", { t = coroutine.create(print) })
    fails("field .f is a userdata", { f = io.stdout })
    fails("field [2.5] is a function", { [2.5] = print })
    fails("field [7] is a function", { [7] = print })
    fails("has a table as its key", { [{}] = 1 })
    fails("field .x[function] has a function as its key", { x = { [print] = 1 } })
  end)

  it("refuses cycles and depth", function()
    local t = { a = {} }
    t.a.b = t
    fails("field .a.b is a table that contains itself", t)
    local shared = {}
    assert.same({ {}, {} }, back({ shared, shared }))
    local deep = {}
    for _ = 1, 31 do deep = { deep } end
    assert.same(deep, back(deep))
    fails("deeper than 32 tables", { deep })
  end)

  it("wants an argument", function()
    assert.has_error(function() rk.pack() end)
    assert.has_error(function() rk.unpack() end)
    assert.has_error(function() rk.unpack({}) end)
  end)
end)

describe("rk.unpack", function()
  it("reads what others write", function()
    assert.equal(1.5, rk.unpack("\xca\x3f\xc0\0\0"))
    assert.equal(2.0 ^ 64, rk.unpack("\xcf" .. ("\xff"):rep(8)))
    assert.equal("01234567-89ab-cdef-0123-456789abcdef",
      rk.unpack("\xd8\x02\x01\x23\x45\x67\x89\xab\xcd\xef\x01\x23\x45\x67\x89\xab\xcd\xef"))
    assert.same({ ext = -1, data = "\0\0\0\1" }, rk.unpack("\xd6\xff\0\0\0\1"))
    assert.equal("add", tostring(rk.unpack("\xc7\x03\x03add")))
    assert.equal("\xc7\x03\x03add", rk.pack(rk.unpack("\xc7\x03\x03add")))
    assert.same({ [2] = 2 }, rk.unpack("\x92\xc0\x02"))
  end)

  it("says where malformed bytes are", function()
    malformed("", "byte 0")
    malformed("\x92\x01", "follow")
    malformed("\xa5abc", "byte 1")
    malformed("\x01\x02", "after the end of the value at byte 1")
    malformed("\xc1", "byte 0")
    malformed("\x81\xc0\x01", "nil as the key")
    malformed("\x81\xcb\x7f\xf8\0\0\0\0\0\0\x01", "NaN as the key")
    malformed(("\x91"):rep(33) .. "\x01", "inside each other", "ELIMIT")
    assert.same("table", type(rk.unpack(("\x91"):rep(32) .. "\x01")))
  end)

  it("does not believe lengths", function()
    local before = collectgarbage("count")
    malformed("\xdd\xff\xff\xff\xff", "follow")
    malformed("\xdf\xff\xff\xff\xff\x01\x01", "follow")
    malformed("\xdb\xff\xff\xff\xffabc", "follow")
    malformed("\xc6\xff\xff\xff\xffabc", "follow")
    assert.truthy(collectgarbage("count") - before < 1024)
  end)

  it("refuses a typed form that is wrong", function()
    rk.message("ValueSpecWrong", { x = "u8" })
    local value, message = rk.unpack("\x82\xa6__type\xaeValueSpecWrong\xa1x\xcd\xff\xff")
    assert.is_nil(value)
    assert(message:find("'x'", 1, true), message)
  end)

  it("gives a value or a reason for any bytes", function()
    local seed = 12345
    local function random(n)
      seed = (seed * 1103515245 + 12345) % 2147483648
      return seed // 65536 % n
    end
    local values = 0
    for _ = 1, 5000 do
      local bytes = {}
      for i = 1, random(24) + 1 do bytes[i] = string.char(random(4) == 0 and random(256)
        or (0x80 + random(0x70))) end
      local ok, _, message, code = pcall(rk.unpack, table.concat(bytes))
      assert.is_true(ok)
      if message == nil then
        values = values + 1
      else
        assert.truthy(code == "EFORMAT" or code == "ELIMIT", code)
      end
    end
    assert.truthy(values > 0)
  end)
end)
