-- server.lua: the loop of an actor that is a table of handlers (as Erlang's gen_server).
--
--   init(self, ...)             first, with the arguments of spawn; its failure is spawn's failure.
--                               So is `return nil, "why"`.
--   call.NAME(self, ...)        pid:call("NAME", ...); what it returns first is the answer
--   call.TYPE(self, msg, from)  a typed message whose sender waits for an answer
--   cast.NAME, cast.TYPE        the same without an answer
--   info(self, msg, from)       everything else; when somebody waits, what it returns (not nil)
--                               is the answer, and without one the caller hears ENOREPLY
--   terminate(self, reason)     last: after a stop request, and after a handler failed
--
-- `self` is a table of the actor's own, self.ctx its context. A handler that gives rk.noreply to a
-- caller answers later: it keeps self.ctx.request and somebody calls self.ctx:reply(request, answer).
-- One handler runs at a time, also while it waits. A handler that fails fails the actor, and its caller
-- gets the error.
--
-- `core` is server.c: next, answer, refuse, started, noreply, ctx.

local tostring, type, xpcall, error = tostring, type, xpcall, error

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
  for name in pairs(entries or {}) do
    names[#names + 1] = tostring(name)
  end
  table.sort(names)
  return #names > 0 and table.concat(names, ", ") or "none"
end

return function(core, handlers, ...)
  local next_message, answer, refuse, noreply = core.next, core.answer, core.refuse, core.noreply
  local call, cast, info = handlers.call or {}, handlers.cast or {}, handlers.info
  local self = { ctx = core.ctx }

  local function end_with(reason)
    if handlers.terminate then
      handlers.terminate(self, reason)
    end
  end

  -- The actor fails with its handler; terminate gets its chance, but cannot change the reason. The
  -- traceback behind the message is for the log.
  local function fail(reason)
    local cut = reason:find("\nstack traceback:", 1, true)
    xpcall(end_with, trace, cut and reason:sub(1, cut - 1) or reason)
    error(reason, 0)
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

  -- One message. kind: "call" and "cast" by name, "message" for the rest, "stop".
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
      core.log("warn", "a cast to '" .. a .. "' was dropped; there are: " .. known(cast))
      return true
    elseif kind == "stop" then
      end_with(a)
      return false
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
      refuse("ENOENT", "no handler for this " .. (b and "'" .. b .. "'" or "message")
        .. " here; calls: " .. known(call))
    end
    return true
  end

  if handlers.init then
    local value, why = handlers.init(self, ...)
    if value == nil and why ~= nil then
      error(tostring(why), 0)
    end
  end
  core.started()
  while handle(next_message()) do end
end
