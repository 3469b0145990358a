-- lines.lua: JSON and histograms for the Lua half of bench/gpu, in the form of out.c.

local lines = {}

local function is_set(name)
  local text = os.getenv(name)
  return text ~= nil and text ~= "" and text ~= "0"
end

-- The same settings as in out.h.
lines.standin = is_set "RK_CUDA_LIBS" or is_set "RK_GPU_STANDIN"
lines.quick = lines.standin or is_set "RK_BENCH_QUICK"
lines.rounds = math.max(1, math.tointeger(tonumber(os.getenv "BENCH_ROUNDS" or "")) or 1)
lines.round = math.tointeger(tonumber(os.getenv "BENCH_ROUND" or "")) or 0
lines.cap = tonumber(os.getenv "BENCH_CAP" or "") or (lines.quick and 0.5 or 2)

function lines.share(full)
  return math.max(20, (lines.quick and full // 1000 or full) // lines.rounds + 1)
end

---------------------------------------------------------------------------------------------------
-- JSON
---------------------------------------------------------------------------------------------------

local function quote(text)
  return '"' .. text:gsub('[%c"\\]', function(c) return ("\\u%04x"):format(c:byte()) end) .. '"'
end

-- Tables with a first element are lists; keys are in order, so that equal tables give equal texts.
function lines.json(value)
  if type(value) == "string" then return quote(value) end
  if type(value) ~= "table" then
    if math.type(value) ~= "float" then return tostring(value) end
    return value == value and math.abs(value) < 1e300 and ("%.9g"):format(value) or "0"
  end
  local parts = {}
  if value[1] ~= nil then
    for i, item in ipairs(value) do parts[i] = lines.json(item) end
    return "[" .. table.concat(parts, ",") .. "]"
  end
  local keys = {}
  for key in pairs(value) do keys[#keys + 1] = key end
  table.sort(keys)
  for i, key in ipairs(keys) do parts[i] = quote(key) .. ":" .. lines.json(value[key]) end
  return "{" .. table.concat(parts, ",") .. "}"
end

local escapes = { n = "\n", t = "\t", r = "\r", b = "\b", f = "\f" }

local function unquote(text)
  text = text:gsub("\\u(%x%x%x%x)", function(hex) return utf8.char(tonumber(hex, 16)) end)
  return (text:gsub("\\(.)", function(c) return escapes[c] or c end))
end

-- One value at `at`; gives it and the place behind it.
local function parse(text, at)
  at = text:find("%S", at)
  local first = text:sub(at, at)
  if first == '"' then
    local stop = at
    repeat -- up to a quote that no backslash, or an even number of them, stands before
      stop = text:find('"', stop + 1, true)
    until #text:sub(at + 1, stop - 1):match("\\*$") % 2 == 0
    return unquote(text:sub(at + 1, stop - 1)), stop + 1
  elseif first == "{" or first == "[" then
    local result, close = {}, first == "{" and "}" or "]"
    at = text:find("%S", at + 1)
    while text:sub(at, at) ~= close do
      local key = #result + 1
      if first == "{" then
        key, at = parse(text, at)
        at = text:find(":", at, true) + 1
      end
      result[key], at = parse(text, at)
      at = text:find("[^%s,]", at)
    end
    return result, at + 1
  end
  local word = text:match("^[%w%.+-]+", at)
  if word == "null" then return nil, at + 4 end
  if word == "true" or word == "false" then return word == "true", at + #word end
  return tonumber(word), at + #word
end

function lines.parse(text)
  return (parse(text, 1))
end

---------------------------------------------------------------------------------------------------
-- Histograms: {upper edge of a bucket = count}; 32 buckets per power of two
---------------------------------------------------------------------------------------------------

function lines.edge(value)
  value = math.max(0, math.floor(value))
  if value < 32 then return value end
  local shift = 0
  while value >> shift >= 64 do shift = shift + 1 end
  return ((value >> shift) + 1 << shift) - 1
end

function lines.histogram()
  return { n = 0, sum = 0, min = math.maxinteger, max = 0, buckets = {} }
end

function lines.add(h, ns)
  local edge = lines.edge(ns)
  local value = math.max(0, math.floor(ns))
  h.n, h.sum = h.n + 1, h.sum + value
  h.min, h.max = math.min(h.min, value), math.max(h.max, value)
  h.buckets[edge] = (h.buckets[edge] or 0) + 1
end

local function edges_of(h)
  local edges = {}
  for edge in pairs(h.buckets) do edges[#edges + 1] = edge end
  table.sort(edges)
  return edges
end

function lines.quantile(h, q)
  local rank, seen = math.max(1, math.ceil(q * h.n)), 0
  for _, edge in ipairs(edges_of(h)) do
    seen = seen + h.buckets[edge]
    if seen >= rank then return math.min(edge, h.max) end
  end
  return 0
end

-- The numbers of a histogram as a result line has them.
function lines.summary(h)
  local pairs_of = {}
  for i, edge in ipairs(edges_of(h)) do pairs_of[i] = { edge, h.buckets[edge] } end
  return {
    n = h.n, min = h.n > 0 and h.min or 0, max = h.max, mean = h.n > 0 and h.sum / h.n or 0,
    p50 = lines.quantile(h, 0.5), p99 = lines.quantile(h, 0.99), p999 = lines.quantile(h, 0.999),
    buckets = pairs_of,
  }
end

-- The histogram of a result line, added to one.
function lines.merge(h, line)
  h.n, h.sum = h.n + line.n, h.sum + line.mean * line.n
  if line.n > 0 then h.min, h.max = math.min(h.min, line.min), math.max(h.max, line.max) end
  for _, pair in ipairs(line.buckets) do
    h.buckets[pair[1]] = (h.buckets[pair[1]] or 0) + pair[2]
  end
end

-- Prints a result line.
function lines.put(name, variant, source, params, h)
  local line = lines.summary(h)
  line.name, line.variant, line.params = name, variant, params
  line.source = lines.standin and "stand-in, not a GPU" or source
  line.unit = lines.standin and "ns (stand-in, not a GPU)" or "ns"
  print(lines.json(line))
end

return lines
