/*
 * timers.c -- rk.after, rk.every, rk.cancel and the timers they give.
 *
 * A timer is a userdata with its function as user value; while it is set the registry keeps it, and
 * the host's wheels (actor/timer.c) have its address. mail.c starts the calls.
 *
 * Threads: the state's own. Order: see actor/timer.h. The host frees all its timers when the actor
 * ends, before anything else of the state goes.
 */
#include "script/scheduler.h"

#include <math.h>
#include <string.h>

static const char timer_class[] = "rk.timer";

/* An error that names the function and the value at 1. */
static int refuse(lua_State *L, const char *what)
{
    lua_Number seconds = lua_tonumber(L, 1);
    const char *value = seconds != seconds ? "NaN" : luaL_tolstring(L, 1, NULL);
    return luaL_error(L, "%s seconds, not %s", what, value);
}

/* Registers a callback (on top) for its time. */
static int set_timer(lua_State *L, rk__callback *callback, int64_t delay, int64_t period)
{
    rk__lua_host *host = rk__lua_host_of(L);
    lua_pushvalue(L, -1);
    lua_rawsetp(L, LUA_REGISTRYINDEX, callback); /* kept while the timer is set */
    callback->timer = rk__timers_add(&host->timers, rk__deadline(delay), period, callback);
    if (!callback->timer) {
        lua_pushnil(L);
        lua_rawsetp(L, LUA_REGISTRYINDEX, callback);
        return luaL_error(L, "out of memory for a timer");
    }
    return 1;
}

static rk__callback *new_callback(lua_State *L, lua_Number period)
{
    rk__callback *callback = lua_newuserdatauv(L, sizeof *callback, 1);
    memset(callback, 0, sizeof *callback);
    callback->fires = RK__FIRES_CALLBACK;
    callback->period = period;
    luaL_setmetatable(L, timer_class);
    lua_pushvalue(L, 2);
    lua_setiuservalue(L, -2, 1);
    return callback;
}

static int after(lua_State *L)
{
    lua_Number seconds = luaL_checknumber(L, 1);
    luaL_checktype(L, 2, LUA_TFUNCTION);
    if (!(seconds >= 0)) {
        return refuse(L, "rk.after: a delay must be 0 or more");
    }
    return set_timer(L, new_callback(L, 0), rk__seconds(seconds), 0);
}

static int every(lua_State *L)
{
    lua_Number seconds = luaL_checknumber(L, 1);
    luaL_checktype(L, 2, LUA_TFUNCTION);
    if (!(seconds > 0)) {
        return refuse(L, "rk.every: a period must be more than 0");
    }
    int64_t period = rk__seconds(seconds);
    period = period == 0 ? 1 : period;
    return set_timer(L, new_callback(L, seconds), period, period);
}

static int cancel(lua_State *L)
{
    rk__lua_host *host = rk__lua_host_of(L);
    rk__callback *callback = luaL_checkudata(L, 1, timer_class);
    bool set = rk__timers_cancel(&host->timers, callback->timer);
    callback->timer = 0;
    callback->cancelled = true;
    lua_pushboolean(L, set);
    lua_pushnil(L);
    lua_rawsetp(L, LUA_REGISTRYINDEX, callback);
    return 1;
}

static int due(lua_State *L)
{
    rk__lua_host *host = rk__lua_host_of(L);
    rk__callback *callback = luaL_checkudata(L, 1, timer_class);
    int64_t deadline;
    if (!rk__timers_due(&host->timers, callback->timer, &deadline)) {
        return 0;
    }
    lua_pushnumber(L, deadline == RK__FOREVER ? (lua_Number)HUGE_VAL : (lua_Number)deadline / 1e9);
    return 1;
}

void rk__lua_open_timers(lua_State *L)
{
    static const luaL_Reg functions[] = {
        {"after", after}, {"every", every}, {"cancel", cancel}, {NULL, NULL}};
    static const luaL_Reg methods[] = {{"cancel", cancel}, {"due", due}, {NULL, NULL}};
    luaL_setfuncs(L, functions, 0);
    luaL_newmetatable(L, timer_class);
    luaL_newlib(L, methods);
    lua_setfield(L, -2, "__index");
    lua_pop(L, 1);
}
