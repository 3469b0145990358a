/*
 * module.c -- luaopen_rk: the table `rk`, made of what the other files add to it; and how failures
 * become Lua values.
 *
 * Threads: the state's own.
 */
#include "script/script.h"

#include <lualib.h>
#include <string.h>
#include "base/clock.h"
#include "base/error.h"
#include "base/log.h"

static const char error_class[] = "rk.error";

/* ---- errors ---- */

size_t rk__lua_message_size(const char *text)
{
    const char *cut = strstr(text, "\nstack traceback:");
    return cut != NULL ? (size_t)(cut - text) : strlen(text);
}

static int push_failure(lua_State *L, int code, const char *text)
{
    lua_pushnil(L);
    lua_pushlstring(L, text, rk__lua_message_size(text));
    lua_pushstring(L, rk_err_name(code));
    return 3;
}

int rk__lua_fail_detail(lua_State *L, int code)
{
    const char *detail = rk_errdetail();
    return push_failure(L, code, detail[0] != '\0' ? detail : rk_strerror(code));
}

int rk__lua_fail(lua_State *L, int code)
{
    return code == RK_ETIMEOUT || code == RK_ESTOP ? push_failure(L, code, rk_strerror(code))
                                                   : rk__lua_fail_detail(L, code);
}

/* A handler's error comes with the traceback of its own state behind the message. */
static void set_message(lua_State *L, const char *text)
{
    size_t size = rk__lua_message_size(text);
    lua_pushlstring(L, text, size);
    lua_setfield(L, -2, "message");
    if (text[size] != '\0') {
        lua_pushstring(L, text + size + 1);
        lua_setfield(L, -2, "traceback");
    }
}

int rk__lua_raise(lua_State *L, int code, rk_pid actor)
{
    const char *detail = rk_errdetail();
    lua_createtable(L, 0, 5);
    set_message(L, detail[0] != '\0' ? detail : rk_strerror(code));
    lua_pushstring(L, rk_err_name(code));
    lua_setfield(L, -2, "code");
    luaL_where(L, 1);
    lua_setfield(L, -2, "where");
    if (actor != RK_NOBODY) {
        rk__lua_push_pid(L, actor);
        lua_setfield(L, -2, "actor");
    }
    luaL_setmetatable(L, error_class);
    return lua_error(L);
}

static int error_tostring(lua_State *L)
{
    luaL_checktype(L, 1, LUA_TTABLE);
    lua_settop(L, 1);
    bool traced = lua_getfield(L, 1, "traceback") == LUA_TSTRING;
    lua_getfield(L, 1, "where");
    lua_getfield(L, 1, "message");
    const char *where = lua_tostring(L, 3), *message = lua_tostring(L, 4);
    lua_pushfstring(L, "%s%s%s%s", where != NULL ? where : "", message != NULL ? message : "?",
                    traced ? "\n" : "", traced ? lua_tostring(L, 2) : "");
    return 1;
}

static void open_errors(lua_State *L)
{
    luaL_newmetatable(L, error_class);
    lua_pushcfunction(L, error_tostring);
    lua_setfield(L, -2, "__tostring");
    lua_pop(L, 1);
    lua_createtable(L, 0, 32);
#define PUT_ERROR(name, number, text)                                                              \
    lua_pushliteral(L, #name);                                                                     \
    lua_setfield(L, -3, #name);                                                                    \
    lua_pushliteral(L, text);                                                                      \
    lua_setfield(L, -2, #name);
    RK_ERRORS(PUT_ERROR)
#undef PUT_ERROR
    lua_setfield(L, -2, "errors");
}

int64_t rk__lua_timeout(lua_State *L, int index, int64_t otherwise)
{
    if (lua_isnoneornil(L, index)) {
        return otherwise;
    }
    if (lua_type(L, index) != LUA_TNUMBER) {
        return luaL_typeerror(L, index, "timeout in seconds");
    }
    lua_Number seconds = lua_tonumber(L, index);
    luaL_argcheck(L, seconds == seconds, index, "a timeout cannot be NaN");
    return rk__seconds(seconds);
}

/* ---- log and time ---- */

/* The text of rk.log(level, format, ...): alone it is taken as it is, with arguments it is a format
 * of string.format (the upvalue). */
static const char *log_text(lua_State *L)
{
    luaL_checkstring(L, 2);
    if (lua_gettop(L) > 2) {
        lua_pushvalue(L, lua_upvalueindex(1));
        lua_insert(L, 2);
        lua_call(L, lua_gettop(L) - 2, 1);
    }
    return lua_tostring(L, 2);
}

static int log_line(lua_State *L)
{
    enum rk__level level;
    if (rk__log_parse_level(luaL_checkstring(L, 1), &level) < 0) {
        return luaL_argerror(L, 1, rk_errdetail());
    }
    luaL_checkstring(L, 2);
    if (level >= rk__log_level()) {
        const char *text = log_text(L);
        rk__actor *self = rk__self_peek();
        char who[RK_PID_TEXT];
        bool named = self != NULL && (self->runtime != NULL || self->name[0] != '\0');
        rk__log(level, named ? rk_pid_format(rk__actor_pid(self), who) : NULL, "%s", text);
    }
    return 0;
}

static int monotonic_seconds(lua_State *L)
{
    lua_pushnumber(L, (lua_Number)rk__now() / 1e9);
    return 1;
}

/* ---- names ---- */

static int succeed_or_fail(lua_State *L, int rc)
{
    if (rc < 0) {
        return rk__lua_fail(L, rc);
    }
    lua_pushboolean(L, 1);
    return 1;
}

static int register_name(lua_State *L)
{
    const char *name = luaL_checkstring(L, 1);
    rk_pid pid;
    if (lua_isnoneornil(L, 2)) {
        pid = rk_self();
    } else if (!rk__lua_to_pid(L, 2, &pid)) {
        return luaL_typeerror(L, 2, "pid");
    }
    return succeed_or_fail(L, rk_register(rk__lua_current_runtime(L), name, pid));
}

static int where_is(lua_State *L)
{
    rk_pid pid;
    int rc = rk_whereis(rk__lua_current_runtime(L), luaL_checkstring(L, 1), &pid);
    if (rc < 0) {
        return rk__lua_fail(L, rc);
    }
    rk__lua_push_pid(L, pid);
    return 1;
}

/* Collects names as bytes, each with its NUL: no Lua call may fail under the lock of the names. */
static void collect_name(const char *name, rk_pid pid, void *arg)
{
    (void)pid;
    rk__strbuf_add(arg, name, strlen(name) + 1);
}

static int push_names(lua_State *L)
{
    rk__strbuf *names = lua_touserdata(L, 1);
    lua_newtable(L);
    lua_Integer n = 0;
    for (size_t at = 0; at < names->size; at += strlen(names->bytes + at) + 1) {
        lua_pushstring(L, names->bytes + at);
        lua_rawseti(L, -2, ++n);
    }
    return 1;
}

static int all_names(lua_State *L)
{
    rk__strbuf names = RK__STRBUF_INIT;
    rk__name_each(rk__lua_current_runtime(L), collect_name, &names);
    if (names.failed) {
        rk__strbuf_free(&names);
        return luaL_error(L, "out of memory for the names");
    }
    lua_pushcfunction(L, push_names);
    lua_pushlightuserdata(L, &names);
    int status = lua_pcall(L, 1, 1, 0);
    rk__strbuf_free(&names);
    return status == LUA_OK ? 1 : lua_error(L);
}

static int all_actors(lua_State *L)
{
    rk_runtime *rt = rk__lua_current_runtime(L);
    size_t capacity = rk_actors(rt, NULL, 0) + 16;
    rk_pid *pids = lua_newuserdatauv(L, capacity * sizeof *pids, 0);
    size_t n = rk_actors(rt, pids, capacity);
    n = n < capacity ? n : capacity;
    lua_createtable(L, (int)n, 0);
    for (size_t i = 0; i < n; i++) {
        rk__lua_push_pid(L, pids[i]);
        lua_rawseti(L, -2, (lua_Integer)i + 1);
    }
    return 1;
}

static const luaL_Reg functions[] = {{"now", monotonic_seconds},
                                     {"register", register_name},
                                     {"whereis", where_is},
                                     {"names", all_names},
                                     {"actors", all_actors},
                                     {"devices", rk__lua_devices},
                                     {NULL, NULL}};

/* ---- the table ---- */

static void open_log(lua_State *L)
{
    lua_getglobal(L, LUA_STRLIBNAME);
    if (lua_getfield(L, -1, "format") != LUA_TFUNCTION) {
        luaL_error(L, "rk needs the function string.format");
    }
    lua_remove(L, -2);
    lua_pushcclosure(L, log_line, 1);
    lua_setfield(L, -2, "log");
}

/* An actor's state has its host already; anybody else's belongs to the calling thread's port. */
static void open_host(lua_State *L)
{
    if (rk__lua_host_of(L) != NULL) {
        return;
    }
    rk__actor *self = rk__self_get();
    int rc = self == NULL ? RK_ENOMEM : rk__lua_host_open(L, self);
    if (rc < 0) {
        luaL_error(L, "cannot start the runtime in this state: %s", rk_errdetail());
    }
}

RK_API int luaopen_rk(lua_State *L)
{
    rk__lua_state_prepare(L);
    open_host(L);
    luaL_newlib(L, functions);
    lua_pushliteral(L, RK_VERSION);
    lua_setfield(L, -2, "version");
    open_errors(L);
    open_log(L);
    rk__lua_open_values(L);
    rk__lua_open_types(L);
    rk__lua_open_messages(L);
    rk__lua_open_pids(L);
    rk__lua_open_calls(L);
    rk__lua_open_links(L);
    rk__lua_open_actors(L);
    rk__lua_open_runtime(L);
    rk__lua_open_kernels(L);
    rk__lua_open_deadletters(L);
    rk__lua_open_supervisors(L);
    return 1;
}
