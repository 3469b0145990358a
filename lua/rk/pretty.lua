-- pretty.lua: Lua values as text for people: sorted keys, cycles, limits on depth, width and number
-- of items, colours when asked. The REPL echoes through it.

local pretty = {}

local colours = { string = "32", number = "36", boolean = "35", ["nil"] = "35", other = "33" }

local reserved = {}
for word in ([[and break do else elseif end false for function goto if in local nil not or repeat
               return then true until while]]):gmatch("%a+") do
  reserved[word] = true
end

local escapes = { ["\n"] = "\\n", ["\r"] = "\\r", ["\t"] = "\\t", ["\""] = "\\\"", ["\\"] = "\\\\" }

local function escape(c)
  return escapes[c] or ("\\x%02x"):format(c:byte())
end

local function quote(text, limit)
  local shown = #text > limit and text:sub(1, limit) or text
  -- Bytes above 127 stay when they are UTF-8, so that names in any script can be read.
  local pattern = utf8.len(shown) and "[%c\"\\]" or "[%c\"\\\x80-\xff]"
  local quoted = '"' .. shown:gsub(pattern, escape) .. '"'
  return #text > limit and ("%s... (%d bytes)"):format(quoted, #text) or quoted
end

-- Numbers first in their order, then strings, then the rest by type.
local function before(a, b)
  local ta, tb = math.type(a) and "1" or type(a), math.type(b) and "1" or type(b)
  if ta ~= tb then
    if ta == "1" or tb == "1" then return ta == "1" end
    if ta == "string" or tb == "string" then return ta == "string" end
    return ta < tb
  end
  if ta == "1" or ta == "string" then return a < b end
  return tostring(a) < tostring(b)
end

local function paint(state, kind, text)
  if not state.colour then return text end
  return "\27[" .. (colours[kind] or colours.other) .. "m" .. text .. "\27[0m"
end

local function scalar(state, value)
  local kind = type(value)
  if kind == "string" then return paint(state, kind, quote(value, state.text)) end
  local ok, text = pcall(tostring, value)
  return paint(state, kind, ok and text or ("<%s: __tostring failed>"):format(kind))
end

local render

local function key_text(state, key)
  if type(key) == "string" and key:match("^[%a_][%w_]*$") and not reserved[key] then return key end
  return "[" .. (type(key) == "table" and tostring(key) or scalar(state, key)) .. "]"
end

-- The items of a table as texts: the sequence without keys, then the other keys in order. Also how
-- many texts belong to the sequence.
local function items(state, value, depth)
  local texts, keys, length = {}, {}, rawlen(value)
  for key in next, value do
    if not (math.type(key) == "integer" and key >= 1 and key <= length) then
      keys[#keys + 1] = key
    end
  end
  table.sort(keys, before)
  for i = 1, math.min(length, state.items) do
    texts[#texts + 1] = render(state, rawget(value, i), depth + 1)
  end
  local sequence = #texts
  for i = 1, math.min(#keys, state.items - #texts) do
    local shown = render(state, rawget(value, keys[i]), depth + 1)
    texts[#texts + 1] = key_text(state, keys[i]) .. " = " .. shown
  end
  local left = length + #keys - #texts
  if left > 0 then texts[#texts + 1] = ("... (%d more)"):format(left) end
  return texts, sequence
end

local function visible_width(text)
  local plain = text:gsub("\27%[%d+m", "")
  return utf8.len(plain) or #plain
end

-- Short items of a sequence share lines, so that a long list of numbers stays readable.
local function fill(state, texts, sequence, margin)
  local lines, width = {}, math.huge
  for i, text in ipairs(texts) do
    local size = i <= sequence and visible_width(text) + 2 or math.huge
    if size <= 14 and width + size + margin <= state.width then
      lines[#lines] = lines[#lines] .. ", " .. text
      width = width + size
    else
      lines[#lines + 1] = text
      width = size <= 14 and size or math.huge
    end
  end
  return lines
end

local function join(state, texts, sequence, depth)
  if #texts == 0 then return "{}" end
  local one_line = "{ " .. table.concat(texts, ", ") .. " }"
  if not one_line:find("\n", 1, true) and
     visible_width(one_line) + 2 * depth <= state.width then
    return one_line
  end
  local indent = ("  "):rep(depth + 1)
  texts = fill(state, texts, sequence, #indent)
  return "{\n" .. indent .. table.concat(texts, ",\n" .. indent) .. "\n" .. ("  "):rep(depth) .. "}"
end

function render(state, value, depth)
  if type(value) ~= "table" then return scalar(state, value) end
  local meta = getmetatable(value)
  if type(meta) == "table" and rawget(meta, "__tostring") then return scalar(state, value) end
  if state.open[value] then return "<cycle>" end
  if depth >= state.depth then return next(value) == nil and "{}" or "{...}" end
  state.open[value] = true
  local texts, sequence = items(state, value, depth)
  local text = join(state, texts, sequence, depth)
  state.open[value] = nil
  return text
end

--- A value as text. Options: width (80), depth (5), items per table (100), text: bytes of a string
--- (1000), colour (false).
function pretty.format(value, options)
  options = options or {}
  local state = {
    width = options.width or 80, depth = options.depth or 5, items = options.items or 100,
    text = options.text or 1000, colour = options.colour or false, open = {},
  }
  return render(state, value, 0)
end

--- The results of an expression: on one line when they are short, else below each other.
function pretty.echo(width, colour, ...)
  local texts, total, lines = {}, 0, false
  for i = 1, select("#", ...) do
    texts[i] = pretty.format((select(i, ...)), { width = width, colour = colour })
    total = total + visible_width(texts[i]) + 2
    lines = lines or texts[i]:find("\n", 1, true) ~= nil
  end
  return table.concat(texts, (lines or total > width) and "\n" or "  ")
end

return pretty
