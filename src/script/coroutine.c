/*
 * coroutine.c -- resume, wrap, close, yield, status and isyieldable that know the runtime.
 *
 * A coroutine that a user made and resumes may wait in receive, call or sleep: then the yield is
 * the runtime's (host->yielding is set), and resume passes it on to whoever resumed its own caller,
 * with a continuation that resumes the inner coroutine when the wait is over. To the user the inner
 * coroutine never yielded: its status is "normal" meanwhile, and nobody else can resume it. All
 * other yields behave as in the standard library.
 *
 * Bit 0 of a coroutine's extra space says that it waits like this. Threads: the state's own.
 */
#include "script/scheduler.h"

#include <lualib.h>

static void mark(rk__lua_host *host, lua_State *co, bool waits)
{
    *(uintptr_t *)lua_getextraspace(co) = (uintptr_t)host | waits;
}

static bool waits(lua_State *L, lua_State *co)
{
    uintptr_t host = (uintptr_t)rk__lua_host_of(L);
    return *(uintptr_t *)lua_getextraspace(co) == (host | 1);
}

static lua_State *check_coroutine(lua_State *L)
{
    lua_State *co = lua_tothread(L, 1);
    luaL_argexpected(L, co, 1, "coroutine");
    return co;
}

/* Pushes nothing; false with a message on top of L when co cannot be resumed. */
static bool resumable(lua_State *L, lua_State *co, int arguments)
{
    const char *problem = NULL;
    if (waits(L, co)) {
        problem = "cannot resume non-suspended coroutine";
    } else if (lua_status(co) == LUA_OK && lua_gettop(co) == 0) {
        problem = "cannot resume dead coroutine";
    } else if (!lua_checkstack(co, arguments)) {
        problem = "too many arguments to resume";
    }
    if (problem) {
        lua_pushstring(L, problem);
    }
    return !problem;
}

/* What both kinds of resume do with the end of a run: number of results moved to L, or -1 with the
 * error on top of L. */
static int take_results(lua_State *L, lua_State *co, int status, int results)
{
    if (status != LUA_OK && status != LUA_YIELD) {
        lua_xmove(co, L, 1);
        return -1;
    }
    if (!lua_checkstack(L, results + 1)) {
        lua_pop(co, results);
        lua_pushliteral(L, "too many results to resume");
        return -1;
    }
    lua_xmove(co, L, results);
    return results;
}

/* Resumes co until it ends or yields to its user. */
static int run(lua_State *L, lua_State *co, int arguments, lua_KFunction k)
{
    rk__lua_host *host = rk__lua_host_of(L);
    for (;;) {
        int results;
        rk__switch before = rk__enter(host, co);
        int status = lua_resume(co, L, arguments, &results);
        rk__leave(host, before);
        if (status != LUA_YIELD || !host->yielding) {
            return take_results(L, co, status, results);
        }
        rk__waiter *w = host->yielding;
        host->yielding = NULL;
        mark(host, co, true);
        rk__suspend_again(host, L, w, (lua_KContext)co, k);
        mark(host, co, false);
        arguments = 0;
    }
}

/* ---- resume ---- */

static int resume_result(lua_State *L, int results)
{
    lua_pushboolean(L, results >= 0);
    results = results < 0 ? 1 : results;
    lua_insert(L, -(results + 1));
    return results + 1;
}

static int resume_more(lua_State *L, int status, lua_KContext context)
{
    (void)status;
    lua_State *co = (lua_State *)context;
    mark(rk__lua_host_of(L), co, false);
    return resume_result(L, run(L, co, 0, resume_more));
}

static int resume(lua_State *L)
{
    lua_State *co = check_coroutine(L);
    int arguments = lua_gettop(L) - 1;
    if (!resumable(L, co, arguments)) {
        return resume_result(L, -1);
    }
    lua_xmove(L, co, arguments);
    return resume_result(L, run(L, co, arguments, resume_more));
}

/* ---- wrap ---- */

/* As in the standard library: a coroutine that failed is closed, a string error gets its place. */
static int wrap_result(lua_State *L, lua_State *co, int results)
{
    if (results >= 0) {
        return results;
    }
    int status = lua_status(co);
    if (status != LUA_OK && status != LUA_YIELD) {
        status = lua_resetthread(co);
        if (status != LUA_OK) {
            lua_pop(L, 1);
            lua_xmove(co, L, 1);
        }
    }
    if (status != LUA_ERRMEM && lua_type(L, -1) == LUA_TSTRING) {
        luaL_where(L, 1);
        lua_insert(L, -2);
        lua_concat(L, 2);
    }
    return lua_error(L);
}

static int wrap_more(lua_State *L, int status, lua_KContext context)
{
    (void)status;
    lua_State *co = (lua_State *)context;
    mark(rk__lua_host_of(L), co, false);
    return wrap_result(L, co, run(L, co, 0, wrap_more));
}

static int wrapped(lua_State *L)
{
    lua_State *co = lua_tothread(L, lua_upvalueindex(1));
    int arguments = lua_gettop(L);
    if (!resumable(L, co, arguments)) {
        return wrap_result(L, co, -1);
    }
    lua_xmove(L, co, arguments);
    return wrap_result(L, co, run(L, co, arguments, wrap_more));
}

static int wrap(lua_State *L)
{
    luaL_checktype(L, 1, LUA_TFUNCTION);
    lua_State *co = lua_newthread(L);
    lua_pushvalue(L, 1);
    lua_xmove(L, co, 1);
    lua_pushcclosure(L, wrapped, 1);
    return 1;
}

/* ---- the rest ---- */

static bool is_task(lua_State *L)
{
    const rk__lua_host *host = rk__lua_host_of(L);
    return host->task && host->task->co == L;
}

static int yield(lua_State *L)
{
    if (is_task(L)) {
        return luaL_error(L, "attempt to yield from outside a coroutine");
    }
    return lua_yield(L, lua_gettop(L));
}

static int isyieldable(lua_State *L)
{
    lua_State *co = lua_isthread(L, 1) ? lua_tothread(L, 1) : L;
    lua_pushboolean(L, lua_isyieldable(co) && !is_task(co));
    return 1;
}

/* status and close hand over to the standard functions unless the runtime makes a difference. */
static int standard(lua_State *L)
{
    lua_pushvalue(L, lua_upvalueindex(1));
    lua_insert(L, 1);
    lua_call(L, lua_gettop(L) - 1, LUA_MULTRET);
    return lua_gettop(L);
}

static int status_of(lua_State *L)
{
    if (waits(L, check_coroutine(L))) {
        lua_pushliteral(L, "normal");
        return 1;
    }
    return standard(L);
}

static int close_coroutine(lua_State *L)
{
    if (waits(L, check_coroutine(L))) {
        return luaL_error(L, "cannot close a normal coroutine");
    }
    return standard(L);
}

void rk__lua_open_coroutines(lua_State *L)
{
    static const luaL_Reg functions[] = {{"resume", resume},
                                         {"wrap", wrap},
                                         {"yield", yield},
                                         {"isyieldable", isyieldable},
                                         {NULL, NULL}};
    static const luaL_Reg wrappers[] = {{"status", status_of}, {"close", close_coroutine}};
    if (lua_getglobal(L, LUA_COLIBNAME) == LUA_TTABLE) {
        luaL_setfuncs(L, functions, 0);
        for (int i = 0; i < 2; i++) {
            lua_getfield(L, -1, wrappers[i].name);
            lua_pushcclosure(L, wrappers[i].func, 1);
            lua_setfield(L, -2, wrappers[i].name);
        }
    }
    lua_pop(L, 1);
}
