-- server.lua: the loop of an actor that is a table of handlers (as Erlang's gen_server).
--
--   init(self, ...)             first, with the arguments of spawn; its failure is spawn's failure.
--                               So is `return nil, "why"`.
--   call.NAME(self, ...)        pid:call("NAME", ...); what it returns first is the answer
--   call.TYPE(self, msg, from)  a typed message whose sender waits for an answer
--   cast.NAME, cast.TYPE        the same without an answer
--   topic[PATTERN](self, msg, topic, from)   published messages; subscribed to after init
--   info(self, msg, from, topic)  everything else; when somebody waits, what it returns (not nil)
--                               is the answer, and without one the caller hears ENOREPLY
--   terminate(self, reason)     last: after a stop request, and after a handler failed
--   migrate(state)              first after pid:upgrade with this table: the old self's fields; the
--                               table it returns is what self has from now on
--   reentrant = true | n        handlers of up to n (1000) messages interleave where they wait
--   stash = n                   the most messages in the stash (1000)
--
-- `self` is a table of the actor's own, self.ctx its context. A handler that gives rk.noreply to a
-- caller answers later: it keeps self.ctx.request and somebody calls self.ctx:reply(request, answer).
-- One handler runs at a time, also while it waits, unless `reentrant`: then only init, terminate and
-- migrate are alone. A handler that fails fails the actor, and its caller gets the error; other
-- handlers that run are cut off. After a stop request nothing begins, and those that run get to
-- their end (rk.sleep and receive tell them of the stop). What no entry takes is a dead letter
-- ("EREJECTED").
--
-- self.ctx:become(handlers [, keep]) replaces all entries but init from the next message on, keep:
-- until unbecome(); self.ctx:stash() puts the message that is handled aside until unstash().
--
-- `core` is server.c and upgrade.c.

local rk = require "rk"
local tostring, type, xpcall, error = tostring, type, xpcall, error

local DEPTH <const> = 100 -- handler tables that become(..., true) keeps
local NONE <const> = {}

-- An error that is no string, as the exit reason shows it.
local function describe(err)
  if err == nil then
    return "nil error"
  elseif type(err) == "table" and not (getmetatable(err) or {}).__tostring then
    return "error object: " .. require("rk.pretty").format(err)
  end
  return tostring(err)
end

local function trace(err)
  if type(err) == "string" then
    return debug.traceback(err, 2)
  end
  return describe(err)
end

local function known(entries)
  local names = {}
  for name in pairs(entries) do
    names[#names + 1] = tostring(name)
  end
  table.sort(names)
  return #names > 0 and table.concat(names, ", ") or "none"
end

-- Patterns in the order in which they are tried: a word before *, * before >.
local function by_rank(entries)
  local patterns, ranks = {}, {}
  for pattern in pairs(entries) do
    patterns[#patterns + 1] = pattern
    ranks[pattern] = pattern:gsub("[^.]+", { ["*"] = "\1", [">"] = "\2" }):gsub("[^.\1\2]+", "\0%0")
  end
  table.sort(patterns, function(a, b) return ranks[a] < ranks[b] end)
  return patterns
end

-- The value a definition's module gives, loaded afresh; path: keys inside it. What was loaded before
-- comes back when `undo` is called.
local function reload(name, ...)
  local loaded = package.loaded
  local before = loaded[name]
  loaded[name] = nil
  local function undo()
    loaded[name] = before
  end
  local ok, value = xpcall(require, trace, name)
  if not ok then
    undo()
    error(value, 0)
  end
  for _, key in ipairs { ... } do
    value = type(value) == "table" and value[key] or nil
  end
  return value, undo
end

return function(core, definition, ...)
  local next_message, answer, refuse, noreply = core.next, core.answer, core.refuse, core.noreply
  local self = { ctx = core.ctx }
  local current, below = definition, {} -- the handlers in force, and what unbecome goes back to
  local patterns, subscribed = NONE, NONE
  local call, cast, info, terminate
  local reentrant, started, failure, ended

  -- Which entry a published message goes to: the most specific pattern that matches.
  local function topic_entry(topic)
    for _, pattern in ipairs(patterns) do
      if core.matches(pattern, topic) then
        return current.topic[pattern]
      end
    end
  end

  -- Subscribes to the patterns of these handlers instead of the present ones; raises.
  local function subscribe(handlers)
    local before, after, added = subscribed, handlers.topic or NONE, {}
    for pattern in pairs(after) do
      if not before[pattern] then
        local ran, done, why = pcall(rk.subscribe, pattern)
        if not (ran and done) then
          for _, one in ipairs(added) do
            rk.unsubscribe(one)
          end
          error(("topic '%s': %s"):format(pattern, tostring(ran and why or done)), 0)
        end
        added[#added + 1] = pattern
      end
    end
    for pattern in pairs(before) do
      if not after[pattern] then
        rk.unsubscribe(pattern)
      end
    end
    subscribed = after
  end

  local function install(handlers)
    current, patterns = handlers, by_rank(handlers.topic or NONE)
    call, cast = handlers.call or NONE, handlers.cast or NONE
    info, terminate = handlers.info, handlers.terminate
  end

  local function end_with(reason)
    if terminate then
      terminate(self, reason)
    end
  end

  -- The actor fails with its handler; terminate gets its chance, but cannot change the reason. The
  -- traceback behind the message is for the log.
  local function die(reason)
    local cut = reason:find("\nstack traceback:", 1, true)
    xpcall(end_with, trace, cut and reason:sub(1, cut - 1) or reason)
    error(reason, 0)
  end

  -- A handler in a coroutine of its own leaves the end to the loop.
  local function fail(reason)
    if not reentrant then
      return die(reason)
    end
    failure = failure or reason
    core.failed()
  end

  local function called(ok, value)
    if not ok then
      refuse("EHANDLER", value)
      return fail(value)
    end
    if value ~= noreply then
      local sent, why = answer(value)
      if not sent then
        refuse("ETYPE", why)
        return fail(why)
      end
    end
    return true
  end

  local function ran(ok, value)
    return ok or fail(value)
  end

  local function informed(waits, ok, value)
    if waits and ok and value == nil then
      refuse("ENOREPLY", "info of this actor saw the request and gave no answer"
        .. " (it returned neither a value nor rk.noreply)")
      return true
    elseif waits then
      return called(ok, value)
    end
    return ran(ok, value)
  end

  local function what(name)
    return name and "'" .. name .. "'" or "message"
  end

  -- What is no message ends the loop's inner round.
  local upgrade
  local function other(kind, a)
    if kind == "stop" then
      end_with(a)
      ended = true
    elseif kind == "upgrade" then
      upgrade(a)
    end
    return false
  end

  local function published(topic, type_name, message, from)
    local handler = topic_entry(topic)
    if handler then
      return ran(xpcall(handler, trace, self, message, topic, from))
    end
    handler = type_name and cast[type_name] or info
    if handler then
      return ran(xpcall(handler, trace, self, message, from, topic))
    end
    core.reject("no topic entry, cast or info here takes this " .. what(type_name))
    return true
  end

  -- One message. kind: "call" and "cast" by name, "topic" for published ones, "message" for the rest.
  local function handle(kind, a, b, ...)
    if kind == "call" then
      local handler = call[a]
      if handler then
        return called(xpcall(handler, trace, self, b, ...))
      end
      refuse("ENOENT", "no call '" .. a .. "' here; there are: " .. known(call))
      return true
    elseif kind == "cast" then
      local handler = cast[a]
      if handler then
        return ran(xpcall(handler, trace, self, b, ...))
      end
      core.reject("no cast '" .. a .. "' here; there are: " .. known(cast))
      return true
    elseif kind ~= "message" then
      if kind == "topic" then
        return published(a, b, ...)
      end
      return other(kind, a)
    end
    -- a: whether the sender waits; b: the name of the type, or nil; then message and sender
    local handler = b and (a and call or cast)[b]
    if handler and a then
      return called(xpcall(handler, trace, self, ...))
    elseif handler then
      return ran(xpcall(handler, trace, self, ...))
    elseif info then
      return informed(a, xpcall(info, trace, self, ...))
    elseif a then
      refuse("ENOENT", "no handler for this " .. what(b) .. " here; calls: " .. known(call))
    else
      core.reject("no handler for this " .. what(b) .. " here, and no info; casts: " .. known(cast))
    end
    return true
  end

  -- Reentrant: each message in a coroutine of its own, in the order in which they come.
  local start = core.start
  local function concurrently(kind, ...)
    if kind == "stop" or kind == "upgrade" or kind == "again" then
      return other(kind, ...)
    end
    start(handle, kind, ...)
    return true
  end

  -- become and unbecome

  core.method("become", function(_, handlers, keep)
    if type(handlers) ~= "table" then
      error("become: a handler table is expected, not a " .. type(handlers), 2)
    end
    local ok, why = pcall(core.check, handlers)
    if not ok then
      error("become: " .. why, 2)
    end
    for _, key in ipairs { "reentrant", "stash" } do
      if handlers[key] ~= nil and handlers[key] ~= definition[key] then
        error("become: '" .. key .. "' belongs to the actor's definition and stays as it is", 2)
      end
    end
    if keep and #below >= DEPTH then
      error("become: " .. DEPTH .. " handler tables are kept already; unbecome, or do not keep", 2)
    end
    if started then
      subscribe(handlers)
    end
    if keep then
      below[#below + 1] = current
    end
    install(handlers)
  end)

  core.method("unbecome", function()
    local before = below[#below] or definition
    below[#below] = nil
    local changed = before ~= current
    if started then
      subscribe(before)
    end
    install(before)
    return changed
  end)

  -- pid:upgrade

  -- The new handlers, and what undoes the loading; raises.
  local function new_definition(value, ...)
    local undo
    if type(value) == "string" then
      value, undo = reload(value, ...)
    end
    if type(value) == "table" then
      core.check(value)
    elseif type(value) == "function" then
      error("a function cannot replace what an actor runs: only a handler table can", 0)
    else
      error("the definition is a handler table, not a " .. type(value), 0)
    end
    return value, undo
  end

  local function migrated(handlers)
    local old = {}
    for key, value in next, self do
      old[key] = value
    end
    old.ctx = nil
    local state = handlers.migrate(debug.setmetatable(old, debug.getmetatable(self)))
    if type(state) ~= "table" then
      error("migrate must return a table, what self has from now on, not a " .. type(state), 0)
    end
    return state
  end

  -- self stays the same table: timers and forks of the old code have it.
  local function take_over(state)
    for key in next, self do
      self[key] = nil
    end
    for key, value in next, state do
      rawset(self, key, value)
    end
    debug.setmetatable(self, debug.getmetatable(state))
    rawset(self, "ctx", core.ctx)
  end

  local undo
  local function prepare(task)
    local handlers, state
    handlers, undo = new_definition(core.load(task))
    if handlers.migrate then
      state = migrated(handlers)
    end
    subscribe(handlers)
    return handlers, state
  end

  function upgrade(task)
    undo = nil
    local ok, handlers, state = xpcall(prepare, trace, task)
    if not ok then
      if undo then
        undo()
      end
      core.upgraded(task, "ELUA", handlers)
      return
    end
    if state then
      take_over(state)
    end
    definition, below = handlers, {}
    install(handlers)
    reentrant = core.limits(handlers)
    core.upgraded(task)
  end

  install(definition)
  reentrant = core.limits(definition)
  if definition.init then
    local value, why = definition.init(self, ...)
    if value == nil and why ~= nil then
      error(tostring(why), 0)
    end
  end
  subscribe(current)
  started = true
  core.started()
  repeat
    local step = reentrant and concurrently or handle
    while step(next_message()) do end
    if failure then
      core.cut()
      die(failure)
    end
  until ended
end
