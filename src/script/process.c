/*
 * process.c -- os.execute, io.popen and os.exit.
 *
 * An actor's thread is pinned to one cpu and takes no signals but the runtime's own; a process it
 * starts would inherit both, run on that one cpu and be deaf to Ctrl-C. So for the length of the
 * call the thread has the process's full affinity mask and an empty signal mask.
 *
 * Threads: the state's own.
 */
#include "script/script.h"

#include <signal.h>
#include <stdio.h>
#include <unistd.h>
#include "base/topology.h"

/* The original function with its arguments, as the thread of an ordinary process would call it. */
static int call_unbound(lua_State *L)
{
    rk__actor *self = rk__self_peek();
    bool pinned = self != NULL && self->runtime != NULL;
    sigset_t none, old;
    lua_pushvalue(L, lua_upvalueindex(1));
    lua_insert(L, 1);
    if (pinned) {
        sigemptyset(&none);
        pthread_sigmask(SIG_SETMASK, &none, &old);
        rk__affinity_restore();
    }
    int status = lua_pcall(L, lua_gettop(L) - 1, LUA_MULTRET, 0);
    if (pinned) {
        rk__thread_pin(self->cpu);
        pthread_sigmask(SIG_SETMASK, &old, NULL);
    }
    return status == LUA_OK ? lua_gettop(L) : lua_error(L);
}

static int exit_process(lua_State *L)
{
    rk__actor *self = rk__self_peek();
    if (self != NULL && self->runtime != NULL) {
        int status = lua_isboolean(L, 1) ? !lua_toboolean(L, 1) : (int)luaL_optinteger(L, 1, 0);
        fflush(NULL);
        _exit(status);
    }
    lua_settop(L, 1);
    lua_pushboolean(L, 1); /* close */
    lua_pushvalue(L, lua_upvalueindex(1));
    lua_insert(L, 1);
    lua_call(L, 2, 0);
    return 0;
}

static void wrap(lua_State *L, const char *library, const char *name, lua_CFunction wrapper)
{
    int top = lua_gettop(L);
    if (lua_getglobal(L, library) == LUA_TTABLE && lua_getfield(L, -1, name) == LUA_TFUNCTION) {
        lua_pushcclosure(L, wrapper, 1);
        lua_setfield(L, -2, name);
    }
    lua_settop(L, top);
}

void rk__lua_open_process(lua_State *L)
{
    wrap(L, "os", "execute", call_unbound);
    wrap(L, "io", "popen", call_unbound);
    wrap(L, "os", "exit", exit_process);
}
