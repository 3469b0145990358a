-- spec.lua: what runtime:supervise and start_child are given: checked, completed, copied.
--
-- A checked child has
--   id, restart, keep, shutdown   as in the documentation, with the defaults filled in
--   options                       of spawn, with `args`
--   definition                    what spawn takes, resolved where the tree was described; or, when
--                                 the child is a supervisor:
--   strategy, intensity, period, children
-- A definition is resolved here and not where it is launched, so that a tree goes on starting what
-- its author meant when a name is defined again.
--
-- Errors are raised as tables {text =} and get the position of the caller in supervisor.lua.

local core = require "rk.supervisor.core"

local error, ipairs, math, pairs, pcall, type = error, ipairs, math, pairs, pcall, type

local function set(...)
  local keys = {}
  for _, key in ipairs { ... } do
    keys[key] = true
  end
  return keys
end

local strategies = set("one_for_one", "one_for_all", "rest_for_one")
local restarts = set("permanent", "transient", "temporary")
local states = set("reset", "keep")
local host_options = set("name", "cpu", "mailbox", "full", "stack")
local tree_keys = set("strategy", "intensity", "period", "name", "cpu", "mailbox", "full", "stack")
local nested_keys = set("id", "restart", "shutdown", "strategy", "intensity", "period", "name", "cpu",
  "mailbox", "full", "stack")
local own_keys = set("id", "start", "restart", "shutdown", "state")

local worker_keys = set("id", "start", "restart", "shutdown", "state")
for _, key in ipairs(core.spawn_options) do
  worker_keys[key] = worker_keys[key] or (key ~= "args" and key ~= "estate") or nil
end

local function listed(keys)
  local names = {}
  for key in pairs(keys) do
    names[#names + 1] = key
  end
  table.sort(names)
  return table.concat(names, ", ")
end

local function fail(where, format, ...)
  error({ text = where .. " " .. format:format(...) }, 0)
end

local function quoted(value)
  return type(value) == "string" and '"' .. value .. '"' or tostring(value)
end

-- One of a few words, or nil for the first that is meant.
local function word(where, what, value, known, otherwise)
  if value == nil then
    return otherwise
  elseif not known[value] then
    fail(where, "has an unknown %s %s; there are: %s", what, quoted(value), listed(known))
  end
  return value
end

local function number(where, what, value, otherwise, least, say)
  if value == nil then
    return otherwise
  elseif type(value) ~= "number" or value ~= value or not least(value) then
    fail(where, "has a bad %s %s: it must be %s", what, quoted(value), say)
  end
  return value
end

local shutdown_means = "seconds, 0 or more, or math.huge"

local function not_negative(n)
  return n >= 0
end

-- The children of a tree are its items; the highest index counts, so that a nil among them is seen.
local function count_items(where, spec, known)
  local last = 0
  for key in pairs(spec) do
    if math.type(key) == "integer" and key >= 1 then
      last = key > last and key or last
    elseif not known[key] then
      fail(where, "has an unknown key %s; known keys: %s, and children by position", quoted(key),
        listed(known))
    end
  end
  return last
end

local function check_options(where, options)
  local ok, why = pcall(core.check_options, options)
  if not ok then
    fail(where, "cannot be started: %s", (tostring(why):gsub("^.-:%d+: ", "")))
  end
end

local function own_name(where, spec)
  if spec.name ~= nil and type(spec.name) ~= "string" then
    fail(where, "has a name that is a %s: it must be a string", type(spec.name))
  end
  return spec.name
end

local function options_of(where, spec, known)
  local options = {}
  for key, value in pairs(spec) do
    if type(key) == "string" and known[key] and not own_keys[key] then
      options[key] = value
    end
  end
  check_options(where, options)
  return options
end

-- Names are unique in a runtime, so in a tree.
local function claim_name(where, name, context)
  if name ~= nil and context.names[name] then
    fail(where, "has the name %q, which %s has already", name, context.names[name])
  elseif name ~= nil then
    context.names[name] = where
  end
end

local function claim_id(where, id, ids)
  if id == nil then
    fail(where, "has no id: give it one (id = \"...\"), or a name")
  elseif type(id) ~= "string" or id == "" then
    fail(where, "has a bad id %s: an id is a string that is not empty", quoted(id))
  elseif ids[id] then
    fail(where, "has the id %q, which %s has already: ids are unique among the children of a "
      .. "supervisor", id, ids[id])
  end
  ids[id] = where
  return id
end

-- What `start` holds: definition, arguments.
local function start_of(where, spec)
  local start = spec.start
  if start == nil then
    fail(where, "has no start: start = { definition, arguments... }, or a strategy and children "
      .. "of its own")
  elseif type(start) ~= "table" then
    return start, { n = 0 }
  elseif start[1] == nil then
    fail(where, "has a start without a definition: start = { definition, arguments... }%s",
      next(start) ~= nil and "; a handler table goes inside: start = { { call = ... } }" or "")
  end
  local last = 1
  for key in pairs(start) do
    if math.type(key) ~= "integer" or key < 1 then
      if key ~= "n" then
        fail(where, "has a start with the key %s; it holds the definition and its arguments", quoted(key))
      end
    elseif key > last then
      last = key
    end
  end
  last = math.tointeger(start.n) or last
  return start[1], table.pack(table.unpack(start, 2, last))
end

local function resolve(where, value)
  local ok, definition, kind, name = pcall(core.resolve, value)
  if not ok then
    fail(where, "cannot be started: %s", (tostring(definition):gsub("^.-:%d+: ", "")))
  elseif definition == nil then
    fail(where, "cannot be started: %s", kind)
  end
  return definition, kind, name
end

local function check_travel(where, value)
  local ok, why = core.capturable(value)
  if not ok then
    fail(where, "cannot be given to its supervisor: %s", why)
  end
end

-- state = "keep": the memory of a ring kernel outlives its instances.
local function keeps(where, spec, kind)
  if word(where, "state", spec.state, states, "reset") == "reset" then
    return false
  elseif kind ~= "kernel" then
    fail(where, "has state = \"keep\", which is for ring kernels: a host actor starts from its "
      .. "arguments")
  elseif not core.estate then
    fail(where, "has state = \"keep\", which this build cannot do")
  end
  return true
end

local function worker(where, spec, ids, context)
  local value, arguments = start_of(where, spec)
  local definition, kind, definition_name = resolve(where, value)
  if spec.args ~= nil then
    fail(where, "has args: arguments follow the definition, start = { definition, arguments... }")
  end
  for key in pairs(spec) do
    if not worker_keys[key] then
      fail(where, "has an unknown key %s; known keys: %s", quoted(key), listed(worker_keys))
    end
  end
  local name = own_name(where, spec)
  local child = {
    id = claim_id(where, spec.id == nil and (name or definition_name) or spec.id, ids),
    restart = word(where, "restart", spec.restart, restarts, "permanent"),
    shutdown = number(where, "shutdown", spec.shutdown, 2.0, not_negative, shutdown_means),
    keep = keeps(where, spec, kind),
    options = options_of(where, spec, worker_keys),
    definition = definition,
    kind = kind,
  }
  if kind ~= "lua" and arguments.n > 0 then
    fail(where, "has arguments in start: a %s gets everything by messages",
      kind == "kernel" and "ring kernel" or "C actor")
  end
  claim_name(where, name or (kind == "kernel" and definition_name) or nil, context)
  check_travel(where, { definition, arguments })
  child.options.args = arguments.n > 0 and arguments or nil
  return child
end

local check_tree -- below; trees nest

local function is_tree(spec)
  return spec.strategy ~= nil or spec[1] ~= nil or spec.intensity ~= nil or spec.period ~= nil
end

-- where: how errors name this one; position: the same by number.
local function nested(where, position, spec, ids, context)
  if spec.start ~= nil then
    fail(where, "has both start and children of its own; a child is a worker or a supervisor")
  elseif spec.state ~= nil then
    fail(where, "has a state: it is a supervisor, state is for ring kernels")
  end
  local name = own_name(where, spec)
  local id = claim_id(where, spec.id == nil and name or spec.id, ids)
  local child = check_tree(where, name or id, position, spec, nested_keys, context)
  child.id = id
  child.restart = word(where, "restart", spec.restart, restarts, "permanent")
  child.shutdown = number(where, "shutdown", spec.shutdown, math.huge, not_negative,
    shutdown_means)
  return child
end

-- One child. at: { label = of its supervisor, inside = the words for errors }
local function check_child(spec, i, at, ids, context)
  local position = i and ("child %d of %s"):format(i, at.label) or "the new child of " .. at.label
  if type(spec) ~= "table" then
    fail(position .. at.inside,
      "is %s: a child is a table { id =, start = { definition, arguments... }, ... }%s",
      spec == nil and "nil" or "a " .. type(spec), spec == nil and "; is a variable not set?" or "")
  elseif context.above[spec] then
    fail(position, "is the supervisor %s itself: a tree cannot contain itself", context.above[spec])
  end
  local id = type(spec.id) == "string" and spec.id or type(spec.name) == "string" and spec.name
  local where = (id and ("child %q of %s"):format(id, at.label) or position) .. at.inside
  if is_tree(spec) then
    return nested(where, position, spec, ids, context)
  end
  return worker(where, spec, ids, context)
end

function check_tree(where, name, position, spec, known, context)
  local last, own = count_items(where, spec, known), own_name(where, spec)
  local label = name and '"' .. name .. '"' or "the supervisor"
  local tree = {
    strategy = word(where, "strategy", spec.strategy, strategies, "one_for_one"),
    intensity = number(where, "intensity", spec.intensity, 3, function(n)
      return n >= 0 and math.tointeger(n) ~= nil
    end, "a whole number of restarts, 0 or more"),
    period = number(where, "period", spec.period, 5, function(n)
      return n > 0
    end, "seconds, above 0"),
    options = options_of(where, spec, host_options),
    children = {},
  }
  claim_name(where, own, context)
  context.above[spec] = label
  local ids, at = {}, { label = label, inside = position and " (" .. position .. ")" or "" }
  for i = 1, last do
    tree.children[i] = check_child(spec[i], i, at, ids, context)
  end
  context.above[spec] = nil
  return tree
end

local spec = {}

-- A whole tree.
function spec.tree(description)
  if type(description) ~= "table" then
    fail("a supervisor", "is described by a table { strategy =, children... }, not by a %s",
      type(description))
  end
  local name = type(description.name) == "string" and description.name or nil
  local where = name and ("the supervisor %q"):format(name) or "the supervisor"
  return check_tree(where, name, nil, description, tree_keys, { names = {}, above = {} })
end

-- One child for a supervisor that runs; label: how errors name that one.
function spec.child(description, label)
  local context = { names = {}, above = {} }
  local at = { label = label, inside = "" }
  return check_child(description, nil, at, {}, context)
end

return spec
