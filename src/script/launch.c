/*
 * launch.c -- runtime:launch, runtime:spawn and runtime:wait: what can be started, its options.
 *
 * Threads: the state's own.
 */
#include "script/launch.h"
#include "script/scheduler.h"

#include <lualib.h>
#include <stdlib.h>
#include <string.h>
#include "base/clock.h"
#include "base/error.h"

static const char class_name[] = "rk.definition";

/* ---- definitions as values ---- */

static int definition_gc(lua_State *L)
{
    rk__definition **slot = luaL_checkudata(L, 1, class_name);
    if (*slot != NULL) {
        rk__definition_release(*slot);
        *slot = NULL;
    }
    return 0;
}

static int definition_tostring(lua_State *L)
{
    rk__definition **slot = luaL_checkudata(L, 1, class_name);
    lua_pushfstring(L, "%s \"%s\"", *slot != NULL ? (*slot)->kind : "definition",
                    *slot != NULL ? (*slot)->name : "?");
    return 1;
}

/* Fields: name and kind. */
static int definition_index(lua_State *L)
{
    rk__definition **slot = luaL_checkudata(L, 1, class_name);
    const char *key = lua_type(L, 2) == LUA_TSTRING ? lua_tostring(L, 2) : "";
    bool name = strcmp(key, "name") == 0;
    if (*slot == NULL || (!name && strcmp(key, "kind") != 0)) {
        return 0;
    }
    lua_pushstring(L, name ? (*slot)->name : (*slot)->kind);
    return 1;
}

void rk__lua_open_definitions(lua_State *L)
{
    static const luaL_Reg metamethods[] = {{"__gc", definition_gc},
                                           {"__tostring", definition_tostring},
                                           {"__index", definition_index},
                                           {NULL, NULL}};
    luaL_newmetatable(L, class_name);
    luaL_setfuncs(L, metamethods, 0);
    lua_pushliteral(L, "rk.definition");
    lua_setfield(L, -2, "__metatable");
    lua_pop(L, 1);
}

int rk__lua_push_definition(lua_State *L, const char *name)
{
    rk__definition **slot = lua_newuserdatauv(L, sizeof(rk__definition *), 0);
    *slot = NULL;
    luaL_setmetatable(L, class_name);
    return rk__definition_get(name, slot);
}

void rk__lua_push_definition_object(lua_State *L, rk__definition *definition)
{
    rk__definition **slot = lua_newuserdatauv(L, sizeof(rk__definition *), 0);
    __atomic_fetch_add(&definition->refs, 1, __ATOMIC_RELAXED);
    *slot = definition;
    luaL_setmetatable(L, class_name);
}

rk__definition *rk__lua_to_definition(lua_State *L, int index)
{
    rk__definition **slot = luaL_testudata(L, index, class_name);
    return slot != NULL ? *slot : NULL;
}

/* ---- options ---- */

lua_Integer rk__lua_whole(lua_State *L, int index, const char *key, lua_Integer low,
                          lua_Integer high, lua_Integer otherwise)
{
    lua_Integer value = otherwise;
    if (lua_getfield(L, index, key) != LUA_TNIL) {
        int whole;
        value = lua_tointegerx(L, -1, &whole);
        if (!whole || value < low || value > high) {
            luaL_error(L, "option '%s' must be a whole number from %I to %I, not %s", key,
                       (LUAI_UACINT)low, (LUAI_UACINT)high, luaL_tolstring(L, -1, NULL));
        }
    }
    lua_pop(L, 1);
    return value;
}

enum rk_full rk__lua_full(lua_State *L, int index, enum rk_full otherwise)
{
    static const char *const names[] = {"block", "reject", "drop_oldest", "drop_newest"};
    enum rk_full full = otherwise;
    if (lua_getfield(L, index, "full") != LUA_TNIL) {
        const char *text = lua_type(L, -1) == LUA_TSTRING ? lua_tostring(L, -1) : "";
        unsigned i = 0;
        while (i < 4 && strcmp(names[i], text) != 0) {
            i++;
        }
        if (i == 4) {
            luaL_error(L, "option 'full' must be block, reject, drop_oldest or drop_newest, not %s",
                       luaL_tolstring(L, -1, NULL));
        }
        full = (enum rk_full)(RK_FULL_BLOCK + i);
    }
    lua_pop(L, 1);
    return full;
}

static void refuse(lua_State *L, int index, const char *key, const char *why)
{
    if (lua_getfield(L, index, key) != LUA_TNIL) {
        luaL_error(L, "option '%s' is not supported: %s", key, why);
    }
    lua_pop(L, 1);
}

static const char *const spawn_options[] = {
    "args",    "block", "cpu",      "cpu_threads", "dedup", "full", "grid",
    "mailbox", "name",  "priority", "restart",     "stack", NULL};

void rk__lua_push_spawn_options(lua_State *L)
{
    lua_newtable(L);
    for (int i = 0; spawn_options[i] != NULL; i++) {
        lua_pushstring(L, spawn_options[i]);
        lua_rawseti(L, -2, i + 1);
    }
}

void rk__lua_options(lua_State *L, int index, rk_options *options)
{
    index = lua_absindex(L, index);
    luaL_checktype(L, index, LUA_TTABLE);
    rk__lua_check_keys(L, index, "spawn", spawn_options);
    refuse(L, index, "restart", "restarting is the work of a supervisor: runtime:supervise");
    refuse(L, index, "priority",
           "threads of actors all have the priority of the process; messages "
           "have priorities of their own");
    if (lua_getfield(L, index, "name") != LUA_TNIL) {
        if (lua_type(L, -1) != LUA_TSTRING) {
            luaL_error(L, "option 'name' must be a string, not a %s", luaL_typename(L, -1));
        }
        options->name = lua_tostring(L, -1);
    }
    lua_pop(L, 1);
    options->cpu = (int)rk__lua_whole(L, index, "cpu", 0, RK__CPU_MAX - 1, options->cpu);
    options->mailbox =
        (uint32_t)rk__lua_whole(L, index, "mailbox", 1, UINT32_MAX, options->mailbox);
    options->full = rk__lua_full(L, index, options->full);
    options->stack =
        (size_t)rk__lua_whole(L, index, "stack", 1 << 14, 1 << 30, (lua_Integer)options->stack);
    options->block = (uint32_t)rk__lua_whole(L, index, "block", 1, 1024, options->block);
    options->grid = (uint32_t)rk__lua_whole(L, index, "grid", 1, UINT32_MAX, options->grid);
    options->dedup = (uint32_t)rk__lua_whole(L, index, "dedup", 0, 1 << 20, options->dedup);
    options->cpu_threads =
        (uint32_t)rk__lua_whole(L, index, "cpu_threads", 1, 1024, options->cpu_threads);
}

int rk__lua_check_options(lua_State *L)
{
    rk_options options = RK_OPTIONS_INIT;
    rk__lua_options(L, 1, &options);
    return 0;
}

/* ---- starting ---- */

/* How something is started. */
enum { ACTIVE = 1, SUPERVISED = 2, SUPERVISOR = 4 };

/* What one call of launch or spawn owns; freed by `finish` whatever happens. */
typedef struct start {
    rk_runtime *rt;
    rk_options options;
    rk__definition *definition; /* or */
    rk__image *image;           /* a function, a handler table or the name of a module */
    rk__image *arguments;
    bool supervisor; /* neither of them: its arguments are the tree */
    const char *kind_name;
    rk_pid pid;
} start;

bool rk__lua_module_exists(lua_State *L, int index)
{
    int top = lua_gettop(L);
    luaL_getsubtable(L, LUA_REGISTRYINDEX, LUA_LOADED_TABLE);
    lua_pushvalue(L, index);
    bool found = lua_rawget(L, -2) != LUA_TNIL;
    if (!found && lua_getfield(L, top + 1, LUA_LOADLIBNAME) == LUA_TTABLE &&
        lua_getfield(L, -1, "searchers") == LUA_TTABLE) {
        int searchers = lua_gettop(L);
        for (lua_Integer i = 1; !found && lua_rawgeti(L, searchers, i) != LUA_TNIL; i++) {
            lua_pushvalue(L, index);
            lua_call(L, 1, 1);
            found = lua_isfunction(L, -1);
            lua_settop(L, searchers);
        }
    }
    lua_settop(L, top);
    return found;
}

/* Finds what to start; afterwards either s->definition is set (retained) or what is at 2 can run in
 * a state of its own, which requires a module by its name. Raises while nothing is owned. */
static void find_definition(lua_State *L, start *s)
{
    rk__definition **slot = luaL_testudata(L, 2, class_name);
    if (slot != NULL && *slot != NULL) {
        __atomic_fetch_add(&(*slot)->refs, 1, __ATOMIC_RELAXED);
        s->definition = *slot;
        return;
    }
    int type = lua_type(L, 2);
    if (type == LUA_TSTRING) {
        s->kind_name = lua_tostring(L, 2);
        if (rk__definition_get(s->kind_name, &s->definition) == 0) {
            return;
        }
        lua_pushstring(L, rk_errdetail());
        if (!rk__lua_module_exists(L, 2)) {
            rk__fail(RK_ENOENT, "%s; and require finds no module of this name",
                     lua_tostring(L, -1));
            rk__lua_raise(L, RK_ENOENT, RK_NOBODY);
        }
    } else if (type == LUA_TTABLE) {
        rk__lua_check_handlers(L, 2);
    } else if (type != LUA_TFUNCTION) {
        luaL_typeerror(L, 2, "name, definition, function or handler table");
    }
}

/* Leaves a table {n =, ...} with the arguments on top, or nil when there are none. */
static void push_arguments(lua_State *L)
{
    if (!lua_istable(L, 3) || lua_getfield(L, 3, "args") == LUA_TNIL) {
        lua_settop(L, 3);
        lua_pushnil(L);
        return;
    }
    if (!lua_istable(L, -1)) {
        luaL_error(L, "option 'args' must be a table of arguments, not a %s", luaL_typename(L, -1));
    }
    lua_Integer n = luaL_len(L, -1);
    if (lua_getfield(L, -1, "n") == LUA_TNUMBER) {
        n = lua_tointeger(L, -1);
    }
    lua_pop(L, 1);
    lua_createtable(L, (int)n, 1);
    for (lua_Integer i = 1; i <= n; i++) {
        lua_geti(L, -2, i);
        lua_rawseti(L, -2, i);
    }
    lua_pushinteger(L, n);
    lua_setfield(L, -2, "n");
}

/* Leaves {n = 1, tree}: the arguments of a supervisor. */
static void push_tree(lua_State *L)
{
    luaL_checktype(L, 2, LUA_TTABLE);
    lua_createtable(L, 1, 1);
    lua_pushvalue(L, 2);
    lua_rawseti(L, -2, 1);
    lua_pushinteger(L, 1);
    lua_setfield(L, -2, "n");
}

/* The value at index frozen; NULL for nil. Negative: what cannot cross, with its path. */
static int capture(lua_State *L, int index, rk__image **out)
{
    return lua_isnil(L, index) ? 0 : rk__lua_capture(L, index, out);
}

static int launch_definition(start *s, rk__actor **actor)
{
    if (strcmp(s->definition->kind, "lua") == 0) {
        int rc = rk__lua_definition_launch(s->rt, s->definition, s->arguments, &s->options, actor);
        s->arguments = rc < 0 ? s->arguments : NULL;
        return rc;
    }
    if (s->arguments != NULL) {
        return rk__fail(RK_EINVAL, "a %s takes no 'args': \"%s\" gets everything by messages",
                        strcmp(s->definition->kind, "c") == 0 ? "C actor" : s->definition->kind,
                        s->definition->name);
    }
    return s->definition->launch(s->rt, s->definition, &s->options, actor);
}

static int launch_image(start *s, rk__actor **actor)
{
    int rc = s->supervisor
                 ? rk__lua_launch_supervisor(s->rt, s->arguments, &s->options, actor)
                 : rk__lua_launch(s->rt, s->image, s->arguments, s->kind_name, &s->options, actor);
    if (rc >= 0) {
        s->image = s->arguments = NULL;
    }
    return rc;
}

/* Everything that owns memory happens here, where nothing raises. */
static int launch_start(lua_State *L, start *s)
{
    rk__actor *actor;
    int rc = capture(L, lua_gettop(L), &s->arguments);
    if (rc == 0 && s->definition == NULL && !s->supervisor) {
        rc = rk__lua_capture(L, 2, &s->image);
    }
    if (rc == 0) {
        rc = s->definition != NULL ? launch_definition(s, &actor) : launch_image(s, &actor);
    }
    if (rc == 0) {
        s->pid = rk__actor_pid(actor);
    }
    rk__lua_image_free(s->image);
    rk__lua_image_free(s->arguments);
    if (s->definition != NULL) {
        rk__definition_release(s->definition);
    }
    return rc;
}

/* An actor that would not start is of no use to anybody; why it did not stays the error. */
static int activate(rk_pid pid)
{
    int rc = rk_activate(pid);
    if (rc < 0) {
        char *why = strdup(rk_errdetail());
        if (rc == RK_EINTR) { /* its start hangs, and whoever started it shall end */
            rk__actor_kill(pid, "killed: its start was given up", 0);
        } else {
            rk_terminate(pid, "activation failed", -1);
        }
        rk__fail(rc, "%s", why != NULL ? why : rk_strerror(rc));
        free(why);
    }
    return rc;
}

static int start_actor(lua_State *L, int how)
{
    start s = {.options = RK_OPTIONS_INIT, .supervisor = how & SUPERVISOR};
    s.rt = rk__lua_check_runtime(L, 1);
    luaL_checkany(L, 2);
    lua_settop(L, 3);
    if (!lua_isnil(L, 3)) {
        rk__lua_options(L, 3, &s.options);
    }
    if (rk__lua_self(L)->runtime == NULL) {
        rk__lua_share_paths(L); /* a script decides for its actors, they do not for each other */
    }
    if (s.supervisor) {
        push_tree(L);
    } else {
        push_arguments(L);
    }
    lua_replace(L, 1);
    lua_settop(L, 3);
    if (!s.supervisor) {
        find_definition(L, &s);
    }
    lua_settop(L, 3);
    lua_pushvalue(L, 1);
    int rc = launch_start(L, &s);
    if (rc == 0 && how & SUPERVISED) {
        rc = rk__lua_adopt(s.pid, s.supervisor);
    }
    if (rc == 0 && how & ACTIVE) {
        rc = activate(s.pid);
    }
    if (rc < 0) {
        return rk__lua_raise(L, rc, RK_NOBODY);
    }
    rk__lua_push_pid(L, s.pid);
    return 1;
}

int rk__lua_runtime_launch(lua_State *L)
{
    return start_actor(L, 0);
}

int rk__lua_runtime_spawn(lua_State *L)
{
    return start_actor(L, ACTIVE);
}

int rk__lua_start_supervisor(lua_State *L)
{
    return start_actor(L, ACTIVE | SUPERVISOR);
}

int rk__lua_start_child(lua_State *L)
{
    bool tree = lua_toboolean(L, 4);
    return start_actor(L, ACTIVE | SUPERVISED | (tree ? SUPERVISOR : 0));
}

/* ---- what would be started ---- */

static int resolved_definition(lua_State *L)
{
    const rk__definition *definition = rk__lua_to_definition(L, -1);
    if (definition == NULL) {
        return luaL_error(L, "this definition is empty");
    }
    const char *kind = definition->kind, *name = definition->name;
    rk__lua_definition_value(L, definition);
    lua_pushstring(L, kind);
    lua_pushstring(L, name);
    return 3;
}

int rk__lua_resolve(lua_State *L)
{
    luaL_checkany(L, 1);
    lua_settop(L, 1);
    lua_pushnil(L);
    lua_insert(L, 1); /* the value is at 2, as for launch */
    int type = lua_type(L, 2);
    if (luaL_testudata(L, 2, class_name) != NULL) {
        return resolved_definition(L);
    }
    if (type == LUA_TSTRING) {
        if (rk__lua_push_definition(L, lua_tostring(L, 2)) == 0) {
            return resolved_definition(L);
        }
        const char *why = lua_pushstring(L, rk_errdetail());
        if (!rk__lua_module_exists(L, 2)) {
            return luaL_error(L, "%s; and require finds no module of this name", why);
        }
        lua_pushvalue(L, 2);
        lua_pushliteral(L, "lua");
        lua_pushvalue(L, 2);
        return 3;
    }
    if (type == LUA_TTABLE) {
        rk__lua_check_handlers(L, 2);
    } else if (type != LUA_TFUNCTION) {
        return luaL_error(L,
                          "a definition is a registered name, the name of a module, a function, a "
                          "handler table or what rk.actor and rk.kernel give, not a %s",
                          luaL_typename(L, 2));
    }
    lua_pushvalue(L, 2);
    lua_pushliteral(L, "lua");
    return 2;
}

/* ---- waiting ---- */

enum { WAIT_RUNTIME = 1, WAIT_DEADLINE = 2, WAIT_PAUSE = 3, WAIT_TOP = 3 };

/* Looks whether everything has stopped, between sleeps of 1 ms growing to 50 ms: they are sleeps of
 * the scheduler, so timers, forks and dead letters of this state go on meanwhile. */
/* A signal ends the wait, not the script: it has done its work. */
static int signalled(lua_State *L, rk__lua_host *host)
{
    rk__lua_host_calm(host);
    lua_sethook(L, NULL, 0, 0);
    if (host->self->runtime == NULL) {
        rk__runtime_calm(host->self);
    }
    return rk__lua_fail(L, rk__fail(RK_EINTR, "interrupted"));
}

static int wait_more(lua_State *L, int status, lua_KContext slept)
{
    rk__lua_host *host = rk__lua_host_of(L);
    for (;; slept = 1) {
        if (status != LUA_OK && status != LUA_YIELD) {
            if (!host->interrupted || host->killed) {
                return lua_error(L);
            }
            return signalled(L, host);
        }
        if (slept && lua_type(L, -1) == LUA_TSTRING) { /* nil, text, code: stopped or interrupted */
            return host->interrupted && !host->killed ? signalled(L, host) : 3;
        }
        lua_settop(L, WAIT_TOP);
        int64_t deadline = (int64_t)lua_tointeger(L, WAIT_DEADLINE);
        int64_t left = rk__remaining(deadline);
        int rc = rk_wait(rk__lua_check_runtime(L, WAIT_RUNTIME), 0);
        if (rc == 0) {
            lua_pushboolean(L, 1);
            return 1;
        }
        if (rc != RK_ETIMEOUT || left == 0) {
            return rc == RK_EINTR && !host->killed ? signalled(L, host) : rk__lua_fail(L, rc);
        }
        lua_Number pause = lua_tonumber(L, WAIT_PAUSE), seconds = (lua_Number)left / 1e9;
        lua_pushnumber(L, pause * 1.5 < 0.05 ? pause * 1.5 : 0.05);
        lua_replace(L, WAIT_PAUSE);
        luaL_getsubtable(L, LUA_REGISTRYINDEX, LUA_LOADED_TABLE);
        lua_getfield(L, -1, "rk");
        lua_getfield(L, -1, "sleep");
        lua_pushnumber(L, left > 0 && seconds < pause ? seconds : pause);
        status = lua_pcallk(L, 1, 3, 0, 1, wait_more);
    }
}

/* runtime:wait([timeout]) */
int rk__lua_runtime_wait(lua_State *L)
{
    rk__lua_check_runtime(L, 1);
    int64_t timeout = rk__lua_timeout(L, 2, -1);
    lua_settop(L, 1);
    lua_pushinteger(L, (lua_Integer)rk__deadline(timeout));
    lua_pushnumber(L, 0.001);
    return wait_more(L, LUA_OK, 0);
}
