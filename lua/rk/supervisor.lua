-- supervisor.lua: trees of actors that are started again when they fail (as Erlang's supervisor).
--
-- runtime:supervise(description) checks and completes the description (supervisor/spec.lua) in the
-- caller's state; what comes out is captured and launched as an actor of the kind "supervisor",
-- whose thread runs supervisor/loop.lua. The functions here are calls to that actor: the request is
-- a captured table, so that a child's functions can travel in it.
--
-- `core` is supervise.c.

local rk = require "rk"
local core = require "rk.supervisor.core"

local error, getmetatable, pcall, tostring, type = error, getmetatable, pcall, tostring, type

local supervisor = {}

-- Where the code that called a function of this module is, as error() would say.
local function where()
  for level = 3, 20 do
    local info = debug.getinfo(level, "Sl")
    if not info then
      break
    elseif info.what ~= "C" and not info.source:find("^@lua/rk/supervisor") then
      return info.currentline > 0 and ("%s:%d: "):format(info.short_src, info.currentline) or ""
    end
  end
  return ""
end

-- What is checked in spec.lua: its complaint, with the position of who described the child.
local function checked(check, ...)
  local ok, value = pcall(check, ...)
  if ok then
    return value
  elseif type(value) == "table" and getmetatable(value) == nil and value.text then
    error(where() .. value.text, 0)
  end
  error(value, 0)
end

-- runtime:supervise(description)
function supervisor.supervise(runtime, description)
  local tree = checked(require("rk.supervisor.spec").tree, description)
  local ok, pid = pcall(core.launch, runtime, tree, tree.options)
  if ok then
    return pid
  elseif type(pid) == "table" and pid.message then
    pid.message = pid.message:gsub("^actor <.-> did not start: ", "")
    pid.where = where()
  end
  error(pid, 0)
end

-- The pid of a running supervisor; or nil, message, code.
local function target(value)
  if type(value) == "string" then
    local pid, why, code = rk.whereis(value)
    if not pid then
      return nil, why, code
    end
    value = pid
  end
  local kind, why, code = core.kind(value)
  if not kind then
    return nil, why, code
  elseif kind ~= "supervisor" then
    error(("%s%s is no supervisor, its kind is %s"):format(where(), tostring(value), kind), 0)
  end
  return value
end

local function request(value, name, argument)
  local pid, why, code = target(value)
  if not pid then
    return nil, why, code
  end
  local parcel
  parcel, why, code = core.parcel(pid, { name = name, argument = argument })
  if not parcel then
    return nil, why, code
  end
  return pid:timeout(-1):try_call(parcel)
end

local function named(name)
  return function(pid, id)
    if type(id) ~= "string" then
      error(("%sthe id of a child is a string, not a %s"):format(where(), type(id)), 0)
    end
    return request(pid, name, id)
  end
end

function supervisor.which_children(pid)
  return request(pid, "which_children")
end

supervisor.children = supervisor.which_children

function supervisor.count_children(pid)
  return request(pid, "count_children")
end

function supervisor.start_child(value, description)
  local pid, why, code = target(value)
  if not pid then
    return nil, why, code
  end
  local label = pid.name and '"' .. pid.name .. '"' or "the supervisor"
  return request(pid, "start_child", checked(require("rk.supervisor.spec").child, description, label))
end

supervisor.terminate_child = named "terminate_child"
supervisor.restart_child = named "restart_child"
supervisor.delete_child = named "delete_child"

return supervisor
