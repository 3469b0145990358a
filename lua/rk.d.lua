---@meta
-- The Lua reference of `rk`. Editors read it for completion; nothing runs it.
--
-- Failures. What may well happen (a timeout, a dead actor, a full mailbox) is returned as
-- `nil, message, code`, where code is the name of an error: "ETIMEOUT", "EDEAD"... (rk.errors lists
-- them, rk.ETIMEOUT is "ETIMEOUT"). Mistakes raise. `call`, `launch`, `spawn`, `rk.runtime` and
-- `rk.kernel` raise for every failure, with an rk.error.
-- Times are seconds; nil or a negative number is for ever, 0 only looks.

---@class rk
---@field version string
---@field errors table<string, string> name of an error -> its text
---@field noreply any what a call handler returns that answers later
---@field EINVAL "EINVAL"
---@field ENOMEM "ENOMEM"
---@field ETIMEOUT "ETIMEOUT"
---@field ESTATE "ESTATE"
---@field ENOENT "ENOENT"
---@field EEXIST "EEXIST"
---@field EDEAD "EDEAD"
---@field EFULL "EFULL"
---@field ETYPE "ETYPE"
---@field ERANGE "ERANGE"
---@field EFORMAT "EFORMAT"
---@field ELIMIT "ELIMIT"
---@field ECOMPILE "ECOMPILE"
---@field ENOCOMPILER "ENOCOMPILER"
---@field EDEVICE "EDEVICE"
---@field EHANDLER "EHANDLER"
---@field ESTOP "ESTOP"
---@field EINTR "EINTR"
---@field ENOREPLY "ENOREPLY"
---@field EFORK "EFORK"
---@field EIO "EIO"
---@field ELUA "ELUA"
---@field ESELF "ESELF"
---@field EUNSUPPORTED "EUNSUPPORTED"
---@field EEXPIRED "EEXPIRED"
---@field EDEADLOCK "EDEADLOCK"
---@field EREJECTED "EREJECTED"
local rk = {}

---What `call`, `launch` and others raise; tostring gives where, message and traceback.
---@class rk.error
---@field code string "ETIMEOUT"...
---@field message string
---@field where string "script.lua:12: ", or ""
---@field actor rk.pid? whose failure it is
---@field traceback string? of the failed handler, in its own state

---------------------------------------------------------------------------------------------------
-- Message types and messages
---------------------------------------------------------------------------------------------------

---Defines a message type, or finds it: the same schema again gives the same type, another schema
---raises. Field types: bool i8 i16 i32 i64 u8 u16 u32 u64 f32 f64 uuid pid, arrays "f32[64]",
---"string[32]", "bytes[256]", the name of another type, and any (any Lua value,
---packed into up to 1000 bytes; "any[n]" for another limit; host actors only).
---The number is the most the field holds: up to 65536 elements or bytes; a struct has up to 1 MiB.
---Without fields: looks the type up; nil, message, code when there is none.
---@param name string
---@param fields? table<string, string>
---@return rk.type
function rk.message(name, fields) end

---A message type. Calling it makes a message: unset fields are zero or empty, what is wrong raises
---and names the field and what was expected. `T(message)` shares, `T(message, changes)` copies.
---@class rk.type
---@field name string
---@field size integer bytes of the C struct
---@field hash string 16 hexadecimal digits, of the schema
---@overload fun(fields?: table): rk.msg
local type = {}

---The C header with the struct of this type, as handlers see it.
---@return string
function type:header() end

---The fields: name -> type, as in the definition.
---@return table<string, string>
function type:fields() end

---A typed message: fields by name, arrays as sequences (`#m.v`, `m.v[1]`, ipairs), nested messages
---as messages; pairs goes over the fields. Immutable.
---@class rk.msg
---@field message_id string UUID, made when first asked for
---@field correlation_id string? of an answer: the request's message_id
---@field priority integer 0..255, 128 is normal; may be given to the constructor
---@field from rk.pid? who sent it
---@field sent number? when, on the clock of rk.now
---@field type string
---@field [string] any
local msg = {}

---A plain table with all fields.
---@return table
function msg:table() end

---The MessagePack form.
---@return string
function msg:pack() end

---A Lua value (table, string, number, boolean, nil, message, pid) as MessagePack.
---@param value any
---@return string bytes
function rk.pack(value) end

---Reads MessagePack: a message when `__type` names a known type, else a plain value.
---@param bytes string
---@return any value
---@return string? message
---@return string? code
function rk.unpack(bytes) end

---------------------------------------------------------------------------------------------------
-- Definitions
---------------------------------------------------------------------------------------------------

---What rk.actor and rk.kernel give: may be launched and spawned like its name, and stays what it is
---when the name is defined again.
---@class rk.definition
---@field name string
---@field kind "c" | "lua" | "kernel"

---An actor as a table of handlers. `self` is a table of its own, self.ctx its context. One handler runs at
---a time, also while it waits, unless `reentrant`. A handler that fails fails the actor; its caller gets
---the error with traceback. A call that no entry takes is answered with ENOENT and the names of the
---entries; any other message that nothing takes is a dead letter, EREJECTED.
---
---reentrant: handlers of several messages interleave where they wait, begun in order of arrival; init,
---terminate and migrate are alone. After a stop request nothing begins, and what runs gets to its end
---(rk.sleep and receive return nil, "stop") before terminate. When a handler fails, the others are cut off:
---their <close> variables run, then terminate, and their callers hear EDEAD with the reason.
---@class rk.handlers
---@field init? fun(self: table, ...) with the arguments of spawn; its failure is spawn's
---@field call? table<string, fun(self: table, ...): any> entries by name, or by message type name
---@field cast? table<string, fun(self: table, ...)> the same without an answer
---@field topic? table<string, fun(self: table, message: any, topic: string, from: rk.pid?)> entries by
---  topic or pattern; the actor subscribes to them after init. The most specific one that matches gets what
---  was published, else cast.TYPE(self, message, from, topic), else info
---@field info? fun(self: table, message: any, from: rk.pid?, topic: string?): any the rest; nil: a caller
---  gets ENOREPLY
---@field terminate? fun(self: table, reason: string) last; the reason has no traceback
---@field migrate? fun(state: table): table first after pid:upgrade with this table: the fields of self
---  (without ctx); what it returns is what self has from now on
---@field reentrant? boolean | integer how many handlers may run at a time; true: 1000. More waits in the mailbox
---@field stash? integer the most messages in the stash, default 1000

---Registers an actor definition. A function is the body and gets ctx and the arguments of spawn; what
---it returns is the exit reason. A string names a module that gives a function or handler table. Each
---actor has a Lua state of its own: functions go there with their upvalues as copies; globals
---of the script do not go (`rk` is a global there, too): use locals, args or require.
---@param name string
---@param definition fun(ctx: rk.ctx, ...): any | rk.handlers | string
---@return rk.definition
function rk.actor(name, definition) end

---@class rk.kernel_options
---@field accepts rk.type | string | (rk.type | string)[] one RK_ON handler each
---@field replies? rk.type | string | (rk.type | string)[]
---@field source? string the handlers (see kernels/rk_kernel.h); or
---@field file? string a file of them: as given, then in kernels/
---@field state? table<string, string> schema of the instance's state
---@field block? integer threads of a block on a GPU, default 128
---@field grid? integer blocks of an instance, default 1
---@field queue_size? integer bound of the mailbox, default 1024
---@field cpu_threads? integer threads of a block on the cpu device, default 1
---@field handler_timeout? number seconds until a handler is reported, default 5; negative: never
---@field on_timeout? "report" | "fail" what handler_timeout does: a line in the log (default), or also
---  the actor becomes FAILED with that reason; the handler itself cannot be stopped
---@field full? "block" | "reject" | "drop_newest"

---Registers a ring kernel definition. It is compiled at launch; the compiler's messages have the
---line numbers of the script that holds the source.
---@param name string
---@param options rk.kernel_options
---@return rk.definition
function rk.kernel(name, options) end

---Compiles a registered kernel into the folder, in the form that is found without a compiler: for
---builds that ship compiled kernels. Nothing is launched.
---@param name string
---@param folder string
---@return true?, string? message, string? code
function rk.precompile(name, folder) end

---------------------------------------------------------------------------------------------------
-- Devices
---------------------------------------------------------------------------------------------------

---A place where ring kernels run. What is unknown is absent; only id, name, memory, processors and
---modes are there for the cpu.
---@class rk.device
---@field id string "cpu", "cuda:0": what the option `device` of rk.runtime takes
---@field name string of the model
---@field memory integer bytes
---@field processors integer multiprocessors; cpus this process may use
---@field modes table<"persistent" | "bounded" | "batch", true | string> a mode that cannot be used: why
---@field compute string? compute capability, "9.0"
---@field uuid string?
---@field pci_bus string? "0000:3b:00.0"
---@field driver string? "580.65.06"
---@field cuda string? CUDA version of the driver, "13.0"
---@field nvrtc string? version of the compiler
---@field target string? what is compiled for: "sm_90", "compute_90" when the device is newer than NVRTC
---@field warp integer? threads
---@field threads_per_processor integer?
---@field threads_per_block integer?
---@field shared_per_processor integer? bytes of shared memory
---@field numa_node integer? of the host, closest to the device
---@field pcie { generation: integer?, width: integer?, generation_max: integer?, width_max: integer? }?
---@field watchdog boolean? kernels that run long are ended, for a display's sake
---@field integrated boolean? shares the host's memory
---@field host_atomics boolean? host and device see each other's atomics
---@field dma_buf boolean? its memory can be given away as a dma-buf
---@field rdma_write_order integer? of GPUDirect RDMA: 0 none, 100 owner, 200 all devices
---@field sync_domains integer? memory synchronisation domains
---@field compute_mode string? "default", "exclusive process", "prohibited"

---@class rk.devices: rk.device[]
---@field missing string? why no CUDA device can be used

---The devices of this machine, the cpu first. Looking takes up to a second, when the CUDA libraries
---are not in memory yet.
---@return rk.devices
function rk.devices() end

---------------------------------------------------------------------------------------------------
-- Runtimes
---------------------------------------------------------------------------------------------------

---@class rk.runtime_options
---@field device? "auto" | "cpu" | "cuda" | string "cuda:1"...
---@field pin? "auto" | false | integer[] | string cpus of actor threads; "0,2-5"
---@field mode? "persistent" | "bounded" | "batch"
---@field cache? string folder of compiled kernels
---@field stop_timeout? number how long closing waits for an actor, default 2 s
---@field drain? number how long closing lets actors work off their mail before it stops them, default 0
---@field dead_letters? integer lost messages that are kept (up to 16 MiB), default 256
---@field kill_signal? integer real-time signal that interrupts runaway Lua
---@field device_timeout? number seconds a CUDA device gets to answer a ping, to reach a message border,
---  to load an image; default 5
---@field pinned_memory? integer|string bytes, or "64M" (default): for rings and messages of a CUDA device
---@field device_memory? integer|string bytes, or "1G": for states; default 256 MiB or a quarter of what is free
---  (the first runtime that opens a CUDA device decides these three for the process)

---Opens a runtime. The command line overrides the options, they override --config. It is open until
---its <close>, close() or the end of the state. In a program that embeds Lua, rk.runtime() without
---options is the program's own runtime.
---@param options? rk.runtime_options
---@return rk.runtime
function rk.runtime(options) end

---@class rk.runtime
local runtime = {}

---@class rk.spawn_options
---@field args? any[] arguments of a Lua actor (`n` for trailing nils)
---@field name? string unique in the runtime; a kernel has its definition's name by default
---@field cpu? integer to pin to
---@field mailbox? integer bound, messages
---@field full? "block" | "reject" | "drop_oldest" | "drop_newest"
---@field stack? integer bytes of thread stack
---@field dedup? integer refuses a message whose message_id is among the last so many it had ("EREJECTED"):
---  for senders that may repeat themselves; default 0: never
---@field block? integer ring kernels: threads of a block
---@field grid? integer ring kernels: blocks
---@field cpu_threads? integer ring kernels: threads of a block on the cpu device

---Compiles and allocates; the actor is LAUNCHED and takes mail, but does not run. A string is a
---definition's name or, when there is none, a module. Raises.
---@param definition string | rk.definition | rk.handlers | fun(ctx: rk.ctx, ...): any
---@param options? rk.spawn_options
---@return rk.pid
function runtime:launch(definition, options) end

---launch and activate. A handler table's init has returned when spawn does. Raises.
---@param definition string | rk.definition | rk.handlers | fun(ctx: rk.ctx, ...): any
---@param options? rk.spawn_options
---@return rk.pid
function runtime:spawn(definition, options) end

---What is started, and how it is treated. Beside these fields any option of spawn but `args`.
---@class rk.worker: rk.spawn_options
---@field start any[] { definition, arguments... }: a definition as for spawn. Ring kernels have no arguments
---@field id? string among the children of a supervisor; default: name, or the definition's name
---@field restart? "permanent" | "transient" | "temporary" after every end (default); after one that was not
---  normal (failed, killed, device lost); never, and then it is forgotten
---@field shutdown? number seconds from asking it to stop (reason "shutdown") to killing it, default 2;
---  0: killed at once; math.huge: never killed
---@field state? "reset" | "keep" ring kernels: a restart begins with a fresh state (default), or with the
---  state as it was

---A supervisor; its children by position. As a child of another one it has id, restart and shutdown
---(default: for ever), too.
---@class rk.tree
---@field strategy? "one_for_one" | "one_for_all" | "rest_for_one" what is started again with a child that
---  ended: nothing else (default); all; those that were started after it
---@field intensity? integer how many restarts within `period` it stands, default 3; 0: none
---@field period? number seconds, default 5
---@field name? string
---@field id? string default: name
---@field restart? "permanent" | "transient" | "temporary"
---@field shutdown? number
---@field cpu? integer
---@field mailbox? integer
---@field full? "block" | "reject" | "drop_oldest" | "drop_newest"
---@field stack? integer
---@field [integer] rk.worker | rk.tree

---Starts a supervisor and then its children, in order: each has started when spawn would return. When
---one does not, those before it are stopped, last one first, and this raises, naming the path of ids and
---the reason. The tree is described once: definitions are looked up now, functions travel with their
---upvalues as they are now, and each start of a child begins with these.
---A child that ends is started again as its `restart` says, with others as the strategy says (those are
---stopped in reverse order first; temporary ones are not started again, stopped ones are). One line of the
---log says so. A restart that fails counts and is tried again. More than `intensity` restarts within
---`period` seconds: the supervisor stops its children and fails, with a reason that names the child and
---its last reason; its own supervisor then restarts it, or fails.
---Stopping a supervisor stops its children in reverse order; when it is killed they are killed, too
---(supervisors among them stop theirs in order).
---@param tree rk.tree
---@return rk.pid
function runtime:supervise(tree) end

---LAUNCHED to ACTIVE. An illegal transition: nil, a message that names both states, "ESTATE".
---@param target string | rk.pid
---@return true?, string? message, string? code
function runtime:activate(target) end

---ACTIVE to DEACTIVATED, at a message border; mail is kept.
---@param target string | rk.pid
---@return true?, string? message, string? code
function runtime:deactivate(target) end

---DEACTIVATED to ACTIVE.
---@param target string | rk.pid
---@return true?, string? message, string? code
function runtime:reactivate(target) end

---As pid:stop.
---@param target string | rk.pid
---@param reason? string
---@param timeout? number
---@return true?, string? message, string? code
function runtime:terminate(target, reason, timeout) end

---Sends to a named actor; its answers collect for runtime:receive(name), oldest dropped when nobody
---reads them.
---@param name string
---@param message any
---@param timeout? number while its mailbox is full
---@return true?, string? message, string? code
function runtime:send(name, message, timeout) end

---The next answer to runtime:send(name, ...).
---@param name string
---@param timeout? number
---@return any message, string? message, string? code
function runtime:receive(name, timeout) end

---As pid:call.
---@param target string | rk.pid
---@return any answer
function runtime:call(target, ...) end

---As pid:try_call.
---@param target string | rk.pid
---@return any answer, string? message, string? code
function runtime:try_call(target, ...) end

---As pid:info.
---@param target string | rk.pid
---@return rk.info?, string? message, string? code
function runtime:telemetry(target) end

---All actors, oldest first.
---@return rk.info[]
function runtime:list() end

---Blocks until every actor stopped; timers, forks and dead letters of this state go on. A signal
---ends it with "EINTR".
---@param timeout? number
---@return true?, string? message, string? code
function runtime:wait(timeout) end

---@param name string
---@return rk.pid?, string? message, string? code
function runtime:whereis(name) end

---@class rk.letter a message that was lost
---@field to rk.pid
---@field from rk.pid?
---@field code string why: "EFULL", "EDEAD"...
---@field reason "dead" | "full" | "expired" | "rejected" | "undeliverable"
---@field type string? of a typed message

---@class rk.kept_letter: rk.letter
---@field number integer counts the letters of a runtime
---@field age number seconds since it was lost
---@field name string? that the receiver had
---@field topic string? it was published under
---@field entry string? of a call or cast by name; message is then the list of its arguments
---@field message any

---Calls fn in this state for each lost message, whenever the state waits or its actor is idle. One
---function per runtime; nil removes it. Letters are dropped when this state's mailbox is full.
---@param fn? fun(letter: rk.letter)
function runtime:on_dead_letter(fn) end

---The last messages that were lost, oldest first. A send that is refused to its sender ("EFULL",
---"ETIMEOUT"...) loses nothing; one to a dead actor does both.
---@param after? integer only letters with numbers above this one
---@return rk.kept_letter[]
function runtime:dead_letters(after) end

---Sends a letter once more, as a plain message of its first sender: to whom it was sent, to who has that
---name now, or to another actor. It is then a letter no more, unless it is lost again.
---@param letter rk.kept_letter | integer the letter, or its number
---@param to? rk.pid | string
---@return true?, string? message, string? code "ENOENT": it is not kept any more
function runtime:replay(letter, to) end

---Forgets all letters.
function runtime:clear_dead_letters() end

---Counters: actors spawned terminated failed messages_sent messages_received unfinished (nobody waited for
---an answer, and the handler failed or its actor was killed meanwhile) dropped (full mailboxes) dead_letters (other
---reasons; of these expired, rejected) late_replies forgotten (calls dropped unanswered) kernels_compiled
---cache_hits.
---@return table<string, integer>
function runtime:stats() end

---The device ring kernels run on: "cpu", "cuda:0".
---@return string
function runtime:device() end

---Stops every actor, newest first (the children of a supervisor by their supervisor), each after it has
---worked off its mail while `drain` lasts, and joins every thread. What does not stop in time is killed.
---Only whoever opened the runtime may.
---@param options? { drain: number } seconds; default: the runtime's option
---@return true? done
---@return string[] | string killed the names of those that had to be killed; or why it failed
---@return string? code "ETIMEOUT": an actor could not even be killed; the log names it
function runtime:close(options) end

---------------------------------------------------------------------------------------------------
-- Actors
---------------------------------------------------------------------------------------------------

---@class rk.info
---@field pid rk.pid
---@field name string?
---@field kind "c" | "lua" | "supervisor" | "port" | "kernel"
---@field device string "host", "cpu", "cuda:0"
---@field state string CREATED LAUNCHED ACTIVE DEACTIVATED TERMINATING TERMINATED FAILED
---@field cpu integer -1: not pinned
---@field mailbox { low: integer, normal: integer, high: integer, system: integer } waiting messages
---@field received integer
---@field sent integer
---@field dropped integer lost to a full mailbox
---@field failed integer handlers that failed
---@field memory integer bytes
---@field p50 number seconds from sent to handled, of sampled messages; 0: none yet
---@field p99 number

---An actor's handle: prints as <1.7 "counter">, may be compared, kept, sent in messages.
---@class rk.pid
---@field name string?
---@field kind string?
---@field alive boolean
local pid = {}

---Sends a message: a typed one, or any value that MessagePack can carry. An answer arrives as an
---ordinary message. Waits while the mailbox is full under "block".
---@param message any
---@param timeout? number default 5 s
---@return true?, string? message, string? code
function pid:send(message, timeout) end

---cast.NAME of a handler table.
---@param name string
---@return true?, string? message, string? code
function pid:cast(name, ...) end

---Asks and waits for the answer: a handler's name and its arguments, or a message and a timeout
---(5 s). Raises an rk.error: at once when the actor is dead or its handler fails.
---@param message string | any
---@return any answer
function pid:call(message, ...) end

---call that returns nil, message, code instead of raising.
---@param message string | any
---@return any answer, string? message, string? code
function pid:try_call(message, ...) end

---What pid:timeout and pid:ttl give: the actor for sends and calls with this timeout, or time to live.
---@class rk.timeout
local timed = {}

---As pid:timeout.
---@param seconds number
---@return rk.timeout
function timed:timeout(seconds) end

---As pid:ttl.
---@param seconds number
---@return rk.timeout
function timed:ttl(seconds) end

---As pid:send.
---@return true?, string? message, string? code
function timed:send(message) end

---As pid:cast.
---@return true?, string? message, string? code
function timed:cast(name, ...) end

---As pid:call.
---@return any answer
function timed:call(message, ...) end

---As pid:try_call.
---@return any answer, string? message, string? code
function timed:try_call(message, ...) end

---The same actor for calls with this timeout: pid:timeout(0.1):call("get").
---@param seconds number
---@return rk.timeout
function pid:timeout(seconds) end

---The same actor for messages with a time to live: one that the actor has not taken by then is not
---delivered any more; it is a dead letter, and a call is answered with "EEXPIRED". May be combined:
---pid:ttl(0.1):timeout(1):call("get").
---@param seconds number
---@return rk.timeout
function pid:ttl(seconds) end

---Asks to stop and waits; after timeout (5 s) the actor is killed. With timeout 0 it asks only. A
---supervisor cannot be waited for by what it supervises, at any depth: "ESELF".
---@param reason? string
---@param timeout? number
---@return true?, string? message, string? code
function pid:stop(reason, timeout) end

---As stop.
---@param reason? string
---@param timeout? number
---@return true?, string? message, string? code
function pid:terminate(reason, timeout) end

---Stops it without asking: running Lua gets the error "killed".
---@param reason? string
---@return true?, string? message, string? code
function pid:kill(reason) end

---@return true?, string? message, string? code
function pid:activate() end

---@return true?, string? message, string? code
function pid:deactivate() end

---@return true?, string? message, string? code
function pid:reactivate() end

---@return rk.info?, string? message, string? code
function pid:info() end

---Hot code: new handlers for a Lua actor that is a handler table, put in force between two messages, when
---no handler runs or waits; mail that waits is for the new ones, the stash stays, what become has put in
---force is dropped. A definition is a registered name, what rk.actor gave, a handler table or a module's
---name (the definition's own module is loaded afresh, others stay as the actor has them). self stays the
---same table with the same fields, or gets those that `migrate` of the new table returns; timers and
---forks of the old code go on. `reentrant` and `stash` are the new table's; init is not run.
---Waits up to 5 s for such a moment ("ETIMEOUT": then the upgrade is withdrawn; a DEACTIVATED actor has
---none until it is reactivated). When loading, checking or migrate fails, the actor goes on as it was, and
---message has the error with its traceback ("ELUA"). "EUNSUPPORTED": the actor, or the definition, is a
---function. A supervisor that restarts the actor later starts what its own specification says.
---@param definition string | rk.definition | rk.handlers
---@return true?, string? message, string? code
function pid:upgrade(definition) end

---The state of a ring kernel whose definition has a schema for it, as a message: pid:state().total.
---The actor that asks waits for a message border of the kernel, at most 5 s.
---Of other actors nil, a message, "EUNSUPPORTED". Where it is in its life says pid:info().state.
---@return rk.msg?, string? message, string? code
function pid:state() end

---What the body of an actor gets first, and a handler table as self.ctx.
---@class rk.ctx
---@field should_terminate boolean somebody asked this actor to stop
---@field request any? in a call handler: the request, for an answer later. One that is dropped unanswered
---  is answered with ENOREPLY, and the log hears of it (warn), once for each entry
local ctx = {}

---As rk.receive.
---@return any message, any from, string? code
function ctx:receive(...) end

---As rk.messages.
---@return fun(): any, rk.pid?
function ctx:messages() end

---As rk.reply.
---@return true?, string? message, string? code
function ctx:reply(request, answer) end

---@return rk.pid
function ctx:self() end

---Handler tables: replaces all handlers but init from the next message on; an entry the new table lacks
---is unknown then. keep: the present ones stay below (up to 100), for unbecome. Raises for what is no
---handler table.
---@param handlers rk.handlers
---@param keep? boolean
function ctx:become(handlers, keep) end

---Goes back to what become kept last, else to the definition's handlers.
---@return boolean changed
function ctx:unbecome() end

---Handler tables: puts the message that is being handled aside, to be handled again after unstash; what
---the handler returns is ignored, a caller goes on waiting. Raises when the stash is full ("EFULL"),
---and where no message is handled. When the actor ends, stashed calls are answered EDEAD with the reason,
---other messages are dead letters; so are those whose time to live is over.
function ctx:stash() end

---All messages of the stash are handled again, in order, before newer mail.
---@return integer count
function ctx:unstash() end

---As rk.log.
---@param level "debug" | "info" | "warn" | "error"
---@param format string
function ctx:log(level, format, ...) end

---------------------------------------------------------------------------------------------------
-- Inside an actor, and in the main script (which has a mailbox too)
---------------------------------------------------------------------------------------------------

---The next message: rk.receive([filter,] [timeout]). A filter is a message type, its name, or a
---function of message and sender; what it refuses stays, in order.
---@overload fun(timeout?: number): any, rk.pid?, string?
---@param filter rk.type | string | fun(message: any, from: rk.pid?): boolean
---@param timeout? number
---@return any message nil: nothing came
---@return rk.pid | "timeout" | "stop" | nil from the sender, or why there is no message
---@return string? code
function rk.receive(filter, timeout) end

---Iterates over messages (message, sender) until the actor is asked to stop.
---@return fun(): any, rk.pid?
function rk.messages() end

---Answers a received message, now or later; once.
---@param request any
---@param answer any
---@return true?, string? message, string? code
function rk.reply(request, answer) end

---The pid of this actor, or of the main script's mailbox.
---@return rk.pid
function rk.self() end

---@return boolean whether this actor was asked to stop
function rk.should_terminate() end

---Other coroutines and timers of this actor go on meanwhile.
---@param seconds number
---@return true?, string? message, string? code
function rk.sleep(seconds) end

---Lives until it fires, is cancelled, or its actor ends.
---@class rk.timer
local timer = {}
---@return boolean was it still set
function timer:cancel() end
---When it fires next, on the clock of rk.now; nil: it fired or was cancelled. In the function of an
---`every` this is the tick after the one that is being called for.
---@return number?
function timer:due() end

---Calls fn once, in this actor. A negative delay, or NaN, is an error; math.huge is never.
---@param seconds number
---@param fn fun()
---@return rk.timer
function rk.after(seconds, fn) end

---Calls fn again and again. Its ticks lie on the grid now + k * seconds and do not drift; those that
---pass while a call still runs, or that nobody had time for, are left out. The period must be above 0.
---@param seconds number
---@param fn fun()
---@return rk.timer
function rk.every(seconds, fn) end

---@param t rk.timer
---@return boolean was it still set
function rk.cancel(t) end

---Runs fn(...) as a coroutine of this actor.
---@param fn fun(...)
function rk.fork(fn, ...) end

---An actor's end, as told by `down` and `exit` messages.
---@class rk.end: rk.msg
---@field pid rk.pid
---@field reason string what the body returned, what it was stopped with, or the error
---@field traceback string "" when there is none
---@field normal boolean false: it failed, was killed, or its device was lost

---One message of type `down` (an rk.end) when the actor ends, at once when it is dead already.
---@param target rk.pid | string
---@return true?, string? message, string? code
function rk.monitor(target) end

---No `down` message any more; one that has come already stays in the mailbox.
---@param target rk.pid | string
---@return true?, string? message, string? code
function rk.demonitor(target) end

---Links two actors: when one ends, and not normally, the other is killed, with a reason that names it.
---One that traps exits gets an `exit` message (an rk.end) instead, for normal ends too. Circles of links
---are fine: each actor ends once. Linking to a dead actor counts as an end that was not normal.
---@param target rk.pid | string
---@param other? rk.pid | string default: this actor
---@return true?, string? message, string? code "ESELF": an actor cannot be linked to itself
function rk.link(target, other) end

---@param target rk.pid | string
---@param other? rk.pid | string default: this actor
---@return true?, string? message, string? code
function rk.unlink(target, other) end

---Whether this actor gets `exit` messages instead of being killed with those it is linked to. The main
---script always does, and raises for false.
---@param on boolean
---@return boolean before
function rk.trap_exit(on) end

---A short text about this actor (63 bytes), shown by pid:info() and runtime:tree().
---@param text? string
---@return true?, string? message, string? code
function rk.label(text) end

---------------------------------------------------------------------------------------------------
-- Supervisors: what runtime:supervise started, by pid or name, from any actor
---------------------------------------------------------------------------------------------------

---A supervisor that is busy (starting a child, waiting for one to stop) answers when it is done.
---@class rk.supervisor
rk.supervisor = {}

---@class rk.child
---@field id string
---@field pid rk.pid? absent: not running
---@field kind string of the actor: "lua", "kernel", "supervisor"...
---@field restart "permanent" | "transient" | "temporary"
---@field state "running" | "stopped" | "restarting" the last: its restart failed and is tried again
---@field restarts integer times it was started again because of its own end

---The children, in the order of starting.
---@param supervisor rk.pid | string
---@return rk.child[]?, string? message, string? code
function rk.supervisor.which_children(supervisor) end

---The same.
---@param supervisor rk.pid | string
---@return rk.child[]?, string? message, string? code
function rk.supervisor.children(supervisor) end

---@param supervisor rk.pid | string
---@return { specs: integer, active: integer, supervisors: integer, workers: integer, restarts: integer }?
---@return string? message, string? code
function rk.supervisor.count_children(supervisor) end

---Starts one more child, the last in the order. A bad description raises; "EEXIST": there is one with
---this id; a child that does not start gives its reason, and is forgotten.
---@param supervisor rk.pid | string
---@param child rk.worker | rk.tree
---@return rk.pid?, string? message, string? code
function rk.supervisor.start_child(supervisor, child) end

---Stops a child and does not start it again, until restart_child or a restart of all. A temporary one is
---forgotten. "ESELF": from the child itself or from what it supervises.
---@param supervisor rk.pid | string
---@param id string
---@return true?, string? message, string? code "ENOENT" lists the ids
function rk.supervisor.terminate_child(supervisor, id) end

---Starts a child that is stopped.
---@param supervisor rk.pid | string
---@param id string
---@return rk.pid?, string? message, string? code "ESTATE": it is not stopped
function rk.supervisor.restart_child(supervisor, id) end

---Forgets a child that is stopped.
---@param supervisor rk.pid | string
---@param id string
---@return true?, string? message, string? code
function rk.supervisor.delete_child(supervisor, id) end

---------------------------------------------------------------------------------------------------
-- Names, time, log
---------------------------------------------------------------------------------------------------

---Names this (or that) actor in the current runtime: an actor's own, else the newest that is open.
---@param name string
---@param pid? rk.pid
---@return true?, string? message, string? code "EEXIST"
function rk.register(name, pid) end

---@param name string
---@return rk.pid?, string? message, string? code
function rk.whereis(name) end

---The registered names, in order.
---@return string[]
function rk.names() end

---The actors of the current runtime.
---@return rk.pid[]
function rk.actors() end

---Monotonic seconds.
---@return number
function rk.now() end

---One line in the log (rklua --log). Alone, the text is taken as it is; with arguments it is a format
---of string.format.
---@param level "debug" | "info" | "warn" | "error"
---@param format string
function rk.log(level, format, ...) end

return rk
