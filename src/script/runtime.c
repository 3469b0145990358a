/*
 * runtime.c -- runtime objects: opening, options, starting actors, the verbs by name.
 *
 * An owning object is anchored in its state until it is closed, so a runtime ends at its <close>,
 * at close() or with the state, never in the middle because a collector ran. A handle that does not
 * own (an actor's, or the global of an embedding program) knows the runtime's serial and is refused
 * once that runtime is closed.
 *
 * Threads: the state's own; every method but close may be used from any actor.
 */
#include "script/script.h"

#include <stdlib.h>
#include <string.h>
#include "base/clock.h"
#include "base/error.h"
#include "device/device.h"
#include "script/handles.h"
#include "script/launch.h"
#include "script/settings.h"

static const char class_name[] = "rk.runtime";
static const char anchors_key;           /* registry: table of runtime pointer -> owning object */
const char rk__embedded_runtime_key = 0; /* registry: the runtime of an embedding program */

typedef struct handle {
    rk_runtime *rt; /* NULL: closed through this object */
    uint64_t serial;
    bool owned;
} handle;

/* ---- handles ---- */

static void push_anchors(lua_State *L)
{
    if (lua_rawgetp(L, LUA_REGISTRYINDEX, &anchors_key) == LUA_TNIL) {
        lua_pop(L, 1);
        lua_newtable(L);
        lua_pushvalue(L, -1);
        lua_rawsetp(L, LUA_REGISTRYINDEX, &anchors_key);
    }
}

static void set_anchor(lua_State *L, rk_runtime *rt, bool anchored)
{
    push_anchors(L);
    if (anchored) {
        lua_pushvalue(L, -2);
    } else {
        lua_pushnil(L);
    }
    lua_rawsetp(L, -2, rt);
    lua_pop(L, 1);
}

static handle *push_handle(lua_State *L)
{
    handle *h = lua_newuserdatauv(L, sizeof *h, 0);
    *h = (handle){NULL, 0, false};
    luaL_setmetatable(L, class_name);
    return h;
}

void rk__lua_push_runtime(lua_State *L, rk_runtime *rt)
{
    push_anchors(L);
    if (lua_rawgetp(L, -1, rt) == LUA_TUSERDATA) {
        lua_remove(L, -2);
        return;
    }
    lua_pop(L, 2);
    handle *h = push_handle(L);
    rk__handle *entry = rk__handle_of(rt);
    if (entry != NULL) {
        *h = (handle){rt, entry->serial, false};
    }
}

static bool is_open(const handle *h)
{
    if (h->rt == NULL || h->owned) {
        return h->rt != NULL;
    }
    const rk__handle *entry = rk__handle_of(h->rt);
    return entry != NULL && entry->serial == h->serial;
}

rk_runtime *rk__lua_check_runtime(lua_State *L, int index)
{
    handle *h = luaL_checkudata(L, index, class_name);
    if (!is_open(h)) {
        luaL_argerror(L, index, "this runtime is closed");
    }
    return h->rt;
}

rk_runtime *rk__lua_current_runtime(lua_State *L)
{
    if (lua_rawgetp(L, LUA_REGISTRYINDEX, &rk__embedded_runtime_key) == LUA_TLIGHTUSERDATA) {
        rk_runtime *embedded = lua_touserdata(L, -1);
        lua_pop(L, 1);
        return embedded;
    }
    lua_pop(L, 1);
    rk_runtime *rt = rk__runtime_current();
    if (rt == NULL) {
        luaL_error(L, "no runtime is open here: open one with rk.runtime()");
    }
    return rt;
}

/* ---- opening ---- */

/* {0, 2, 5} as "0,2,5"; the string stays on the stack. */
static const char *cpu_list(lua_State *L, int index)
{
    luaL_Buffer list;
    lua_Integer n = (lua_Integer)lua_rawlen(L, index);
    luaL_buffinit(L, &list);
    for (lua_Integer i = 1; i <= n; i++) {
        lua_rawgeti(L, index, i);
        if (!lua_isinteger(L, -1)) {
            luaL_error(L, "pin: item %d is no cpu number but a %s", (int)i, luaL_typename(L, -1));
        }
        if (i > 1) {
            lua_pushliteral(L, ",");
            lua_insert(L, -2);
            lua_concat(L, 2);
        }
        luaL_addvalue(&list);
    }
    luaL_pushresult(&list);
    return lua_tostring(L, -1);
}

const char *rk__lua_setting_text(lua_State *L, const char *name)
{
    int type = lua_type(L, -1);
    bool pin = strcmp(name, "pin") == 0;
    if (pin && type == LUA_TTABLE) {
        return cpu_list(L, lua_gettop(L));
    }
    if (pin && type == LUA_TBOOLEAN) {
        return lua_toboolean(L, -1) ? "auto" : "off";
    }
    if (type != LUA_TSTRING && type != LUA_TNUMBER) {
        luaL_error(L, "runtime option '%s' cannot be a %s", name, lua_typename(L, type));
    }
    return lua_tostring(L, -1);
}

/* The option as text, left on the stack: command line, else the table at 1, else --config. */
static const char *option_text(lua_State *L, const char *name)
{
    const char *text = rk__setting_get(RK__LAYER_COMMAND_LINE, name);
    if (text != NULL) {
        return lua_pushstring(L, text);
    }
    if (lua_istable(L, 1) && lua_getfield(L, 1, name) != LUA_TNIL) {
        return rk__lua_setting_text(L, name);
    }
    return lua_pushstring(L, rk__setting_get(RK__LAYER_CONFIG, name));
}

static lua_Number option_number(lua_State *L, const char *name, lua_Number otherwise)
{
    if (option_text(L, name) == NULL) {
        return otherwise;
    }
    int is_number;
    lua_Number value = lua_tonumberx(L, -1, &is_number);
    if (!is_number || value != value) {
        luaL_error(L, "runtime option '%s' must be a number, not '%s'", name, lua_tostring(L, -1));
    }
    return value;
}

/* A number of bytes, or text such as "64M". */
static uint64_t option_bytes(lua_State *L, const char *name, uint64_t otherwise)
{
    const char *text = option_text(L, name);
    char *end;
    if (text == NULL) {
        return otherwise;
    }
    double value = strtod(text, &end);
    const char *unit = strchr("KMG", *end);
    if (*end != '\0' && unit != NULL && end[1] == '\0') {
        value *= (double)(UINT64_C(1) << (10 * (*end == 'K' ? 1 : *end == 'M' ? 2 : 3)));
    } else if (*end != '\0') {
        value = -1;
    }
    if (end == text || !(value >= 0 && value < 1e15)) {
        luaL_error(L, "runtime option '%s' must be a number of bytes, or as \"64M\", not '%s'",
                   name, text);
    }
    return (uint64_t)value;
}

void rk__lua_check_keys(lua_State *L, int index, const char *what, const char *const *known)
{
    index = lua_absindex(L, index);
    lua_pushnil(L);
    while (lua_next(L, index) != 0) {
        lua_pop(L, 1);
        const char *key = lua_type(L, -1) == LUA_TSTRING ? lua_tostring(L, -1) : NULL;
        const char *const *k = known;
        while (key != NULL && *k != NULL && strcmp(*k, key) != 0) {
            k++;
        }
        if (key == NULL || *k == NULL) {
            luaL_Buffer list;
            const char *shown = luaL_tolstring(L, -1, NULL);
            luaL_buffinit(L, &list);
            for (k = known; *k != NULL; k++) {
                luaL_addstring(&list, k == known ? "" : ", ");
                luaL_addstring(&list, *k);
            }
            luaL_pushresult(&list);
            luaL_error(L, "unknown %s option '%s'; known options: %s", what, shown,
                       lua_tostring(L, -1));
        }
    }
}

static void read_config(lua_State *L, rk_config *config)
{
    config->device = option_text(L, "device");
    config->pin = option_text(L, "pin");
    config->mode = option_text(L, "mode");
    config->cache = option_text(L, "cache");
    lua_Number stop = option_number(L, "stop_timeout", (lua_Number)config->stop_timeout / 1e9);
    config->stop_timeout = rk__seconds(stop);
    lua_Number drain = option_number(L, "drain", (lua_Number)config->drain / 1e9);
    config->drain = rk__seconds(drain);
    lua_Number letters = option_number(L, "dead_letters", config->dead_letters);
    luaL_argcheck(L, letters >= 0 && letters <= UINT32_MAX, 1,
                  "dead_letters is a number of messages");
    config->dead_letters = (uint32_t)letters;
    lua_Number answer =
        option_number(L, "device_timeout", (lua_Number)config->device_timeout / 1e9);
    config->device_timeout = rk__seconds(answer);
    config->pinned_memory = option_bytes(L, "pinned_memory", config->pinned_memory);
    config->device_memory = option_bytes(L, "device_memory", config->device_memory);
    config->kill_signal = (int)option_number(L, "kill_signal", config->kill_signal);
}

/* rk.runtime([options]) */
static int open_runtime(lua_State *L)
{
    lua_settop(L, 1);
    if (lua_isnil(L, 1) &&
        lua_rawgetp(L, LUA_REGISTRYINDEX, &rk__embedded_runtime_key) == LUA_TLIGHTUSERDATA) {
        rk__lua_push_runtime(L, lua_touserdata(L, -1));
        return 1;
    }
    rk_config config = RK_CONFIG_INIT;
    if (!lua_isnil(L, 1)) {
        luaL_checktype(L, 1, LUA_TTABLE);
        rk__lua_check_keys(L, 1, "runtime", rk__setting_names);
    }
    read_config(L, &config);
    handle *h = push_handle(L);
    rk_runtime *rt;
    int rc = rk__handle_open(&rt, &config);
    if (rc < 0) {
        return rk__lua_raise(L, rc, RK_NOBODY);
    }
    *h = (handle){rt, 0, true};
    set_anchor(L, rt, true);
    return 1;
}

/* ---- closing ---- */

static int close_handle(handle *h, rk__strbuf *killed)
{
    rk_runtime *rt = h->rt;
    bool owned = h->owned;
    h->rt = NULL;
    return rt != NULL && owned ? rk__handle_close(rt, killed) : 0;
}

/* The names of killed actors as a list: each has its NUL. */
static int push_list(lua_State *L)
{
    const rk__strbuf *names = lua_touserdata(L, 1);
    lua_newtable(L);
    lua_Integer n = 0;
    for (size_t at = 0; at < names->size; at += strlen(names->bytes + at) + 1) {
        lua_pushstring(L, names->bytes + at);
        lua_rawseti(L, -2, ++n);
    }
    return 1;
}

/* Pushes what `fn` makes of the names, and frees them. */
static int push_names(lua_State *L, lua_CFunction fn, rk__strbuf *names)
{
    lua_pushcfunction(L, fn);
    lua_pushlightuserdata(L, names);
    int status = lua_pcall(L, 1, 1, 0);
    rk__strbuf_free(names);
    return status == LUA_OK ? 1 : lua_error(L);
}

/* The options of close: { drain = seconds }. */
static void read_drain(lua_State *L, rk_runtime *rt)
{
    static const char *const known[] = {"drain", NULL};
    if (lua_isnoneornil(L, 2)) {
        return;
    }
    luaL_checktype(L, 2, LUA_TTABLE);
    rk__lua_check_keys(L, 2, "close", known);
    if (lua_getfield(L, 2, "drain") != LUA_TNIL) {
        luaL_argcheck(L, lua_type(L, -1) == LUA_TNUMBER, 2, "drain is a number of seconds");
        int64_t drain = rk__lua_timeout(L, -1, 0);
        rt->drain = drain < 0 ? RK__FOREVER : drain;
    }
    lua_pop(L, 1);
}

static int runtime_close(lua_State *L)
{
    handle *h = luaL_checkudata(L, 1, class_name);
    if (h->rt != NULL && !h->owned) {
        return luaL_error(L, "this handle does not own its runtime: whoever opened it closes it");
    }
    rk_runtime *rt = h->rt;
    rk__strbuf killed = RK__STRBUF_INIT;
    if (rt != NULL) {
        read_drain(L, rt);
    }
    int rc = close_handle(h, &killed);
    if (rt != NULL) {
        set_anchor(L, rt, false);
    }
    if (rc < 0) {
        rk__strbuf_free(&killed);
        return rk__lua_fail(L, rc);
    }
    lua_pushboolean(L, 1);
    push_names(L, push_list, &killed);
    return 2;
}

/* <close>: what would not stop is in the log already. */
static int runtime_leave(lua_State *L)
{
    handle *h = luaL_checkudata(L, 1, class_name);
    rk_runtime *rt = h->owned ? h->rt : NULL;
    close_handle(h, NULL);
    if (rt != NULL) {
        set_anchor(L, rt, false);
    }
    return 0;
}

static int runtime_gc(lua_State *L)
{
    close_handle(luaL_checkudata(L, 1, class_name), NULL);
    return 0;
}

static int runtime_tostring(lua_State *L)
{
    handle *h = luaL_checkudata(L, 1, class_name);
    if (!is_open(h)) {
        lua_pushliteral(L, "runtime (closed)");
    } else {
        const char *device = rk__device_name(h->rt);
        lua_pushfstring(L, "runtime (%s, %d actors)", device != NULL ? device : "no device",
                        (int)rk_actors(h->rt, NULL, 0));
    }
    return 1;
}

/* An owning object and a handle of the same open runtime are equal. */
static int runtime_eq(lua_State *L)
{
    handle *a = luaL_testudata(L, 1, class_name), *b = luaL_testudata(L, 2, class_name);
    lua_pushboolean(L, a && b && a->rt == b->rt && is_open(a) && is_open(b));
    return 1;
}

/* ---- by name or pid ---- */

static int find_target(lua_State *L, rk_runtime *rt, int index, rk_pid *out)
{
    if (lua_type(L, index) == LUA_TSTRING) {
        return rk_whereis(rt, lua_tostring(L, index), out);
    }
    if (!rk__lua_to_pid(L, index, out)) {
        return luaL_typeerror(L, index, "name or pid");
    }
    return 0;
}

/* runtime:send(name, message [, timeout]): answers collect for runtime:receive(name). */
static int runtime_send(lua_State *L)
{
    rk_runtime *rt = rk__lua_check_runtime(L, 1);
    rk_pid pid;
    luaL_checkany(L, 3);
    int64_t timeout = rk__lua_timeout(L, 4, -1);
    int rc = rk__name_get(rt, luaL_checkstring(L, 2), &pid);
    return rc < 0 ? rk__lua_fail(L, rc)
                  : rk__lua_send_output(L, pid, rk__lua_to_delivery(L, 3), timeout);
}

static int runtime_receive(lua_State *L)
{
    rk_runtime *rt = rk__lua_check_runtime(L, 1);
    rk_pid pid;
    int64_t timeout = rk__lua_timeout(L, 3, -1);
    int rc = rk__name_get(rt, luaL_checkstring(L, 2), &pid);
    return rc < 0 ? rk__lua_fail(L, rc) : rk__lua_receive_output(L, pid, timeout);
}

static int all_results(lua_State *L, int status, lua_KContext base)
{
    (void)status;
    return lua_gettop(L) - (int)base;
}

/* runtime:METHOD(target, ...) is target's pid:METHOD(...), which may yield; the method's name is
 * the upvalue. */
static int forward_to_pid(lua_State *L)
{
    rk_pid pid;
    const char *method = lua_tostring(L, lua_upvalueindex(1));
    int rc = find_target(L, rk__lua_check_runtime(L, 1), 2, &pid);
    if (rc < 0) {
        return strcmp(method, "call") == 0 ? rk__lua_raise(L, rc, RK_NOBODY) : rk__lua_fail(L, rc);
    }
    rk__lua_push_pid(L, pid);
    lua_replace(L, 2);
    lua_getfield(L, 2, method);
    lua_replace(L, 1);
    lua_callk(L, lua_gettop(L) - 1, LUA_MULTRET, 0, all_results);
    return all_results(L, LUA_OK, 0);
}

static int runtime_whereis(lua_State *L)
{
    rk_pid pid;
    int rc = rk_whereis(rk__lua_check_runtime(L, 1), luaL_checkstring(L, 2), &pid);
    if (rc < 0) {
        return rk__lua_fail(L, rc);
    }
    rk__lua_push_pid(L, pid);
    return 1;
}

/* ---- looking at things ---- */

static void set_integer(lua_State *L, const char *key, uint64_t value)
{
    lua_pushinteger(L, (lua_Integer)value);
    lua_setfield(L, -2, key);
}

/* One table per actor, oldest first; an actor that ends meanwhile is left out. */
static int runtime_list(lua_State *L)
{
    rk_runtime *rt = rk__lua_check_runtime(L, 1);
    size_t capacity = rk_actors(rt, NULL, 0) + 16;
    rk_pid *pids = lua_newuserdatauv(L, capacity * sizeof *pids, 0);
    size_t n = rk_actors(rt, pids, capacity);
    lua_Integer shown = 0;
    lua_newtable(L);
    for (size_t i = n < capacity ? n : capacity; i > 0; i--) {
        rk__lua_push_pid(L, pids[i - 1]);
        lua_getfield(L, -1, "info");
        lua_insert(L, -2);
        lua_call(L, 1, 1);
        if (lua_istable(L, -1)) {
            lua_rawseti(L, -2, ++shown);
        } else {
            lua_pop(L, 1);
        }
    }
    return 1;
}

static int runtime_stats(lua_State *L)
{
    rk_stats stats;
    int rc = rk_runtime_stats(rk__lua_check_runtime(L, 1), &stats);
    if (rc < 0) {
        return rk__lua_fail(L, rc);
    }
    lua_createtable(L, 0, 12);
    set_integer(L, "actors", stats.actors);
    set_integer(L, "spawned", stats.spawned);
    set_integer(L, "terminated", stats.terminated);
    set_integer(L, "failed", stats.failed);
    set_integer(L, "messages_sent", stats.messages_sent);
    set_integer(L, "messages_received", stats.messages_received);
    set_integer(L, "unfinished", stats.unfinished);
    set_integer(L, "dropped", stats.dropped);
    set_integer(L, "dead_letters", stats.dead_letters);
    set_integer(L, "expired", stats.expired);
    set_integer(L, "rejected", stats.rejected);
    set_integer(L, "late_replies", stats.late_replies);
    set_integer(L, "forgotten", stats.forgotten);
    set_integer(L, "kernels_compiled", stats.kernels_compiled);
    set_integer(L, "cache_hits", stats.cache_hits);
    return 1;
}

static int runtime_device(lua_State *L)
{
    lua_pushstring(L, rk__device_name(rk__lua_check_runtime(L, 1)));
    return 1;
}

static const luaL_Reg methods[] = {{"launch", rk__lua_runtime_launch},
                                   {"spawn", rk__lua_runtime_spawn},
                                   {"supervise", rk__lua_runtime_supervise},
                                   {"send", runtime_send},
                                   {"receive", runtime_receive},
                                   {"list", runtime_list},
                                   {"wait", rk__lua_runtime_wait},
                                   {"whereis", runtime_whereis},
                                   {"stats", runtime_stats},
                                   {"device", runtime_device},
                                   {"close", runtime_close},
                                   {NULL, NULL}};

/* Our names, and the methods of pids behind them. */
static const char *const forwards[][2] = {{"activate", "activate"},
                                          {"deactivate", "deactivate"},
                                          {"reactivate", "reactivate"},
                                          {"terminate", "stop"},
                                          {"call", "call"},
                                          {"try_call", "try_call"},
                                          {"telemetry", "info"},
                                          {NULL, NULL}};

static const luaL_Reg metamethods[] = {{"__gc", runtime_gc},
                                       {"__close", runtime_leave},
                                       {"__tostring", runtime_tostring},
                                       {"__eq", runtime_eq},
                                       {NULL, NULL}};

void rk__lua_open_runtime(lua_State *L)
{
    luaL_newmetatable(L, class_name);
    luaL_setfuncs(L, metamethods, 0);
    luaL_newlib(L, methods);
    for (int i = 0; forwards[i][0] != NULL; i++) {
        lua_pushstring(L, forwards[i][1]);
        lua_pushcclosure(L, forward_to_pid, 1);
        lua_setfield(L, -2, forwards[i][0]);
    }
    lua_setfield(L, -2, "__index");
    lua_pushliteral(L, "rk.runtime");
    lua_setfield(L, -2, "__metatable");
    lua_pop(L, 1);
    lua_pushcfunction(L, open_runtime);
    lua_setfield(L, -2, "runtime");
}
