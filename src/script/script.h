/*
 * script.h -- the C half of the Lua module `rk`: what its files share.
 *
 *   values       value.c unpack.c  Lua values <-> MessagePack; entry.c  calls by entry name
 *                message.c fields.c construct.c type.c  typed messages; delivery.c  received ones
 *                pid.c  pids
 *   transfer     capture.c restore.c modnames.c  functions and data into another state
 *   scheduling   host.c  the host of a state, interrupts; scheduler.c  its coroutines
 *                mail.c  replies, timers, mail, stop; coroutine.c  resume, wrap... that pass on
 *                calls.c  send, call, receive, reply, sleep; control.c  stop, kill, info, verbs
 *                links.c  monitor, link, trap_exit
 *   actors       luaactor.c  Lua code as an actor; server.c  C half of rk/server.lua:
 *                handling.c  the message a handler works on; stash.c  messages put aside
 *                handlers.c  what a handler table may be; upgrade.c  new handlers while it runs
 *                forgotten.c  warnings about calls that nobody answered
 *                supervise.c  C half of rk/supervisor.lua
 *   the module   state.c  a lua_State with our libraries; module.c  luaopen_rk, errors
 *                runtime.c launch.c  runtime objects; kernel.c  rk.kernel; deadletter.c  the hook
 *                process.c  os.execute, io.popen, os.exit; devices.c  rk.devices
 *   embedding    embed.c  rk_open, rk_dofile; settings.c  overrides; handles.c  open runtimes
 *                chunk.c  protected calls with traceback
 *
 * One lua_State belongs to one thread (an actor's, or a port's). No lua_error crosses a C frame
 * that owns memory: what must be freed sits in a userdata or is freed before the error is raised.
 */
#ifndef RK_SCRIPT_SCRIPT_H
#define RK_SCRIPT_SCRIPT_H

#include <lauxlib.h>
#include <lua.h>
#include "actor/runtime.h"
#include "message/codec.h"

/* ---- errors ---- */

/* Pushes nil, message, code name ("ETIMEOUT") for the failure `code`, whose sentence is
 * rk_errdetail(); returns 3. For ETIMEOUT and ESTOP message is exactly "timeout" / "stop". */
int rk__lua_fail(lua_State *L, int code);
/* The same with the sentence for every code: for waits in which more than one thing can take time.
 */
int rk__lua_fail_detail(lua_State *L, int code);
/* Bytes of a failure's text before its "\nstack traceback:", which comes from the state that
 * failed: the message proper. */
size_t rk__lua_message_size(const char *text);
/* Raises an error object: table {code, message, actor, traceback} with __tostring (message, then
 * traceback when there is one). actor may be RK_NOBODY. Does not return. */
int rk__lua_raise(lua_State *L, int code, rk_pid actor);
/* Seconds at index as a timeout in ns: nil/none -> `otherwise`, negative -> for ever (-1). Raises
 * for NaN and non-numbers, naming the argument. */
int64_t rk__lua_timeout(lua_State *L, int index, int64_t otherwise);

/* ---- values: value.c, message.c, type.c, pid.c ---- */

/* A received message or answer as a Lua value. Typed: message userdata. MessagePack: a plain Lua
 * value (table, string, number...), remembered so that rk__lua_request finds its delivery. takes m
 * (also when it raises a Lua memory error). */
void rk__lua_push_delivery(lua_State *L, rk_message *m);
/* A new delivery of the value at index: a message userdata shares its body, anything else goes as
 * MessagePack. NULL: error set (a function or userdata inside: named by its path). gives */
rk_message *rk__lua_to_delivery(lua_State *L, int index);
/* The delivery behind a received message value, for reply; NULL: error set (not received here). */
rk_message *rk__lua_request(lua_State *L, int index);
/* MessagePack of the values first..last as one array (arguments of call/cast). NULL: error set */
rk_message *rk__lua_to_delivery_array(lua_State *L, int first, int last);
/* Appends one value / pushes the values of an array message; 0 or negative / number pushed. */
int rk__lua_pack(lua_State *L, int index, rk__strbuf *out);
int rk__lua_unpack(lua_State *L, rk__reader *r); /* pushes one value; negative: nothing pushed */

void rk__lua_push_type(lua_State *L, const rk_type *type);
const rk_type *rk__lua_to_type(lua_State *L, int index); /* NULL: not a type object; no error */
void rk__lua_push_pid(lua_State *L, rk_pid pid);
bool rk__lua_to_pid(lua_State *L, int index, rk_pid *out); /* pid userdata only */
/* A pid userdata or a name of the current runtime; RK_ENOENT lists names. Raises on other types. */
int rk__lua_check_target(lua_State *L, int index, rk_pid *out);

/* Each opens its metatables (once per state) and adds its functions to the rk table on top. */
void rk__lua_open_values(lua_State *L);
void rk__lua_open_types(lua_State *L);
void rk__lua_open_messages(lua_State *L);
void rk__lua_open_pids(lua_State *L);

/* ---- transfer.c ---- */

/* A Lua value frozen outside any state: functions with their upvalues (shared ones joined again),
 * tables (cycles kept), library functions and modules by name, message types, pids, runtimes. */
typedef struct rk__image rk__image;
/* RK_ETYPE names what cannot cross by its path ('upvalue "socket" of function <app.lua:12>'). */
int rk__lua_capture(lua_State *L, int index, rk__image **out);
/* Pushes the value in this state. RK_ENOENT: a module that cannot be required here. */
int rk__lua_restore(lua_State *L, const rk__image *image);
void rk__lua_image_free(rk__image *image); /* NULL is fine; any thread */

/* ---- scheduler.c: coroutines of one state ---- */

/* One per lua_State (kept in its registry and at lua_getextraspace). */
typedef struct rk__lua_host rk__lua_host;
rk__lua_host *rk__lua_host_of(lua_State *L);
/* Makes the host of a state for the calling thread's actor or port; freed by the state's close. */
int rk__lua_host_open(lua_State *L, rk__actor *self);
rk__actor *rk__lua_self(lua_State *L);
/* Runs a function with its arguments on top of the stack (as lua_pcall has them) as the body of
 * this actor until it ends or the actor is killed; other coroutines and timers run meanwhile, and
 * end with the body of an actor (not of a port). 0: the body returned (its first result is on the
 * stack); negative: error value on the stack. */
int rk__lua_host_run(lua_State *L, int arguments);
/* From any thread or a signal handler of the host's thread: the running coroutine gets an error
 * "killed" at its next instruction, again and again until the scheduler has control. */
void rk__lua_host_interrupt(rk__lua_host *host);
/* runtime:send and runtime:receive, once the name is a pid; they wait as calls do. takes m */
int rk__lua_send_output(lua_State *L, rk_pid to, rk_message *m, int64_t timeout);
int rk__lua_receive_output(lua_State *L, rk_pid from, int64_t timeout);
void rk__lua_open_calls(lua_State *L); /* pid methods, rk.self/receive/reply/sleep/after/... */
/* Pushes the `ctx` object of this state. */
void rk__lua_push_context(lua_State *L);
/* Registers fn (at top, popped) to be called with each mail of this type name that no receiver
 * takes (used by the dead-letter hook). */
void rk__lua_route(lua_State *L, const char *type_name);

/* ---- luaactor.c ---- */

/* Launches the definition captured in `image` (function, handler table) with arguments captured in
 * `arguments` (a table {n=, ...} or NULL). Takes both images on success. */
int rk__lua_launch(rk_runtime *rt, rk__image *image, rk__image *arguments, const char *kind_name,
                   const rk_options *options, rk__actor **out);
/* The same for a definition that rk.actor registered (kind "lua"): its image with these arguments,
 * which runtime:launch and spawn capture from the option `args`. Takes arguments on success. */
int rk__lua_definition_launch(rk_runtime *rt, rk__definition *definition, rk__image *arguments,
                              const rk_options *options, rk__actor **out);
/* A supervisor: runs lua/rk/supervisor/loop.lua with the tree in `arguments`, which it takes on
 * success. */
int rk__lua_launch_supervisor(rk_runtime *rt, rk__image *arguments, const rk_options *options,
                              rk__actor **out);
void rk__lua_open_actors(lua_State *L); /* rk.actor */

/* ---- supervise.c ---- */

/* Makes a launched actor a child of the running supervisor: supervised, linked, monitored. A
 * failure ends the actor. */
int rk__lua_adopt(rk_pid pid, bool supervisor);
void rk__lua_open_supervisors(lua_State *L); /* rk.supervisor */
int rk__lua_runtime_supervise(lua_State *L); /* runtime:supervise, a function for Lua */
/* A parcel that was received: an object that only supervise.c opens. Dropped, it is answered. takes m,
 * also when it raises */
void rk__lua_push_parcel(lua_State *L, rk_message *m);
/* The parcel at index that was made here and not sent yet; NULL: none. gives */
rk_message *rk__lua_take_parcel(lua_State *L, int index);

/* ---- state.c, module.c, runtime.c, kernel.c, embed.c, deadletter.c ---- */

/* A fresh state: standard libraries, `rk` preloaded for require, embedded Lua modules found by
 * require, print as one atomic line. NULL: out of memory. gives */
lua_State *rk__lua_state_new(void);
/* Installs the above into a state somebody else made (stock lua5.4); idempotent. */
void rk__lua_state_prepare(lua_State *L);
void rk__lua_push_runtime(lua_State *L, rk_runtime *rt); /* a handle that does not own */
rk_runtime *rk__lua_check_runtime(lua_State *L, int index);
/* The open runtime that functions without a handle mean; raises when there is none. */
rk_runtime *rk__lua_current_runtime(lua_State *L);
void rk__lua_open_runtime(lua_State *L);
void rk__lua_open_process(lua_State *L);
void rk__lua_open_kernels(lua_State *L);
void rk__lua_open_links(lua_State *L);
void rk__lua_open_deadletters(lua_State *L);
int rk__lua_devices(lua_State *L); /* rk.devices, a function for Lua */
/* Reads the option table at index into options (strings are borrowed from the Lua values, which
 * must stay on the stack or in the table); raises on unknown keys, naming the known ones. */
void rk__lua_options(lua_State *L, int index, rk_options *options);
int luaopen_rk(lua_State *L);

#endif
