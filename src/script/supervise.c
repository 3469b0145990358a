/*
 * supervise.c -- the C half of lua/rk/supervisor.lua: `require "rk.supervisor.core"`.
 *
 * A supervisor is an actor of the kind "supervisor" whose thread runs lua/rk/supervisor/loop.lua.
 * Its child is adopted between launch and activation: marked as supervised, linked, monitored. So
 * there is no moment in which a child runs and a supervisor that is killed would leave it behind.
 *
 * A request to a supervisor is a parcel with an image: descriptions of children hold functions,
 * which no message can carry.
 *
 * Threads: the state's own.
 */
#include "script/scheduler.h"

#include <string.h>
#include "base/error.h"
#if __has_include("script/kstate.h")
#include "script/kstate.h"
#endif
#include "script/launch.h"
#include "script/values.h"

static const char parcel_class[] = "rk.parcel";
static const char core_name[] = "rk.supervisor.core", module_name[] = "rk.supervisor";

/* ---- starting and ending children ---- */

int rk__lua_adopt(rk_pid pid, bool supervisor)
{
    int code = rk__actor_supervise(pid, supervisor ? RK__SUPERVISOR : RK__WORKER);
    code = code < 0 ? code : rk_monitor(pid);
    code = code < 0 ? code : rk_link(pid, RK_NOBODY);
    if (code < 0) {
        rk__actor_kill(pid, "its supervisor could not adopt it", 0);
    }
    return code;
}

static rk_pid check_pid(lua_State *L, int index)
{
    rk_pid pid = RK_NOBODY;
    luaL_argexpected(L, rk__lua_to_pid(L, index, &pid), index, "pid");
    return pid;
}

/* stop(pid, reason): asks only; the `down` that follows says when it ended. */
static int stop(lua_State *L)
{
    rk__actor_verb(check_pid(L, 1), RK__TERMINATE, luaL_checkstring(L, 2), 0);
    return 0;
}

static int kill_child(lua_State *L)
{
    rk__actor_kill(check_pid(L, 1), luaL_checkstring(L, 2), 0);
    return 0;
}

static int started(lua_State *L)
{
    rk__host_started(rk__lua_self(L));
    return 0;
}

/* ---- where we are ---- */

/* The supervisor that this one is a child of, or nil. */
static int parent(lua_State *L)
{
    rk__actor *self = rk__lua_self(L);
    if (__atomic_load_n(&self->supervised, __ATOMIC_RELAXED) == RK__UNSUPERVISED) {
        return 0;
    }
    rk__lua_push_pid(L, __atomic_load_n(&self->parent, __ATOMIC_RELAXED));
    return 1;
}

static int runtime(lua_State *L)
{
    rk__lua_push_runtime(L, rk__lua_self(L)->runtime);
    return 1;
}

static int closing(lua_State *L)
{
    const rk_runtime *rt = rk__lua_self(L)->runtime;
    lua_pushboolean(L, __atomic_load_n(&rt->closing, __ATOMIC_SEQ_CST) != 0);
    return 1;
}

/* patience(seconds): what closing the runtime allows this supervisor while none of its children ends.
 */
static int patience(lua_State *L)
{
    rk__actor_patience(rk__lua_self(L), rk__lua_timeout(L, 1, RK__FOREVER));
    return 0;
}

#if __has_include("script/kstate.h")
static int estate(lua_State *L)
{
    rk__lua_push_estate(L);
    return 1;
}
#endif

/* is_below(pid, top): whether top is this actor or one of those that supervise it. */
static int is_below(lua_State *L)
{
    rk_pid pid = check_pid(L, 1), top = check_pid(L, 2);
    lua_pushboolean(L, pid == top || rk__actor_is_below(pid, top));
    return 1;
}

/* kind(pid): nil, message, code when it is dead. */
static int kind(lua_State *L)
{
    rk_info info;
    int code = rk_inspect(check_pid(L, 1), &info);
    if (code < 0) {
        return rk__lua_fail(L, code);
    }
    lua_pushstring(L, info.kind);
    return 1;
}

/* orphans(pid): what a supervisor that is dead left behind, newest first: all that it supervised,
 * down to supervisors that are dead too. */
static int orphans(lua_State *L)
{
    rk_runtime *rt = rk__lua_self(L)->runtime;
    rk_pid dead = check_pid(L, 1);
    size_t capacity = rk_actors(rt, NULL, 0) + 16;
    rk_pid *pids = lua_newuserdatauv(L, capacity * sizeof *pids, 0);
    size_t listed = rk_actors(rt, pids, capacity);
    lua_Integer found = 0;
    lua_newtable(L);
    for (size_t i = 0; i < listed && i < capacity; i++) {
        if (rk__actor_is_below(pids[i], dead)) {
            rk__lua_push_pid(L, pids[i]);
            lua_rawseti(L, -2, ++found);
        }
    }
    return 1;
}

/* capturable(value): true, or nil and why it cannot go to another state. */
static int capturable(lua_State *L)
{
    rk__image *image;
    luaL_checkany(L, 1);
    int code = rk__lua_capture(L, 1, &image);
    if (code < 0) {
        return rk__lua_fail(L, code);
    }
    rk__lua_image_free(image);
    lua_pushboolean(L, 1);
    return 1;
}

/* ---- requests ---- */

typedef struct parcel {
    rk_message *delivery;
    bool unsent; /* made here, to be sent */
} parcel;

static void free_image(void *image)
{
    rk__lua_image_free(image);
}

static int parcel_gc(lua_State *L)
{
    parcel *p = luaL_checkudata(L, 1, parcel_class);
    rk_message_release(p->delivery);
    p->delivery = NULL;
    return 0;
}

static int new_parcel(lua_State *L)
{
    parcel *p = lua_newuserdatauv(L, sizeof *p, 0);
    *p = (parcel){NULL, false};
    if (luaL_newmetatable(L, parcel_class)) {
        lua_pushcfunction(L, parcel_gc);
        lua_setfield(L, -2, "__gc");
        lua_pushboolean(L, 0);
        lua_setfield(L, -2, "__metatable");
    }
    lua_setmetatable(L, -2);
    return 1;
}

void rk__lua_push_parcel(lua_State *L, rk_message *m)
{
    if (!lua_checkstack(L, 8)) {
        rk_message_release(m);
        luaL_error(L, "the Lua stack is full");
    }
    lua_pushcfunction(L, new_parcel);
    if (lua_pcall(L, 0, 1, 0) != LUA_OK) {
        rk_message_release(m);
        lua_error(L);
    }
    ((parcel *)lua_touserdata(L, -1))->delivery = m;
}

/* The delivery of a parcel at index; NULL: it is none, or answered already. */
static rk_message *unanswered(lua_State *L, int index)
{
    const parcel *p = luaL_testudata(L, index, parcel_class);
    rk_message *m = p ? p->delivery : rk__lua_request(L, index);
    return m && m->flags & RK__CALL && !(m->flags & RK__ANSWERED) ? m : NULL;
}

/* Whoever starts an actor waits for that, and answers nothing meanwhile. */
static bool starts_us(rk__actor *self, rk_pid supervisor)
{
    return __atomic_load_n(&self->supervised, __ATOMIC_RELAXED) != RK__UNSUPERVISED &&
           __atomic_load_n(&self->parent, __ATOMIC_RELAXED) == supervisor &&
           !rk__host_has_started(self);
}

/* parcel(pid, request): what pid:try_call takes for that supervisor; nil, message, code. */
static int new_request(lua_State *L)
{
    rk__image *image;
    rk_pid to = check_pid(L, 1);
    lua_settop(L, 2);
    if (starts_us(rk__lua_self(L), to)) {
        char text[RK_PID_TEXT];
        return rk__lua_fail(
            L, rk__fail(RK_EDEADLOCK,
                        "%s is starting this actor, and would answer only when that is done: ask "
                        "after init, or from rk.fork",
                        rk_pid_format(to, text)));
    }
    int code = rk__lua_capture(L, 2, &image);
    if (code < 0) {
        return rk__lua_fail(L, code);
    }
    rk_message *m = rk__message_parcel(image, free_image);
    if (!m) {
        rk__lua_image_free(image);
        return rk__lua_fail(L, RK_ENOMEM);
    }
    rk__lua_push_parcel(L, m);
    ((parcel *)lua_touserdata(L, -1))->unsent = true;
    return 1;
}

rk_message *rk__lua_take_parcel(lua_State *L, int index)
{
    parcel *p = luaL_testudata(L, index, parcel_class);
    rk_message *m = p && p->unsent ? p->delivery : NULL;
    if (m) {
        p->delivery = NULL;
    }
    return m;
}

/* request(message): the table that `call` was given; nil: the message is no such request. */
static int request(lua_State *L)
{
    const parcel *p = luaL_testudata(L, 1, parcel_class);
    const rk__parcel *content =
        p && p->delivery ? (const rk__parcel *)p->delivery->body->payload : NULL;
    if (!content || content->free != free_image || !content->data) {
        return 0;
    }
    if (rk__lua_restore(L, content->data) < 0) {
        return luaL_error(L, "%s", rk_errdetail());
    }
    return 1;
}

/* answer(message, value): whoever waits for it gets it. */
static int answer(lua_State *L)
{
    luaL_checkany(L, 2);
    rk_message *m = unanswered(L, 1);
    rk_message *value = m ? rk__lua_to_delivery(L, 2) : NULL;
    if (m && !value) {
        return rk__lua_raise(L, RK_ETYPE, RK_NOBODY);
    }
    if (m) {
        rk__reply(rk__lua_self(L), m, value);
    }
    return 0;
}

/* refuse(message, code name, text): whoever waits for an answer gets this error. */
static int refuse(lua_State *L)
{
    int code = rk__err_code(luaL_checkstring(L, 2));
    const char *text = luaL_checkstring(L, 3);
    rk_message *m = unanswered(L, 1);
    if (m) {
        rk__reply(rk__lua_self(L), m, rk__message_error(code, text));
    }
    return 0;
}

/* type_of(message): the name of its type; nil: it has none. */
static int type_of(lua_State *L)
{
    if (!rk__lua_to_message(L, 1)) {
        return 0;
    }
    lua_getfield(L, 1, "type");
    return 1;
}

/* ---- opening ---- */

static int open_core(lua_State *L)
{
    static const luaL_Reg functions[] = {
        {"launch", rk__lua_start_supervisor},
        {"start", rk__lua_start_child},
        {"resolve", rk__lua_resolve},
        {"check_options", rk__lua_check_options},
        {"capturable", capturable},
        {"stop", stop},
        {"kill", kill_child},
        {"started", started},
        {"parent", parent},
        {"runtime", runtime},
        {"closing", closing},
        {"patience", patience},
#if __has_include("script/kstate.h")
        {"estate", estate},
#endif
        {"is_below", is_below},
        {"kind", kind},
        {"orphans", orphans},
        {"parcel", new_request},
        {"request", request},
        {"answer", answer},
        {"refuse", refuse},
        {"type_of", type_of},
        {NULL, NULL}
    };
    luaL_newlib(L, functions);
    rk__lua_push_spawn_options(L);
    lua_setfield(L, -2, "spawn_options");
    return 1;
}

static void push_module(lua_State *L)
{
    lua_getglobal(L, "require");
    lua_pushstring(L, module_name);
    lua_call(L, 1, 1);
}

/* __index of rk: the module is loaded when somebody asks for it. */
static int lazy_field(lua_State *L)
{
    if (lua_type(L, 2) != LUA_TSTRING || strcmp(lua_tostring(L, 2), "supervisor") != 0) {
        return 0;
    }
    push_module(L);
    lua_pushvalue(L, 2);
    lua_pushvalue(L, -2);
    lua_rawset(L, 1);
    return 1;
}

/* runtime:supervise(description) */
int rk__lua_runtime_supervise(lua_State *L)
{
    rk__lua_check_runtime(L, 1);
    lua_settop(L, 2);
    push_module(L);
    lua_getfield(L, -1, "supervise");
    lua_insert(L, 1);
    lua_pop(L, 1);
    lua_call(L, 2, 1);
    return 1;
}

void rk__lua_open_supervisors(lua_State *L)
{
    luaL_getsubtable(L, LUA_REGISTRYINDEX, LUA_PRELOAD_TABLE);
    lua_pushcfunction(L, open_core);
    lua_setfield(L, -2, core_name);
    lua_pop(L, 1);
    lua_createtable(L, 0, 1);
    lua_pushcfunction(L, lazy_field);
    lua_setfield(L, -2, "__index");
    lua_setmetatable(L, -2);
}
