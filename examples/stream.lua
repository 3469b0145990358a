-- examples/stream.lua            measurements -> a ring kernel -> anomalies, one reply per message
--
--   rklua examples/stream.lua              this machine's own counters, five seconds at 1 kHz
--   rklua examples/stream.lua FILE.csv     a header, a timestamp column, columns of numbers
--   rklua examples/stream.lua -            the same from standard input, as it arrives
--
--   --window N      values the kernel remembers of each series, 8 to 64 (64)
--   --threshold Z   the robust z-score above which a value is an anomaly (3.5; this machine: 10)
--   --all           print every anomaly and malformed row, not only the first 20 of each; of this
--                   machine's anomalies, also those right after another one of their series
--
-- Any number of columns: each instance of the kernel keeps 256 series, and as many are launched as
-- it takes. An empty field is a missing value. A timestamp is a number or a date with or without a
-- time and a zone (2024-01-02, 2024-01-02T03:04:05.678+01:00, 2024-01-02 03:04:05Z); without a zone
-- it counts as UTC. A row whose timestamp is before that of the row above it is used and counted as
-- out of order. A row that cannot be read is reported with its line, and none of it is used. A
-- quoted field ends on its line.
local rk = require "rk"
local anomaly = require "rk.kernels.anomaly"
local Measurement = anomaly.Measurement

local MOST_IN_FLIGHT = 64        -- messages sent ahead of their verdicts while a file is read
local MOST_OF_A_ROW  = 256       -- the same for a row that is answered before the next one is read
local SHOWN          = 20        -- anomalies and malformed rows that are printed
local MOST_SCORE     = 1000      -- larger scores only say that the window hardly moved
local SECONDS, PERIOD = 5, 0.001 -- how long this machine is watched, and how often

-- Options ----------------------------------------------------------------------------------------

local function give_up(status, format, ...)
  io.stderr:write("stream: ", format:format(...), "\n")
  os.exit(status, true)
end

local function read_options(arguments)
  local options, at = {}, 1
  local function number_after(name)
    at = at + 1
    return tonumber(arguments[at]) or give_up(2, "%s needs a number", name)
  end
  while arguments[at] do
    local word = arguments[at]
    if word == "--window" then
      options.window = number_after(word)
    elseif word == "--threshold" then
      options.threshold = number_after(word)
    elseif word == "--all" then
      options.all = true
    elseif word ~= "-" and word:sub(1, 1) == "-" or options.source then
      give_up(2, "%s\nusage: stream.lua [--window N] [--threshold Z] [--all] [FILE.csv | -]",
        options.source and "one source at a time" or "unknown option " .. word)
    else
      options.source = word
    end
    at = at + 1
  end
  return options
end

local options = read_options(arg)

-- Round trips: how many there were in buckets of 3% width ----------------------------------------

local buckets, BUCKET = {}, math.log(1.03)

local function record(seconds)
  local bucket = math.log(math.max(seconds, 1e-9)) // BUCKET
  buckets[bucket] = (buckets[bucket] or 0) + 1
end

-- The upper end of the bucket that holds the p-th part of all round trips, in microseconds.
local function percentile(p, count)
  local order = {}
  for bucket in pairs(buckets) do
    order[#order + 1] = bucket
  end
  table.sort(order)
  local seen = 0
  for _, bucket in ipairs(order) do
    seen = seen + buckets[bucket]
    if seen >= p * count then
      return math.exp((bucket + 1) * BUCKET) * 1e6
    end
  end
  return 0
end

-- The stream: measurements go out with send, verdicts come back as mail --------------------------

local runtime <close> = rk.runtime()

local names = {}                    -- of the series
local kernels = {}                  -- the first keeps the first anomaly.SERIES series, and so on
local sent, answered = 0, 0         -- messages
local in_flight = MOST_IN_FLIGHT    -- how far sent may be ahead
local under_way = {}                -- by sequence number: series, when and where it was sent
local latest = {}                   -- the sequence number of each kernel's last verdict
local found, found_in = 0, {}       -- anomalies, and how many in which series
local following = 0                 -- those right after another one, which are not in `found`
local shown, last_odd = 0, {}       -- how many were printed; the row of each series' latest
local calm = 0                      -- rows without one after which a series' next is a new one
local floors = {}                   -- the least distance from the median that matters, by series
local count = { lines = 0, rows = 0, blank = 0, malformed = 0, missing = 0, refused = 0, late = 0,
  backwards = 0 }

local function score_text(score)
  if math.abs(score) == anomaly.FAR then
    return "all values before were equal"
  elseif math.abs(score) > MOST_SCORE then
    return score > 0 and ("score >%d"):format(MOST_SCORE) or ("score <-%d"):format(MOST_SCORE)
  end
  return ("score %+.1f"):format(score)
end

local function take_anomaly(series, verdict, where)
  local fresh = count.rows - (last_odd[series] or -math.huge) >= calm
  last_odd[series] = count.rows
  if fresh then
    found, found_in[series] = found + 1, (found_in[series] or 0) + 1
  else
    following = following + 1
  end
  if options.all or fresh and shown < SHOWN then
    shown = shown + 1
    print(("%s  %s = %.7g  (median %.7g, %s)"):format(where, names[series], verdict.value,
      verdict.median, score_text(verdict.score)))
  end
end

-- Each message has one verdict, and those of one kernel come in the order of their messages.
local function take(verdict)
  local sequence = verdict.sequence
  local message = under_way[sequence] or error(("no message %d is under way"):format(sequence), 0)
  local series = message.series
  local owner = (series - 1) // anomaly.SERIES + 1
  if sequence <= latest[owner] or verdict.series ~= (series - 1) % anomaly.SERIES then
    error(("verdict %d came after %d"):format(sequence, latest[owner]), 0)
  end
  record(rk.now() - message.at)
  under_way[sequence], latest[owner], answered = nil, sequence, answered + 1
  if not verdict.accepted then
    count.refused = count.refused + 1
    print(("%s  %s = %g was refused by the kernel"):format(message.where, names[series],
      verdict.value))
  elseif verdict.anomaly and math.abs(verdict.value - verdict.median) >= (floors[series] or 0) then
    take_anomaly(series, verdict, message.where)
  end
end

-- Takes the verdicts that are there, and waits while more than `rest` messages are in flight.
local function take_verdicts(rest)
  while sent > answered do
    local wait = sent - answered > rest
    local mail, why = rk.receive(wait and 5 or 0)
    if not mail and not wait then
      return
    elseif not mail then
      error("no verdict from the kernel within 5 s: " .. tostring(why), 0)
    elseif mail.type ~= "Verdict" then -- "down": a kernel died
      error("the kernel ended: " .. tostring(mail.reason), 0)
    end
    take(mail)
  end
end

local function send(series, value, where)
  take_verdicts(in_flight - 1)
  sent = sent + 1
  under_way[sent] = { series = series, where = where, at = rk.now() }
  local owner, place = (series - 1) // anomaly.SERIES + 1, (series - 1) % anomaly.SERIES
  assert(kernels[owner]:send(Measurement { series = place, sequence = sent, value = value }))
end

-- CSV --------------------------------------------------------------------------------------------

local QUOTE, COMMA = ('",'):byte(1, 2)

-- The end of the quoted field that starts at `at`: its closing quote; "" inside is a quote.
local function closing_quote(line, at)
  local close = line:find('"', at + 1, true)
  while close and line:byte(close + 1) == QUOTE do
    close = line:find('"', close + 2, true)
  end
  return close
end

-- The fields of a line, or nil and what is wrong.
local function split(line)
  local fields, at = {}, 1
  repeat
    local field
    if line:byte(at) == QUOTE then
      local close = closing_quote(line, at)
      if not close then
        return nil, "unterminated quote"
      end
      field = line:sub(at + 1, close - 1):gsub('""', '"')
      at = close + 1
      if at <= #line and line:byte(at) ~= COMMA then
        return nil, "text after a closing quote"
      end
    else
      local comma = line:find(",", at, true) or #line + 1
      field = line:sub(at, comma - 1)
      at = comma
    end
    fields[#fields + 1] = field
    at = at + 1
  until at > #line + 1
  return fields
end

-- Decimal and finite, or nil.
local function number(text)
  local value = not text:find("[xX]") and tonumber(text)
  return value and math.abs(value) < math.huge and value + 0.0 or nil
end

-- Days from 1970-01-01 in the Gregorian calendar, or nil when there is no such day.
local function days(year, month, day)
  local leap = year % 4 == 0 and (year % 100 ~= 0 or year % 400 == 0)
  local lengths = { 31, leap and 29 or 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31 }
  if day < 1 or day > (lengths[month] or 0) then
    return nil
  end
  for i = 1, month - 1 do
    day = day + lengths[i]
  end
  local before = year - 1
  return before * 365 + before // 4 - before // 100 + before // 400 + day - 719163
end

-- Seconds of hh:mm, hh:mm:ss or hh:mm:ss.fraction, or nil; a leap second is the 60th.
local function time_of_day(text)
  local hour, minute, rest = text:match("^(%d%d):(%d%d)(.*)$")
  local second = rest == "" and 0 or tonumber((rest or ""):match("^:(%d%d)$")
    or (rest or ""):match("^:(%d%d%.%d+)$"))
  if hour and second and tonumber(hour) < 24 and tonumber(minute) < 60 and second < 61 then
    return hour * 3600 + minute * 60 + second
  end
end

-- Seconds east of UTC, or nil.
local function offset(zone)
  local sign, hour, minute = zone:match("^([+-])(%d%d):(%d%d)$")
  if zone == "" or zone == "Z" then
    return 0
  elseif sign and tonumber(hour) < 24 and tonumber(minute) < 60 then
    return (hour * 3600 + minute * 60) * (sign == "-" and -1 or 1)
  end
end

-- What a timestamp is in numbers, or nil.
local function instant(text)
  local year, month, day, rest = text:match("^%s*(%d%d%d%d)%-(%d%d)%-(%d%d)(.-)%s*$")
  if not year then
    return number(text)
  end
  local date = days(math.tointeger(year), math.tointeger(month), math.tointeger(day))
  if not date or rest == "" then
    return date and date * 86400
  end
  local clock, zone = rest:match("^[T ]([%d:.]+)(.*)$")
  local time, east = clock and time_of_day(clock), zone and offset(zone)
  return time and east and date * 86400 + time - east
end

local function read_header(line)
  if not line then
    return nil, "is empty; the first line should name a timestamp column and columns of numbers"
  end
  local fields, why = split(line:gsub("^\xEF\xBB\xBF", ""))
  if not fields then
    return nil, "has a malformed header: " .. why
  elseif #fields < 2 then
    return nil, "has one column; a timestamp column and at least one of numbers are needed"
  end
  local numbers = 0
  for i = 2, #fields do
    numbers = numbers + (number(fields[i]) and 1 or 0)
    names[i - 1] = fields[i]:match("^%s*(.-)%s*$")
  end
  if numbers == #names then
    return nil, "has numbers in its first line; a header with the names of the columns is needed"
  end
  return true
end

-- The numbers of a row (false: missing), its timestamp as it is and in numbers, or nil and what is
-- wrong.
local function read_row(line)
  local fields, why = split(line)
  if not fields then
    return nil, why
  elseif #fields ~= #names + 1 then
    return nil, ("%d columns, the header has %d"):format(#fields, #names + 1)
  end
  local row, when = {}, instant(fields[1])
  if not when then
    return nil, ("'%s' is not a timestamp"):format(fields[1])
  end
  for i, name in ipairs(names) do
    local text = fields[i + 1]
    local value = not text:find("^%s*$") and number(text)
    if value == nil then
      return nil, ("%s: '%s' is not a number"):format(name, text)
    end
    row[i] = value
  end
  return row, fields[1], when
end

-- Lines without their ends, counted.
local function lines_of(input, title)
  return function()
    local line, why = input:read("l")
    if why then
      give_up(1, "cannot read %s: %s", title, why)
    end
    count.lines = count.lines + (line and 1 or 0)
    return line and (line:gsub("\r$", ""))
  end
end

local function malformed(why)
  count.malformed = count.malformed + 1
  if count.malformed <= SHOWN or options.all then
    print(("line %d  malformed: %s"):format(count.lines, why))
  end
end

local function send_row(row, timestamp)
  local where = ("line %d  %s"):format(count.lines, timestamp)
  for i = 1, #names do
    if row[i] then
      send(i, row[i], where)
    else
      count.missing = count.missing + 1
    end
  end
end

-- Streams all lines, and takes what verdicts there are until at most `rest` are awaited after each.
local function stream_lines(next_line, rest)
  local before = -math.huge
  for line in next_line do
    if line == "" then
      count.blank = count.blank + 1
    else
      count.rows = count.rows + 1
      local row, detail, when = read_row(line)
      if row then
        count.backwards = count.backwards + (when < before and 1 or 0)
        before = when
        send_row(row, detail)
      else
        malformed(detail)
      end
    end
    take_verdicts(rest)
  end
end

-- Reads the header and gives what streams the rest. What arrives in a pipe is answered row by row,
-- a file is read on while its verdicts are on their way.
local function open_csv(path)
  local title = path == "-" and "standard input" or path
  local input, problem = io.stdin, nil
  if path ~= "-" then
    input, problem = io.open(path)
  end
  if not input then
    give_up(1, "cannot read %s", problem)
  end
  local next_line = lines_of(input, title)
  local fine, why = read_header(next_line())
  if not fine then
    give_up(1, "%s %s", title, why)
  end
  in_flight = path == "-" and math.min(#names, MOST_OF_A_ROW) or MOST_IN_FLIGHT
  return title, function()
    stream_lines(next_line, path == "-" and 0 or in_flight)
  end
end

-- This machine -----------------------------------------------------------------------------------

local SMOOTHING = 0.05 -- seconds of an exponential mean: cpu time is counted in steps of 10 ms
local BURSTS = 10      -- the threshold here: a machine's counters are never quiet

local function slurp(path)
  local file <close> = io.open(path)
  return file and file:read("a")
end

-- Bytes received and sent by each interface, from /proc/net/dev.
local function each_interface()
  return (slurp("/proc/net/dev") or ""):gmatch("(%S+):%s*(%d+)%s+%d+%s+%d+%s+%d+%s+%d+%s+%d+%s+%d+"
    .. "%s+%d+%s+(%d+)")
end

-- The series: name, what turns a rate per second into its unit, and the floor: what is nearer to
-- the median does not matter, however still the window was. All are rates: a level such as free
-- memory wanders, and next to a window of 64 ms each of its steps would be far away.
local function machine_series()
  local stat = slurp("/proc/stat") or give_up(1, "no /proc/stat here: name a CSV file")
  local _, cpus = stat:gsub("\ncpu%d", "")
  local series = {
    { "cpu busy %", 1 / cpus, 25 },       -- in units of 1/100 s
    { "context switches/s", 1, 2000 },
    { "interrupts/s", 1, 1000 },
    { "memory available MiB/s", 1 / 1024, 200 },
  }
  for name, received in each_interface() do
    if received ~= "0" and #series < 20 then
      series[#series + 1] = { name .. " received B/s", 1, 1e5, interface = name }
      series[#series + 1] = { name .. " sent B/s", 1, 1e5, interface = name }
    end
  end
  return series
end

-- What the counters of all series say now.
local function read_machine(series)
  local stat = slurp("/proc/stat")
  local user, nice, system, irq, softirq, steal =
    stat:match("^cpu%s+(%d+) (%d+) (%d+) %d+ %d+ (%d+) (%d+) (%d+)")
  local values = {
    user + nice + system + irq + softirq + steal,
    tonumber(stat:match("\nctxt (%d+)")),
    tonumber(stat:match("\nintr (%d+)")),
    tonumber(slurp("/proc/meminfo"):match("MemAvailable:%s*(%d+)")),
  }
  local bytes = {}
  for name, received, transmitted in each_interface() do
    bytes[name] = { received, transmitted }
  end
  for i = 5, #series do
    local both = bytes[series[i].interface] or { 0, 0 }
    values[i] = tonumber(both[i % 2 == 1 and 1 or 2])
  end
  return values
end

-- Waits for the ticks of a schedule that does not drift; what comes a whole period late is counted.
local function each_tick(seconds, period)
  local start, tick = rk.now(), 0
  return function()
    tick = tick + 1
    if tick * period > seconds + period / 2 then
      return nil
    end
    local due = start + tick * period
    rk.sleep(math.max(0, due - rk.now()))
    local missed = (rk.now() - due) // period
    count.late = count.late + math.tointeger(missed)
    tick = tick + math.tointeger(missed)
    return rk.now() - start
  end
end

local function open_machine()
  local series = machine_series()
  for i, one in ipairs(series) do
    names[i], floors[i] = one[1], one[3]
  end
  in_flight, calm = #names, 64 -- one anomaly here makes its smoothed successors odd, too
  options.threshold = options.threshold or BURSTS
  return "this machine, 5 s at 1 kHz", function()
    local before, earlier = read_machine(series), 0
    local smooth = {}
    for now in each_tick(SECONDS, PERIOD) do
      local values, weight = read_machine(series), 1 - math.exp((earlier - now) / SMOOTHING)
      for i, one in ipairs(series) do
        local value = (values[i] - before[i]) / (now - earlier) * one[2]
        smooth[i] = (smooth[i] or value) + weight * (value - (smooth[i] or value))
        send(i, smooth[i], ("%.3f s"):format(now))
      end
      count.rows = count.rows + 1
      take_verdicts(0)
      before, earlier = values, now
    end
  end
end

-- The main program -------------------------------------------------------------------------------

-- As many kernels as the series need, and their settings.
local function launch()
  local wanted = { window = options.window or anomaly.WINDOW, threshold = options.threshold or 3.5 }
  local ack
  for i = 1, (#names - 1) // anomaly.SERIES + 1 do
    kernels[i], latest[i] = runtime:spawn("anomaly", { name = "anomaly " .. i }), 0
    rk.monitor(kernels[i])
    ack = wanted.threshold > 0 and kernels[i]:call(anomaly.Configure(wanted))
    if not ack or not ack.accepted then
      give_up(2, "--window is 8 to %d and --threshold above 0, not %g and %g", anomaly.WINDOW,
        wanted.window, wanted.threshold)
    end
  end
  return ack
end

-- 1234567 -> 1,234,567
local function grouped(n)
  return (("%d"):format(n):reverse():gsub("(%d%d%d)", "%1,"):reverse():gsub("^,", ""))
end

-- The series with most anomalies.
local function worst_series()
  local order = {}
  for series in pairs(found_in) do
    order[#order + 1] = series
  end
  table.sort(order, function(a, b)
    return found_in[a] == found_in[b] and a < b or found_in[a] > found_in[b]
  end)
  for i, series in ipairs(order) do
    order[i] = names[series] .. " " .. found_in[series]
  end
  return table.concat(order, ", ", 1, math.min(#order, 4)) .. (#order > 4 and ", ..." or "")
end

local function summarize(seconds)
  local hidden = { anomalies = found - shown, ["malformed rows"] = count.malformed - SHOWN }
  for what, n in pairs(hidden) do
    if n > 0 and not options.all then
      print(("... and %s more %s; --all prints them"):format(grouped(n), what))
    end
  end
  print()
  print(("points      %s verdicts for %s values of %d series in %.2f s: %s points/s"):format(
    grouped(answered), grouped(sent), #names, seconds, grouped(answered / seconds // 1)))
  if options.source then
    print(("rows        %s, and %d malformed, %d blank; %d values missing, %d refused; "
      .. "%d out of order"):format(grouped(count.rows - count.malformed), count.malformed,
      count.blank, count.missing, count.refused, count.backwards))
  else
    print(("ticks       %s, and %d left out because they came a whole period late"):format(
      grouped(count.rows), count.late))
  end
  print(("round trip  p50 %.1f us, p99 %.1f us, from send to verdict, up to %d in flight"):format(
    percentile(0.50, answered), percentile(0.99, answered), in_flight))
  print(("anomalies   %d%s%s"):format(found, found > 0 and ": " or "", worst_series())
    .. (following > 0 and ("; %d more values right after one"):format(following) or ""))
end

local title, stream = (options.source and open_csv or open_machine)(options.source)
local settings = launch()
print(("%s -> %s on %s: %d series, window %d, threshold %g"):format(title,
  #kernels == 1 and "ring kernel" or #kernels .. " ring kernels", runtime:device(), #names,
  settings.window, settings.threshold))

-- Printed whatever ends the stream, Ctrl-C too.
local start = rk.now()
local _ <close> = setmetatable({}, { __close = function() summarize(rk.now() - start) end })
stream()
take_verdicts(0)
