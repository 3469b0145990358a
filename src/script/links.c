/*
 * links.c -- rk.monitor, rk.link and their like: who hears of an actor's end. See actor/monitor.c.
 *
 * Threads: the state's own.
 */
#include "script/script.h"

#include "base/error.h"

static int done(lua_State *L, int code)
{
    if (code < 0) {
        return rk__lua_fail(L, code);
    }
    lua_pushboolean(L, 1);
    return 1;
}

static int monitor(lua_State *L)
{
    rk_pid pid;
    int code = rk__lua_check_target(L, 1, &pid);
    return done(L, code < 0 ? code : rk_monitor(pid));
}

static int demonitor(lua_State *L)
{
    rk_pid pid;
    int code = rk__lua_check_target(L, 1, &pid);
    return done(L, code < 0 ? code : rk_demonitor(pid));
}

/* (target [, other]): both sides, other is the caller when it is not given. */
static int both(lua_State *L, int (*verb)(rk_pid pid, rk_pid other))
{
    rk_pid pid, other = RK_NOBODY;
    int code = rk__lua_check_target(L, 1, &pid);
    if (code == 0 && !lua_isnoneornil(L, 2)) {
        code = rk__lua_check_target(L, 2, &other);
    }
    return done(L, code < 0 ? code : verb(pid, other));
}

static int link_actors(lua_State *L)
{
    return both(L, rk_link);
}

static int unlink_actors(lua_State *L)
{
    return both(L, rk_unlink);
}

static int trap_exit(lua_State *L)
{
    bool before;
    luaL_checktype(L, 1, LUA_TBOOLEAN);
    int code = rk_trap_exit(lua_toboolean(L, 1), &before);
    if (code < 0) {
        return rk__lua_raise(L, code, RK_NOBODY);
    }
    lua_pushboolean(L, before);
    return 1;
}

static int label(lua_State *L)
{
    return done(L, rk_label(luaL_optstring(L, 1, "")));
}

void rk__lua_open_links(lua_State *L)
{
    static const luaL_Reg functions[] = {{"monitor", monitor},
                                         {"demonitor", demonitor},
                                         {"link", link_actors},
                                         {"unlink", unlink_actors},
                                         {"trap_exit", trap_exit},
                                         {"label", label},
                                         {NULL, NULL}};
    luaL_setfuncs(L, functions, 0);
}
