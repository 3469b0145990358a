/*
 * embed.c -- rk_open, rk_close, rk_dofile, rk_dostring: a runtime inside a C program, configured
 * and extended in Lua. The runtime's own Lua state is made when it is first needed and belongs to
 * the thread that opened the runtime.
 *
 * Threads: the one that opened the runtime; others are refused.
 */
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include "base/error.h"
#include "script/chunk.h"
#include "script/handles.h"
#include "script/launch.h"

typedef struct script {
    lua_State *L;
    pthread_t thread;
} script;

static void script_close(rk_runtime *rt)
{
    script *s = rt->script;
    rt->script = NULL;
    if (s != NULL) {
        lua_close(s->L);
        free(s);
    }
}

/* Globals `rk` and `runtime`, and rk.runtime() without arguments gives this runtime. */
static int introduce(lua_State *L)
{
    rk_runtime *rt = lua_touserdata(L, 1);
    lua_pushvalue(L, 1);
    lua_rawsetp(L, LUA_REGISTRYINDEX, &rk__embedded_runtime_key);
    luaL_requiref(L, "rk", luaopen_rk, 1);
    rk__lua_push_runtime(L, rt);
    lua_setglobal(L, "runtime");
    return 0;
}

/* The error value on top of L as this thread's sentence; pops it. */
static int lua_failure(lua_State *L, int code)
{
    const char *text = lua_tostring(L, -1);
    rk__fail(code, "%s", text != NULL ? text : "a Lua error without a text");
    lua_pop(L, 1);
    return code;
}

static int script_open(rk_runtime *rt)
{
    script *s = calloc(1, sizeof *s);
    lua_State *L = s != NULL ? rk__lua_state_new() : NULL;
    if (L == NULL) {
        free(s);
        return rk__fail(RK_ENOMEM, "out of memory for the runtime's Lua state");
    }
    lua_pushcfunction(L, introduce);
    lua_pushlightuserdata(L, rt);
    if (rk__lua_run(L, 1, 0, NULL) != LUA_OK) {
        int rc = lua_failure(L, RK_ELUA);
        lua_close(L);
        free(s);
        return rc;
    }
    *s = (script){L, pthread_self()};
    rt->script = s;
    rt->script_close = script_close;
    return 0;
}

static int script_of(rk_runtime *rt, lua_State **out)
{
    if (rk__forked()) {
        return rk__fail(RK_EFORK, "a forked child cannot use the runtime of its parent");
    }
    const rk__handle *handle = rk__handle_of(rt);
    if (handle == NULL || !pthread_equal(handle->thread, pthread_self())) {
        return rk__fail(RK_EINVAL, "Lua of a runtime runs on the thread that opened it; from "
                                   "another thread, send it a message");
    }
    int rc = rt->script == NULL ? script_open(rt) : 0;
    if (rc == 0) {
        *out = ((script *)rt->script)->L;
    }
    return rc;
}

/* Runs the chunk that a load function left on top, or reports why there is none. */
static int run_loaded(lua_State *L, int status)
{
    if (status == LUA_OK) {
        status = rk__lua_run(L, 0, 0, NULL);
    }
    return status == LUA_OK ? 0 : lua_failure(L, status == LUA_ERRFILE ? RK_EIO : RK_ELUA);
}

int rk_dofile(rk_runtime *rt, const char *path)
{
    lua_State *L;
    RK_CHECK(rt != NULL && path != NULL, "rk_dofile(runtime, path)");
    int rc = script_of(rt, &L);
    return rc < 0 ? rc : run_loaded(L, luaL_loadfile(L, path));
}

int rk_dostring(rk_runtime *rt, const char *chunk, const char *chunkname)
{
    lua_State *L;
    RK_CHECK(rt != NULL && chunk != NULL, "rk_dostring(runtime, chunk, chunkname)");
    int rc = script_of(rt, &L);
    if (rc < 0) {
        return rc;
    }
    const char *name = chunkname != NULL ? chunkname : "=(string)";
    return run_loaded(L, luaL_loadbufferx(L, chunk, strlen(chunk), name, "t"));
}

int rk_open(rk_runtime **out, const rk_config *config)
{
    rk_config defaults = RK_CONFIG_INIT;
    const rk_config *given = config != NULL ? config : &defaults;
    rk_runtime *rt;
    RK_CHECK(out != NULL, "rk_open needs somewhere to put the runtime");
    int rc = rk__handle_open(&rt, given);
    if (rc < 0) {
        return rc;
    }
    rc = given->script != NULL ? rk_dofile(rt, given->script) : 0;
    if (rc < 0) {
        char *why = strdup(rk_errdetail());
        rk__handle_close(rt, NULL);
        rk__fail(rc, "%s", why != NULL ? why : rk_strerror(rc));
        free(why);
        return rc;
    }
    *out = rt;
    return 0;
}

int rk_close(rk_runtime *rt)
{
    return rt != NULL ? rk__handle_close(rt, NULL) : 0;
}
