/*
 * host.c -- the host of a Lua state, who runs in it, and how running code is interrupted.
 *
 * An interrupt arms a hook on the coroutine that runs, from a signal handler of the same thread,
 * and again at every switch to another coroutine until the scheduler has control: a pcall cannot
 * get around it. The hook costs nothing while it is not armed.
 *
 * Threads: the state's own; rk__lua_host_interrupt any.
 */
#include "script/scheduler.h"

#include <string.h>
#include "base/error.h"
#include "script/server.h"
#include "script/upgrade.h"

static const char host_key; /* its address is the key in the registry */

/* The host whose code this thread runs; read by the signal handler, hence initial-exec. */
static __thread rk__lua_host *current __attribute__((tls_model("initial-exec")));

/* ---- the host of a state ---- */

rk__lua_host *rk__lua_host_of(lua_State *L)
{
    /* A coroutine has a copy of the main thread's word, with bit 0 set while it waits. A coroutine
     * older than the host has anything there, so the word is only compared, never followed. */
    uintptr_t word = *(uintptr_t *)lua_getextraspace(L) & ~(uintptr_t)1;
    if (current && word == (uintptr_t)current) {
        return current;
    }
    lua_rawgetp(L, LUA_REGISTRYINDEX, &host_key);
    rk__lua_host *host = lua_touserdata(L, -1);
    lua_pop(L, 1);
    if (host) {
        *(rk__lua_host **)lua_getextraspace(L) = host;
        current = host;
    }
    return host;
}

rk__actor *rk__lua_self(lua_State *L)
{
    return rk__lua_host_of(L)->self;
}

/* Runs at lua_close: what C owns goes, no Lua code is started any more. */
static int host_gc(lua_State *L)
{
    rk__lua_host *host = lua_touserdata(L, 1);
    rk__server_free(host);
    rk__timers_free(&host->timers);
    if (current == host) {
        current = NULL;
    }
    return 0;
}

static int host_new(lua_State *L)
{
    rk__lua_host *host = lua_newuserdatauv(L, sizeof *host, 0);
    memset(host, 0, sizeof *host);
    host->timers = (rk__timers)RK__TIMERS_INIT;
    lua_rawgeti(L, LUA_REGISTRYINDEX, LUA_RIDX_MAINTHREAD);
    host->L = lua_tothread(L, -1);
    host->running = host->L;
    host->self = lua_touserdata(L, 1);
    host->thread = pthread_self();
    lua_pop(L, 1);
    lua_createtable(L, 0, 1);
    lua_pushcfunction(L, host_gc);
    lua_setfield(L, -2, "__gc");
    lua_setmetatable(L, -2);
    lua_rawsetp(L, LUA_REGISTRYINDEX, &host_key);
    /* A kill that came before there was anything to interrupt. Pairs with the store in kill. */
    if (host->self->runtime && __atomic_load_n(&host->self->interrupted, __ATOMIC_SEQ_CST)) {
        host->killed = host->interrupted = 1;
    }
    *(rk__lua_host **)lua_getextraspace(host->L) = host;
    current = host;
    return 0;
}

int rk__lua_host_open(lua_State *L, rk__actor *self)
{
    rk__lua_host *host = rk__lua_host_of(L);
    self->claim = rk__lua_claim;
    self->attend = rk__lua_attend;
    self->forgot = rk__lua_forgotten;
    if (host) {
        host->self = self;
        return 0;
    }
    if (!lua_checkstack(L, 4)) {
        return rk__fail(RK_ENOMEM, "out of memory for the scheduler of a Lua state");
    }
    lua_pushcfunction(L, host_new);
    lua_pushlightuserdata(L, self);
    if (lua_pcall(L, 1, 0, 0) != LUA_OK) {
        lua_pop(L, 1);
        return rk__fail(RK_ENOMEM, "out of memory for the scheduler of a Lua state");
    }
    return 0;
}

/* ---- interrupts ---- */

static void interrupt_hook(lua_State *L, lua_Debug *where)
{
    (void)where;
    rk__lua_host *host = rk__lua_host_of(L);
    luaL_error(L, host->killed ? "killed" : "interrupted");
}

static void arm(lua_State *L)
{
    lua_sethook(L, interrupt_hook, LUA_MASKCALL | LUA_MASKRET | LUA_MASKLINE | LUA_MASKCOUNT, 1);
}

void rk__lua_host_interrupt(rk__lua_host *host)
{
    if (!pthread_equal(pthread_self(), host->thread)) {
        /* Only the thread itself may set a hook; its signal handler comes back here. */
        rk_runtime *rt = host->self->runtime;
        host->interrupted = 1;
        pthread_kill(host->thread, rt ? rt->kill_signal : SIGINT);
        return;
    }
    /* Written before running is read; rk__enter writes running, then reads this. Same thread, so
     * the volatile accesses keep their order. */
    host->interrupted = 1;
    arm(host->running);
}

rk__lua_host *rk__lua_host_current(void)
{
    return current;
}

void rk__lua_interrupt_here(void)
{
    rk__lua_host *host = current;
    if (host) {
        host->killed = 1;
        host->interrupted = 1;
        arm(host->running);
    }
}

void rk__lua_host_calm(rk__lua_host *host)
{
    if (!host->killed) {
        host->interrupted = 0;
        lua_sethook(host->running, NULL, 0, 0);
    }
}

static void switch_to(rk__lua_host *host, lua_State *running)
{
    host->running = running;
    if (host->interrupted) {
        arm(running);
    } else if (lua_gethook(running) == interrupt_hook) {
        lua_sethook(running, NULL, 0, 0);
    }
}

rk__switch rk__enter(rk__lua_host *host, lua_State *co)
{
    rk__switch before = {host->running, host->resumed};
    host->resumed = co;
    switch_to(host, co);
    return before;
}

void rk__leave(rk__lua_host *host, rk__switch before)
{
    host->resumed = before.resumed;
    switch_to(host, before.running);
}
