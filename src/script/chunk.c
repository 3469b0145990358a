/*
 * chunk.c -- runs a chunk with a traceback for its errors.
 *
 * The chunk runs directly on the state, not as a task of the scheduler: where it waits, the
 * scheduler's loop runs on top of it, so timers, forks and routes go on.
 *
 * Threads: the state's own.
 */
#include "script/chunk.h"

#include <lauxlib.h>

int rk__lua_explain(lua_State *L)
{
    const char *text = lua_tostring(L, 1);
    if (text == NULL) {
        if (luaL_getmetafield(L, 1, "__tostring") != LUA_TNIL) {
            text = luaL_tolstring(L, 1, NULL);
        } else {
            text = lua_pushfstring(L, "(error object is a %s value)", luaL_typename(L, 1));
        }
    }
    luaL_traceback(L, L, text, 1);
    return 1;
}

int rk__lua_run(lua_State *L, int arguments, int results, lua_CFunction handler)
{
    int base = lua_gettop(L) - arguments;
    lua_pushcfunction(L, handler != NULL ? handler : rk__lua_explain);
    lua_insert(L, base);
    int status = lua_pcall(L, arguments, results, base);
    lua_remove(L, base);
    return status;
}
