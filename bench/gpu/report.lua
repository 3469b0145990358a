-- report.lua LINES OUT [PARTS FACTS]: makes OUT.json and OUT.md from result lines (out.h).
--
-- Lines of the same name, variant, source and params are one result: histograms are added up, of
-- values the median and the range are shown. PARTS and FACTS are scripts/gpu-check's: lines
-- "NAME<tab>STATUS<tab>SECONDS<tab>BUDGET<tab>NOTE", and plain text.

local lines = dofile((arg[0]:gsub("[^/]*$", "")) .. "lines.lua")
local input, out, parts_file, facts_file = arg[1], arg[2], arg[3], arg[4]
assert(out, "usage: report.lua LINES OUT [PARTS FACTS]")

local STANDIN <const> = "stand-in, not a GPU"

---------------------------------------------------------------------------------------------------
-- Gathering
---------------------------------------------------------------------------------------------------

local results, known, order, problems = {}, {}, {}, {}

local function result_of(line)
  local key = lines.json { line.name, line.variant, line.source, lines.json(line.params),
    line.unit or "" }
  local r = known[key]
  if not r then
    r = { name = line.name, variant = line.variant, source = line.source, params = line.params,
      unit = line.unit }
    known[key], results[#results + 1] = r, r
    if not order[line.name] then
      order[#order + 1] = line.name
      order[line.name] = true
    end
  end
  return r
end

local function take(line)
  local r = result_of(line)
  if line.buckets then
    r.histogram = r.histogram or lines.histogram()
    lines.merge(r.histogram, line)
  elseif line.value then
    r.values = r.values or {}
    r.values[#r.values + 1] = line.value
  elseif line.says then
    r.says = r.says or {}
    r.says[#r.says + 1] = line.says
  else
    r.missing = line.missing
  end
end

local function read(path)
  local file <close> = io.open(path or "")
  return file and file:read("a") or ""
end

for text in read(input):gmatch("[^\n]+") do
  local fine, line = pcall(lines.parse, text)
  if fine and type(line) == "table" and line.name and line.params then
    take(line)
  else
    problems[#problems + 1] = text:sub(1, 200) -- a program that was killed while it wrote
  end
end

local function median(values)
  local sorted = table.move(values, 1, #values, 1, {})
  table.sort(sorted)
  local n = #sorted
  return (sorted[(n + 1) // 2] + sorted[n // 2 + 1]) / 2, sorted[1], sorted[n]
end

for _, r in ipairs(results) do
  if r.values then r.median, r.min, r.max = median(r.values) end
end

-- Relative to the same with nobody polling.
for _, r in ipairs(results) do
  if r.median and r.params.polling and r.params.polling ~= 0 and r.unit:find("^GB/s") then
    for _, base in ipairs(results) do
      if base.name == r.name and base.variant == r.variant and base.source == r.source
        and base.params.polling == 0 and base.median and base.median > 0 then
        r.relative = r.median / base.median
      end
    end
  end
end

---------------------------------------------------------------------------------------------------
-- Markdown
---------------------------------------------------------------------------------------------------

local text = {}
local function put(...) text[#text + 1] = table.concat { ... } end

local function row(cells)
  for i, cell in ipairs(cells) do cells[i] = tostring(cell):gsub("|", "\\|"):gsub("\n", " ") end
  put("| ", table.concat(cells, " | "), " |")
end

local function head(cells, left)
  row(cells)
  local rule = {}
  for i = 1, #cells do rule[i] = i <= left and "---" or "---:" end
  put("| ", table.concat(rule, " | "), " |")
end

local function params_text(params)
  local keys, shown = {}, {}
  for key in pairs(params) do keys[#keys + 1] = key end
  table.sort(keys)
  for i, key in ipairs(keys) do shown[i] = ("%s %g"):format(key, params[key]) end
  return table.concat(shown, ", ")
end

local function short(value)
  local size = math.abs(value)
  return (size >= 1000 and "%.0f" or size >= 100 and "%.1f" or "%.3g"):format(value)
end

-- Nanoseconds as microseconds; what is no GPU's stays marked in every row.
local function us(ns) return ns >= 1e5 and ("%.0f"):format(ns / 1e3) or ("%.2f"):format(ns / 1e3) end
local function time_unit(r) return r.source == STANDIN and "us (" .. STANDIN .. ")" or "us" end

local function histograms(list)
  head({ "what", "", "where", "unit", "n", "p50", "p99", "p99.9", "min", "mean", "max" }, 4)
  for _, r in ipairs(list) do
    local s = lines.summary(r.histogram)
    row { r.variant, params_text(r.params), r.source, time_unit(r), s.n, us(s.p50), us(s.p99),
      us(s.p999), us(s.min), us(s.mean), us(s.max) }
  end
  put ""
end

local function values(list)
  head({ "what", "", "where", "unit", "median", "min", "max", "n", "relative" }, 4)
  for _, r in ipairs(list) do
    row { r.variant, params_text(r.params), r.source, r.unit, short(r.median), short(r.min),
      short(r.max), #r.values, r.relative and ("%.3f"):format(r.relative) or "" }
  end
  put ""
end

local function sentences(list)
  for _, r in ipairs(list) do
    for _, said in ipairs(r.says or { "not available: " .. tostring(r.missing) }) do
      local params = params_text(r.params)
      put("- ", r.variant, params ~= "" and " (" .. params .. ")" or "", " [", r.source, "]: ", said)
    end
  end
  put ""
end

local function having(name, field, other)
  local list = {}
  for _, r in ipairs(results) do
    if r.name == name and (r[field] or other and r[other]) then list[#list + 1] = r end
  end
  -- C actor, Lua actor, port...: each with its sizes in ascending order.
  local place = {}
  for i, r in ipairs(list) do place[r.variant] = place[r.variant] or i end
  table.sort(list, function(a, b)
    if a.variant ~= b.variant then return place[a.variant] < place[b.variant] end
    return (a.params.payload or a.params.polling or a.params.kernels or a.params.asked_ns or 0)
      < (b.params.payload or b.params.polling or b.params.kernels or b.params.asked_ns or 0)
  end)
  return list
end

local function parts_of(file)
  local list = {}
  for line in read(file):gmatch("[^\n]+") do
    local name, status, seconds, budget, note =
      line:match("^([^\t]*)\t([^\t]*)\t([^\t]*)\t([^\t]*)\t(.*)$")
    if name then
      list[#list + 1] = { name = name, status = status, seconds = tonumber(seconds),
        budget = tonumber(budget), note = note }
    end
  end
  return list
end

local parts, facts = parts_of(parts_file), read(facts_file)
local standin = lines.standin
for _, r in ipairs(results) do standin = standin or r.source == STANDIN end

put("# ", parts_file and "GPU check" or "GPU benchmarks")
put ""
if standin then
  put "**Run on the stand-in, not a GPU: no number here says anything about a GPU.**"
  put ""
end
if #parts > 0 then
  head({ "part", "status", "note", "seconds", "budget" }, 3)
  for _, p in ipairs(parts) do row { p.name, p.status, p.note, p.seconds, p.budget } end
  put ""
end
for _, name in ipairs(order) do
  put("## ", name)
  put ""
  local with_histogram, with_value = having(name, "histogram"), having(name, "values")
  local said = having(name, "says", "missing")
  if #with_histogram > 0 then histograms(with_histogram) end
  if #with_value > 0 then values(with_value) end
  if #said > 0 then sentences(said) end
end
if #problems > 0 then
  put(#problems, " lines could not be read, the first: `", problems[1], "`")
  put ""
end
if facts ~= "" then
  put("## Facts\n\n```\n", facts, "```")
end

---------------------------------------------------------------------------------------------------
-- Files
---------------------------------------------------------------------------------------------------

local items = {}
for i, r in ipairs(results) do
  local item = { name = r.name, variant = r.variant, source = r.source, unit = r.unit,
    says = r.says, missing = r.missing, values = r.values, median = r.median, min = r.min,
    max = r.max, relative = r.relative }
  if r.histogram then
    for key, value in pairs(lines.summary(r.histogram)) do item[key] = value end
  end
  if next(r.params) then item.params = r.params end
  items[i] = lines.json(item)
end
local part_items = {}
for i, p in ipairs(parts) do part_items[i] = lines.json(p) end

local function write(path, body)
  local file <close> = assert(io.open(path, "w"))
  assert(file:write(body))
end

write(out .. ".json", table.concat({
  '{"standin":', tostring(standin),
  ',\n"source":', lines.json(standin and STANDIN or "see each result"),
  ',\n"date":', lines.json(os.date("!%Y-%m-%dT%H:%M:%SZ")),
  ',\n"facts":', lines.json(facts),
  ',\n"parts":[\n', table.concat(part_items, ",\n"),
  '\n],\n"results":[\n', table.concat(items, ",\n"), "\n]}\n",
}))
write(out .. ".md", table.concat(text, "\n") .. "\n")
