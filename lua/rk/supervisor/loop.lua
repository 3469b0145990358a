-- loop.lua: what runs on a supervisor's thread.
--
-- It traps exits, starts its children in order, and then takes one thing after the other: the end
-- of a child, a request of rk.supervisor, the end of its own supervisor, a stop request. While it
-- waits for a child to end only such ends are taken, the rest stays in the mailbox; a stop request
-- that comes meanwhile is remembered in self.stopping and obeyed next.
--
-- Every child is linked and monitored before it runs (core.start): the monitor says when it ends;
-- the link ends it with a supervisor that was killed and could not stop it.
--
-- A restart that fails is tried again after a look at the mail (self.again), and counts like the
-- first: so it ends by the intensity at last.

local rk = require "rk"
local core = require "rk.supervisor.core"

local error, ipairs, math, pcall, setmetatable, table = error, ipairs, math, pcall, setmetatable, table

local KILL_GRACE = 5 -- seconds until a killed child is given up

-- The failure of a supervisor, as an error: no traceback of this file belongs to it.
local Failure = {}
Failure.__tostring = function(failure)
  return failure.text
end

local function give_up(text)
  error(setmetatable({ text = text }, Failure), 0)
end

local function seconds(n)
  return n == math.huge and "ever" or ("%g s"):format(n)
end

-- How long the slowest of these may take to end.
local function patience(children)
  local longest = 0
  for _, child in ipairs(children) do
    longest = math.max(longest, child.children and patience(child.children) or child.shutdown)
  end
  return longest
end

-- Tells the runtime what this supervisor is and how long it may need to stop.
local function show(self)
  local longest = patience(self.children) + KILL_GRACE
  core.patience(longest == math.huge and -1 or longest)
  local children, restarts = #self.children, self.restarted
  rk.label(("%s, %d %s, %d %s"):format(self.strategy, children, children == 1 and "child" or "children",
    restarts, restarts == 1 and "restart" or "restarts"))
end

local function index_of(self, child)
  for i, other in ipairs(self.children) do
    if other == child then
      return i
    end
  end
end

local function find(self, id)
  for _, child in ipairs(self.children) do
    if child.id == id then
      return child
    end
  end
end

---------------------------------------------------------------------------------------------------
-- Starting and stopping one child
---------------------------------------------------------------------------------------------------

-- The child's own words: without who did not start, and for a supervisor with the path of ids.
local function why_not(child, text)
  text = text:gsub("^actor <.-> did not start: ", "")
  local path, reason = text:match('^child "(.-)" did not start: (.*)$')
  if child.children and path then
    return child.id .. "/" .. path, reason
  end
  return child.id, text
end

-- True, or nil, the path of ids, the reason and its code.
local function start(self, child)
  if child.keep and not child.options.estate then
    child.options.estate = core.estate()
  end
  local what, is_tree = child.definition or child, child.children ~= nil
  local ok, pid = pcall(core.start, self.runtime, what, child.options, is_tree)
  if not ok then
    local text = type(pid) == "table" and pid.message or tostring(pid)
    local path, reason = why_not(child, text)
    return nil, path, reason, type(pid) == "table" and pid.code or "ELUA"
  end
  child.pid, child.state = pid, "running"
  child.last_kind = pid.kind or child.last_kind
  self.by_pid[pid] = child
  return true
end

local function forget(self, child)
  self.by_pid[child.pid] = nil
  child.pid, child.state = nil, "stopped"
end

-- Takes the end of this child; ends of others are kept for later. False: not within the time.
local function await_end(self, pid, timeout)
  local deadline = rk.now() + timeout
  while true do
    local left = timeout == math.huge and -1 or math.max(deadline - rk.now(), 0)
    local message, why = rk.receive("down", left)
    if message and message.pid == pid then
      return true
    elseif message then
      table.insert(self.ended, message)
    elseif why == "stop" then
      self.stopping = true
    else
      return false
    end
  end
end

-- The children of a supervisor that was killed are ending, by their links, but may hold their names
-- still: who starts the supervisor again needs those.
local function bury_orphans(pid)
  for _, orphan in ipairs(core.orphans(pid)) do
    orphan:stop("its supervisor ended", KILL_GRACE)
    bury_orphans(orphan)
  end
end

-- What an end leaves behind. A ring kernel that FAILED keeps its slot and name until it is
-- terminated.
local function bury(child, pid)
  if child.last_kind == "kernel" then
    pid:stop("ended", KILL_GRACE)
  elseif child.children then
    bury_orphans(pid)
  end
end

-- Whether its end is among those that wait to be looked at.
local function ended_already(self, pid)
  for i, down in ipairs(self.ended) do
    if down.pid == pid then
      return table.remove(self.ended, i)
    end
  end
end

-- Asks, waits, kills.
local function stop(self, child)
  local pid = child.pid
  if not pid then
    child.state = "stopped"
    return
  end
  if not ended_already(self, pid) then
    if child.shutdown > 0 then
      core.stop(pid, "shutdown")
    end
    if child.shutdown == 0 or not await_end(self, pid, child.shutdown) then
      if child.shutdown > 0 then
        rk.log("warn", 'child "%s" %s did not stop within %s: killing it', child.id, tostring(pid),
          seconds(child.shutdown))
      end
      core.kill(pid, "killed: shutdown")
      if not await_end(self, pid, KILL_GRACE) then
        rk.log("error", 'child "%s" %s cannot be stopped: its code does not come back to the runtime; '
          .. "it is left behind", child.id, tostring(pid))
      end
    end
  end
  bury(child, pid)
  forget(self, child)
end

-- Those from `first` on, last one first. Temporary ones go for good when `restarting`.
local function stop_from(self, first, restarting)
  for i = #self.children, first, -1 do
    local child = self.children[i]
    stop(self, child)
    if restarting and child.restart == "temporary" then
      table.remove(self.children, i)
    end
  end
end

---------------------------------------------------------------------------------------------------
-- Restarting
---------------------------------------------------------------------------------------------------

-- Counts one restart; false: it is one too many.
local function count_restart(self)
  local now, recent = rk.now(), {}
  for _, at in ipairs(self.recent) do
    if now - at <= self.period then
      recent[#recent + 1] = at
    end
  end
  recent[#recent + 1] = now
  self.recent = recent
  return #recent <= self.intensity
end

local function escalate(self, child, reason)
  stop_from(self, 1)
  show(self)
  if self.intensity == 0 then
    give_up(('child "%s" ended, and no restart is allowed: %s'):format(child.id, reason))
  end
  give_up(('child "%s" ended too often (more than %d restart%s in %s): %s'):format(child.id, self.intensity,
    self.intensity == 1 and "" or "s", seconds(self.period), reason))
end

-- Which children a restart of this one concerns: first and last index.
local function range(self, child)
  local at = index_of(self, child)
  if self.strategy == "one_for_all" then
    return 1
  elseif self.strategy == "rest_for_one" then
    return at
  end
end

local function start_again(self, child, reason)
  local ok, path, why = start(self, child)
  if ok then
    return true
  end
  if child.state ~= "restarting" then
    child.state = "restarting"
    table.insert(self.again, child)
  end
  child.failure = why
  rk.log("warn", 'child "%s" did not start again: %s (it had ended: %s)', path, why, reason)
  return false
end

local function restart_group(self, first, reason)
  stop_from(self, first, true)
  for i = first, self.stopping and 0 or #self.children do
    if not start_again(self, self.children[i], reason) then
      return false
    end
  end
  return not self.stopping
end

-- `was`: what happened to the child, for the log.
local function restart(self, child, reason, was)
  if not count_restart(self) then
    escalate(self, child, reason)
  end
  self.restarted = self.restarted + 1
  child.restarts = child.restarts + 1
  local first = range(self, child)
  local ok
  if first then
    ok = restart_group(self, first, reason)
  else
    ok = start_again(self, child, reason)
  end
  if ok then
    local others = not first and ""
      or self.strategy == "one_for_all" and ", with all others" or ", with those after it"
    rk.log("warn", 'child "%s" %s: %s; restarted as %s%s (restart %d of %d in %s)', child.id, was,
      reason, tostring(child.pid), others, #self.recent, self.intensity, seconds(self.period))
  end
  show(self)
end

local function remove(self, child)
  table.remove(self.children, index_of(self, child))
  show(self)
end

-- A child ended by itself, or somebody else stopped it.
local function child_ended(self, down)
  local child = self.by_pid[down.pid]
  if not child then
    return -- one that this supervisor stopped, or gave up
  end
  local was = tostring(down.pid) .. " ended"
  forget(self, child)
  bury(child, down.pid)
  if core.closing() then
    child.state = "stopped" -- nothing can be started any more, and the stop request is on its way
  elseif child.restart == "temporary" then
    remove(self, child)
  elseif child.restart == "permanent" or not down.normal then
    restart(self, child, down.reason, was)
  end
end

local function try_again(self)
  local child = table.remove(self.again, 1)
  if child.state == "restarting" and index_of(self, child) and not core.closing() then
    child.state = "stopped"
    restart(self, child, child.failure, "did not start")
  end
end

---------------------------------------------------------------------------------------------------
-- Requests: rk.supervisor
---------------------------------------------------------------------------------------------------

local serve = {}

local function refuse(code, format, ...)
  error({ code = code, text = format:format(...) }, 0)
end

local function known(self, id)
  local child = find(self, id)
  if not child then
    local ids = {}
    for i, other in ipairs(self.children) do
      ids[i] = other.id
    end
    refuse("ENOENT", 'no child "%s" here; there are: %s', id, #ids > 0 and table.concat(ids, ", ") or "none")
  end
  return child
end

local function start_or_refuse(self, child)
  local ok, path, reason, code = start(self, child)
  if not ok then
    refuse(code, 'child "%s" did not start: %s', path, reason)
  end
  return child.pid
end

function serve.which_children(self)
  local list = {}
  for i, child in ipairs(self.children) do
    list[i] = {
      id = child.id,
      pid = child.pid,
      kind = child.last_kind or child.kind,
      restart = child.restart,
      state = child.state,
      restarts = child.restarts,
    }
  end
  return list
end

function serve.count_children(self)
  local counts = { specs = #self.children, active = 0, supervisors = 0, workers = 0 }
  counts.restarts = self.restarted
  for _, child in ipairs(self.children) do
    local kind = child.children and "supervisors" or "workers"
    counts[kind] = counts[kind] + 1
    counts.active = counts.active + (child.pid and 1 or 0)
  end
  return counts
end

function serve.start_child(self, _, child)
  local present = find(self, child.id)
  if present then
    refuse("EEXIST", 'there is a child "%s" already; it is %s%s', child.id, present.state,
      present.pid and " as " .. tostring(present.pid) or ": restart_child starts it, delete_child removes it")
  end
  child.restarts = 0
  local pid = start_or_refuse(self, child)
  table.insert(self.children, child)
  return pid
end

function serve.terminate_child(self, from, id)
  local child = known(self, id)
  if child.pid and from and core.is_below(from, child.pid) then
    refuse("ESELF", 'child "%s" %s cannot be terminated by itself or by what it supervises: that would wait '
      .. "for its own end; return, fail, or pid:stop(reason, 0)", id, tostring(child.pid))
  end
  stop(self, child)
  if child.restart == "temporary" then
    remove(self, child)
  end
  return true
end

function serve.restart_child(self, _, id)
  local child = known(self, id)
  if child.state ~= "stopped" then
    refuse("ESTATE", 'child "%s" is %s: restart_child starts one that is stopped', id, child.state)
  end
  return start_or_refuse(self, child)
end

function serve.delete_child(self, _, id)
  local child = known(self, id)
  if child.state ~= "stopped" then
    refuse("ESTATE", 'child "%s" is %s: terminate_child comes first', id, child.state)
  end
  remove(self, child)
  return true
end

local function answer_request(self, message, from, request)
  local ok, value = pcall(serve[request.name], self, from, request.argument)
  if ok then
    core.answer(message, value)
  elseif type(value) == "table" and value.code then
    core.refuse(message, value.code, value.text)
  else
    error(value, 0)
  end
  show(self)
end

---------------------------------------------------------------------------------------------------
-- The loop
---------------------------------------------------------------------------------------------------

-- One message. True: it was the end of our own supervisor, with the reason.
local function take(self, message, from)
  local request = core.request(message)
  local kind = core.type_of(message)
  if request then
    answer_request(self, message, from, request)
  elseif kind == "down" then
    child_ended(self, message)
  elseif kind == "exit" and message.pid == self.parent then
    return true, message.reason
  elseif kind ~= "exit" then
    core.refuse(message, "EINVAL", "this is a supervisor: it takes the requests of rk.supervisor only")
  end
end

local function start_all(self)
  for i, child in ipairs(self.children) do
    child.restarts = 0
    local ok, path, reason = start(self, child)
    if not ok then
      stop_from(self, 1)
      for j = i, #self.children do
        self.children[j].state = "stopped"
      end
      give_up(('child "%s" did not start: %s'):format(path, reason))
    end
  end
end

local function run(self)
  while not self.stopping do
    if #self.ended > 0 then
      child_ended(self, table.remove(self.ended, 1))
    else
      local message, from = rk.receive(#self.again > 0 and 0 or -1)
      if message ~= nil then
        local orphaned, reason = take(self, message, from)
        if orphaned then
          stop_from(self, 1)
          give_up("its supervisor ended: " .. reason)
        end
      elseif from == "stop" then
        self.stopping = true
      elseif from == "timeout" then
        try_again(self)
      end
    end
  end
  stop_from(self, 1)
end

return function(tree)
  local self = {
    strategy = tree.strategy,
    intensity = tree.intensity,
    period = tree.period,
    children = tree.children,
    runtime = core.runtime(),
    parent = core.parent(),
    by_pid = {},
    recent = {}, -- when the restarts of the last period were
    restarted = 0,
    ended = {}, -- ends that came while another one was waited for
    again = {}, -- children whose restart failed
    stopping = false,
  }
  rk.trap_exit(true)
  start_all(self)
  show(self)
  core.started()
  run(self)
end
