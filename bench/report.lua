-- report.lua: runs every bench program once per round, several rounds, and prints one table.
-- Run by scripts/bench. Settings from the environment:
--   RK_BUILD       where the programs are (build)
--   ROUNDS    how often every case is measured (7)
--   SAVE=1    writes bench/results/DATE.json and .md as well
--   BENCH_SECONDS  how long a case measures round trips, and then messages per second (0.25)
--   BENCH_CPUS     the two cpus, "0,1" (the first two this process may use)
--
-- Rounds are interleaved, so that a noisy minute hits all cases alike; a ratio is taken inside a
-- round (for the C cases inside slices of 20 ms), and what is printed is the median of the rounds
-- beside their min..max.

local RK_BUILD = os.getenv "RK_BUILD" or "build"
local ROUNDS = math.max(1, tonumber(os.getenv "ROUNDS") or 7)
local SECONDS = tonumber(os.getenv "BENCH_SECONDS") or 0.25

local pairs_of = "lua bench/pairs.lua "
local CASES = { -- name, label, program; in this order in the table
  { "raw", "raw CK ring, two threads", "raw" },
  { "c_c", "C <-> C", "actors host" },
  { "c_kernel", "C -> ring kernel (cpu)", "actors kernel" },
  { "lua_typed", "Lua <-> Lua, typed, 3 fields", pairs_of .. "lua_typed" },
  { "lua_table", "Lua <-> Lua, table, 3 fields", pairs_of .. "lua_table" },
  { "port_lua", "main script -> Lua, typed", pairs_of .. "port_lua" },
  { "lua_kernel", "Lua -> ring kernel (cpu)", pairs_of .. "lua_kernel" },
}
local OTHERS = { "idle", "lua bench/idle.lua", "launch cold %s", "launch warm %s", "timers" }
local TIMERS = { -- what a step of timers.c does, label
  { "cancel", "any cancelled, one set" },
  { "answer", "oldest cancelled, one set" },
  { "expire", "nearest expired, one set" },
}

---------------------------------------------------------------------------------------------------
-- The machine
---------------------------------------------------------------------------------------------------

local function read(path)
  local file <close> = io.open(path)
  return file and file:read("a") or ""
end

local function allowed_cpus()
  local cpus = {}
  for first, last in
    read("/proc/self/status"):match("Cpus_allowed_list:%s*(%S+)"):gmatch("(%d+)%-?(%d*)")
  do
    for cpu = tonumber(first), tonumber(last) or tonumber(first) do cpus[#cpus + 1] = cpu end
  end
  return cpus
end

local function output_of(command)
  local file <close> = assert(io.popen(command .. " 2>/dev/null"))
  return file:read("l") or "unknown"
end

local function facts(cpus)
  local info = read("/proc/cpuinfo")
  return {
    date = os.date("%Y-%m-%d %H:%M"),
    cpu = info:match("model name%s*:%s*([^\n]+)") or "unknown",
    cores = tonumber(output_of("nproc --all")),
    virtual = info:find("%shypervisor%s") ~= nil,
    cpus = cpus,
    kernel = read("/proc/sys/kernel/osrelease"):match("^[%d.]+"),
    compiler = output_of((os.getenv "CC" or "cc") .. " --version"),
    revision = output_of("git describe --always --dirty"),
    load = read("/proc/loadavg"):match("%S+ %S+ %S+"),
    rounds = ROUNDS,
    seconds = SECONDS,
  }
end

-- Clock ticks of all cpus: all of them, and those not idle (time stolen by the host is not idle).
local function machine_ticks()
  local total, idle, n = 0, 0, 0
  for ticks in read("/proc/stat"):match("^cpu%s+([^\n]+)"):gmatch("%d+") do
    n = n + 1
    if n <= 8 then total = total + ticks end -- guest time is part of user time
    if n == 4 or n == 5 then idle = idle + ticks end
  end
  return total, total - idle
end

-- Ours: this process and all the programs it has waited for.
local function own_ticks()
  local own, n = 0, 0
  for field in read("/proc/self/stat"):match("^.*%) (.*)"):gmatch("%S+") do
    n = n + 1
    if n >= 12 and n <= 15 then own = own + tonumber(field) end
  end
  return own
end

---------------------------------------------------------------------------------------------------
-- Rounds
---------------------------------------------------------------------------------------------------

local function run(command, results, cpus)
  local settings = ("BENCH_CPUS=%d,%d BENCH_SECONDS=%g"):format(cpus[1], cpus[2], SECONDS)
  local file = assert(io.popen(("%s exec timeout 60 %s/bench/%s 2>&1"):format(settings, RK_BUILD,
    command)))
  local text = file:read("a")
  local ok, how, status = file:close()
  if not ok then
    io.stderr:write(text)
    error(("%s: %s %d"):format(command, how, status), 0)
  end
  for case, metric, value in text:gmatch("(%S+) (%S+) (%S+)\n") do
    results[case] = results[case] or {}
    results[case][metric] = tonumber(value)
  end
end

local function check_launches(results)
  local cold, warm = results.cold, results.warm
  if cold.compiled ~= 1 or warm.compiled ~= 0 or warm.hits ~= 1 then
    error("launch: the cold one must compile and the warm one must not", 0)
  end
end

-- Every round begins with another case, so that none always follows the same neighbour.
local function round(number, folder, cpus)
  local results = {}
  local total, busy = machine_ticks()
  local own = own_ticks()
  for i = 1, #CASES do run(CASES[(i + number - 2) % #CASES + 1][3], results, cpus) end
  for _, program in ipairs(OTHERS) do
    run(program:format(("%s/%d"):format(folder, number)), results, cpus)
  end
  check_launches(results)
  local total_after, busy_after = machine_ticks()
  local foreign = (busy_after - busy) - (own_ticks() - own)
  results.round = { foreign = math.max(0, foreign) / math.max(1, total_after - total) }
  return results
end

local function measure(cpus)
  local folder = output_of("mktemp -d")
  local rounds = {}
  local ok, message = pcall(function()
    for i = 1, ROUNDS do
      rounds[i] = round(i, folder, cpus)
      io.stderr:write(("round %d of %d\27[K\r"):format(i, ROUNDS))
    end
  end)
  io.stderr:write("\27[K")
  os.execute(("rm -rf '%s'"):format(folder))
  if not ok then error(message, 0) end
  return rounds
end

---------------------------------------------------------------------------------------------------
-- Numbers over the rounds
---------------------------------------------------------------------------------------------------

-- Median, least and greatest of get(round) over the rounds.
local function over(rounds, get)
  local values = {}
  for i, r in ipairs(rounds) do values[i] = get(r) end
  table.sort(values)
  local n = #values
  local middle = (values[(n + 1) // 2] + values[n // 2 + 1]) / 2
  return { median = middle, min = values[1], max = values[n] }
end

local function metric(rounds, case, name)
  return over(rounds, function(r) return r[case][name] end)
end

local function ratio(rounds, case, name, base)
  return over(rounds, function(r) return r[case][name] / r[base][name] end)
end

-- Three digits and a unit; {limit, divisor, unit} in ascending order.
local function scaled(value, steps)
  for _, step in ipairs(steps) do
    if value < step[1] then
      local number = value / step[2]
      local digits = number < 10 and 2 or number < 100 and 1 or 0
      return (step[2] == 1 and "%.0f%s" or "%." .. digits .. "f%s"):format(number, step[3])
    end
  end
end

local function time_text(ns)
  return scaled(ns, { { 1e3, 1, " ns" }, { 1e6, 1e3, " us" }, { 1e9, 1e6, " ms" },
    { math.huge, 1e9, " s" } })
end

local function rate_text(rate)
  return scaled(rate, { { 1e3, 1, "" }, { 1e6, 1e3, " k" }, { math.huge, 1e6, " M" } })
end

local function size_text(bytes) return ("%.1f KiB"):format(bytes / 1024) end

local function range(value, text) return text(value.min) .. ".." .. text(value.max) end

-- How many times slower than the raw ring: C cases have measured it slice by slice.
local function times_raw(rounds, case)
  local sliced = rounds[1][case].ratio ~= nil
  local value = sliced and metric(rounds, case, "ratio") or ratio(rounds, case, "p50", "raw")
  return ("%.2f"):format(value.median)
end

local function verdict(met, text) return (met and "met: " or "MISSED: ") .. text end

---------------------------------------------------------------------------------------------------
-- The table
---------------------------------------------------------------------------------------------------

local function targets(rounds)
  local c_c = metric(rounds, "c_c", "ratio").median
  local kernel = ratio(rounds, "c_kernel", "ratio", "c_c").median
  local function within_5us(case)
    return verdict(metric(rounds, case, "p50").median <= 5000, "p50 within 5 us")
  end
  return {
    c_c = verdict(c_c <= 2, ("%.2f x raw, within 2"):format(c_c)),
    c_kernel = verdict(kernel <= 1.5, ("%.2f x C <-> C, within 1.5"):format(kernel)),
    lua_typed = within_5us("lua_typed"),
    lua_table = within_5us("lua_table"),
    warm = verdict(metric(rounds, "warm", "launch").median < 10e6, "under 10 ms"),
  }
end

local function case_row(rounds, case, label, target)
  local p50, rate = metric(rounds, case, "p50"), metric(rounds, case, "rate")
  return {
    label, time_text(p50.median), range(p50, time_text),
    time_text(metric(rounds, case, "p99").median), time_text(metric(rounds, case, "p999").median),
    times_raw(rounds, case),
    rate_text(rate.median), range(rate, rate_text),
    ("%.3f"):format(ratio(rounds, case, "rate", "raw").median),
    target or "",
  }
end

local function single_row(rounds, label, case, name, text, target)
  local value = metric(rounds, case, name)
  return { label, text(value.median), range(value, text), "", "", "", "", "", "", target or "" }
end

-- Timing wheels, and the heap of the same run beside them.
local function timer_rows(rounds, rows)
  for _, count in ipairs { 10, 1000, 100000 } do
    for _, step in ipairs(TIMERS) do
      local case = ("timers_%s_%d"):format(step[1], count)
      local beside = ("%.2f x heap (%s)"):format(metric(rounds, case, "ratio").median,
        time_text(metric(rounds, case, "heap").median))
      rows[#rows + 1] = single_row(rounds, ("%d timers: %s"):format(count, step[2]), case, "wheels",
        time_text, beside)
    end
  end
end

local HEADER = { "round trip; one way", "p50", "min..max", "p99", "p99.9", "x raw", "messages/s",
  "min..max", "x raw", "target" }

local function rows_of(rounds)
  local target = targets(rounds)
  local rows = { HEADER }
  for _, case in ipairs(CASES) do
    rows[#rows + 1] = case_row(rounds, case[1], case[2], target[case[1]])
  end
  local function add(...) rows[#rows + 1] = single_row(rounds, ...) end
  add("launch from cache", "warm", "launch", time_text, target.warm)
  add("  until the first answer", "warm", "answer", time_text)
  add("launch, compiled", "cold", "launch", time_text)
  add("1000 Lua actors: spawn, call, stop", "idle_lua", "total", time_text)
  add("1000 C actors: spawn, call, stop", "idle_c", "total", time_text)
  add("resident, per idle Lua actor", "idle_lua", "memory", size_text)
  add("resident, per idle C actor", "idle_c", "memory", size_text)
  timer_rows(rounds, rows)
  return rows
end

local function is_left(column) return column == 1 or column == #HEADER end

local function aligned(rows)
  local widths, lines = {}, {}
  for _, row in ipairs(rows) do
    for i, cell in ipairs(row) do widths[i] = math.max(widths[i] or 0, #cell) end
  end
  for n, row in ipairs(rows) do
    local cells = {}
    for i, cell in ipairs(row) do
      local space = (" "):rep(widths[i] - #cell)
      cells[i] = is_left(i) and cell .. space or space .. cell
    end
    lines[n] = table.concat(cells, "  "):gsub("%s+$", "")
  end
  table.insert(lines, 2, ("-"):rep(#lines[1] + 30))
  return table.concat(lines, "\n")
end

local function markdown(rows)
  local lines = {}
  for n, row in ipairs(rows) do
    lines[#lines + 1] = "| " .. table.concat(row, " | ") .. " |"
    if n == 1 then
      local rule = {}
      for i = 1, #row do rule[i] = is_left(i) and "---" or "---:" end
      lines[#lines + 1] = "| " .. table.concat(rule, " | ") .. " |"
    end
  end
  return table.concat(lines, "\n")
end

local function preface(fact, rounds)
  local foreign = {}
  for i, r in ipairs(rounds) do foreign[i] = ("%.0f%%"):format(r.round.foreign * 100) end
  return table.concat({
    ("%s, %d cores%s, cpus %d and %d, Linux %s, %s, revision %s"):format(fact.cpu, fact.cores,
      fact.virtual and " (virtual machine)" or "", fact.cpus[1], fact.cpus[2], fact.kernel,
      fact.compiler, fact.revision),
    ("%s, load average at start %s; used by others in each round: %s"):format(fact.date,
      fact.load, table.concat(foreign, " ")),
    ("median of %d rounds of %.2f s; every round trip includes one clock read: %.0f ns in C, "
      .. "%.0f ns in Lua"):format(ROUNDS, SECONDS, metric(rounds, "clock", "c").median,
      metric(rounds, "port_lua", "clock").median),
  }, "\n")
end

---------------------------------------------------------------------------------------------------
-- Saved results
---------------------------------------------------------------------------------------------------

local function json(value, indent)
  indent = indent or ""
  if type(value) == "string" then
    return '"' .. value:gsub('[%c"\\]', function(c) return ("\\u%04x"):format(c:byte()) end) .. '"'
  elseif type(value) ~= "table" then
    return math.type(value) == "float" and ("%.9g"):format(value) or tostring(value)
  end
  local inner, parts, keys = indent .. "  ", {}, {}
  for key in pairs(value) do keys[#keys + 1] = key end
  local list = #keys == #value
  table.sort(keys)
  for i, key in ipairs(keys) do
    local item = json(value[key], inner)
    parts[i] = inner .. (list and item or ('"%s": %s'):format(key, item))
  end
  local text = table.concat(parts, ",\n")
  return (list and "[\n%s\n%s]" or "{\n%s\n%s}"):format(text, indent)
end

local function save(fact, rounds, head, rows)
  local base = "bench/results/" .. os.date("%Y-%m-%d-%H%M")
  os.execute("mkdir -p bench/results")
  for ending, text in pairs {
    json = json({ machine = fact, rounds = rounds }),
    md = head:gsub("\n", "  \n") .. "\n\n" .. markdown(rows),
  } do
    local file <close> = assert(io.open(base .. "." .. ending, "w"))
    assert(file:write(text, "\n"))
  end
  print("saved: " .. base .. ".json, .md")
end

local function main()
  local cpus = {}
  local given = os.getenv "BENCH_CPUS"
  for cpu in (given or table.concat(allowed_cpus(), ",")):gmatch("%d+") do
    cpus[#cpus + 1] = tonumber(cpu)
  end
  if #cpus < 2 then error("two cpus are needed: the cases measure what lies between them", 0) end
  cpus = { cpus[1], cpus[2] }
  local fact = facts(cpus)
  local rounds = measure(cpus)
  local head, rows = preface(fact, rounds), rows_of(rounds)
  print(head .. "\n\n" .. aligned(rows))
  if os.getenv "SAVE" == "1" then save(fact, rounds, head, rows) end
end

local ok, message = pcall(main)
if not ok then
  io.stderr:write("bench: ", tostring(message), "\n")
  os.exit(1)
end
