/*
 * pid.c -- pids as Lua values.
 *
 * Entered by the thread of the lua_State. A state has one userdata per pid while anybody holds it
 * (a weak cache), so pids compare with == and work as keys of tables. Methods come from the table
 * "rk.pid" in the registry, which calls.c and others fill; the fields name, kind and alive look at
 * the actor as it is now.
 */
#include "base/error.h"
#include "script/values.h"

const char rk__lua_pid_tag = 0;

static const char pids_key = 0, pid_meta_key = 0;

struct pid {
    const char *tag;
    rk_pid pid;
};

void rk__lua_push_pid(lua_State *L, rk_pid pid)
{
    lua_rawgetp(L, LUA_REGISTRYINDEX, &pids_key);
    if (lua_rawgeti(L, -1, (lua_Integer)pid) == LUA_TNIL) {
        lua_pop(L, 1);
        struct pid *p = lua_newuserdatauv(L, sizeof *p, 0);
        p->tag = &rk__lua_pid_tag;
        p->pid = pid;
        lua_rawgetp(L, LUA_REGISTRYINDEX, &pid_meta_key);
        lua_setmetatable(L, -2);
        lua_pushvalue(L, -1);
        lua_rawseti(L, -3, (lua_Integer)pid);
    }
    lua_replace(L, -2);
}

bool rk__lua_to_pid(lua_State *L, int index, rk_pid *out)
{
    const struct pid *p = rk__lua_tagged(L, index, &rk__lua_pid_tag, sizeof *p);
    if (p) {
        *out = p->pid;
    }
    return p;
}

static rk_pid check_pid(lua_State *L, int index)
{
    rk_pid pid = RK_NOBODY;
    luaL_argexpected(L, rk__lua_to_pid(L, index, &pid), index, "pid");
    return pid;
}

int rk__lua_check_target(lua_State *L, int index, rk_pid *out)
{
    if (rk__lua_to_pid(L, index, out)) {
        return 0;
    }
    if (lua_type(L, index) != LUA_TSTRING) {
        return luaL_typeerror(L, index, "pid or name of an actor");
    }
    rk_runtime *rt = rk__runtime_current();
    return rt ? rk_whereis(rt, lua_tostring(L, index), out) : RK_ENOENT;
}

/* ---- fields ---- */

static void push_name(lua_State *L, const rk_info *info)
{
    if (info->name[0]) {
        lua_pushstring(L, info->name);
    } else {
        lua_pushnil(L);
    }
}

static void push_kind(lua_State *L, const rk_info *info)
{
    lua_pushstring(L, info->kind);
}

static void push_alive(lua_State *L, const rk_info *info)
{
    lua_pushboolean(L, info->state != RK_TERMINATED && info->state != RK_FAILED);
}

typedef void (*push_fn)(lua_State *L, const rk_info *info);
static const struct {
    const char *name;
    push_fn push;
} fields[] = {{"name", push_name}, {"kind", push_kind}, {"alive", push_alive}};

enum { FIELDS = sizeof fields / sizeof *fields };

static int push_field(lua_State *L, rk_pid pid, lua_Integer field)
{
    rk_info info;
    if (rk_inspect(pid, &info) == 0) {
        fields[field].push(L, &info);
    } else if (fields[field].push == push_alive) {
        lua_pushboolean(L, false);
    } else {
        lua_pushnil(L);
    }
    return 1;
}

/* Upvalues: the methods, and the numbers of the fields by name. Unknown names are nil. */
static int pid_index(lua_State *L)
{
    lua_pushvalue(L, 2);
    if (lua_rawget(L, lua_upvalueindex(1)) != LUA_TNIL) {
        return 1;
    }
    lua_pushvalue(L, 2);
    if (lua_rawget(L, lua_upvalueindex(2)) == LUA_TNIL) {
        return 1;
    }
    return push_field(L, check_pid(L, 1), lua_tointeger(L, -1));
}

static int pid_tostring(lua_State *L)
{
    char text[RK_PID_TEXT];
    lua_pushstring(L, rk_pid_format(check_pid(L, 1), text));
    return 1;
}

/* ---- opening ---- */

static void push_index(lua_State *L)
{
    luaL_getsubtable(L, LUA_REGISTRYINDEX, "rk.pid");
    lua_createtable(L, 0, FIELDS);
    for (int i = 0; i < FIELDS; i++) {
        lua_pushinteger(L, i);
        lua_setfield(L, -2, fields[i].name);
    }
    lua_pushcclosure(L, pid_index, 2);
}

static void push_metatable(lua_State *L)
{
    lua_createtable(L, 0, 4);
    push_index(L);
    lua_setfield(L, -2, "__index");
    lua_pushcfunction(L, pid_tostring);
    lua_setfield(L, -2, "__tostring");
    lua_pushliteral(L, "pid");
    lua_setfield(L, -2, "__name");
    lua_pushliteral(L, "pid");
    lua_setfield(L, -2, "__metatable");
}

void rk__lua_open_pids(lua_State *L)
{
    if (lua_rawgetp(L, LUA_REGISTRYINDEX, &pid_meta_key) == LUA_TNIL) {
        push_metatable(L);
        lua_rawsetp(L, LUA_REGISTRYINDEX, &pid_meta_key);
        lua_newtable(L);
        lua_createtable(L, 0, 1);
        lua_pushliteral(L, "v");
        lua_setfield(L, -2, "__mode");
        lua_setmetatable(L, -2);
        lua_rawsetp(L, LUA_REGISTRYINDEX, &pids_key);
    }
    lua_pop(L, 1);
}
