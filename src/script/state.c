/*
 * state.c -- a lua_State with our libraries.
 *
 * `require "rk"` finds luaopen_rk in package.preload; "rk.server" and the other Lua modules carried
 * by the library are found by a searcher that comes right after preload; `print` writes one whole
 * line. The same is installed into a state that stock lua5.4 made, when it loads rk.so.
 *
 * Threads: the state's own; the paths are shared, under a lock.
 */
#include "script/script.h"

#include <lualib.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "base/embedded.h"
#include "base/log.h"
#include "script/launch.h"
#include "script/settings.h"

/* package.path and package.cpath as a script last set them before it started an actor: new states
 * begin with the same. NULL: as LUA_PATH and LUA_CPATH say. Under paths_lock. */
static const char *const path_names[] = {"path", "cpath"};
static char *paths[2];
static pthread_mutex_t paths_lock = PTHREAD_MUTEX_INITIALIZER;

static const char prepared_key; /* its address is the mark in the registry */

/* print, as in Lua, but one write for the line: lines of two actors never mix. What io.write left
 * in stdout's buffer comes first, so the order of a script's output is kept. */
static int print_line(lua_State *L)
{
    int n = lua_gettop(L);
    luaL_Buffer line;
    luaL_buffinit(L, &line);
    for (int i = 1; i <= n; i++) {
        if (i > 1) {
            luaL_addchar(&line, '\t');
        }
        luaL_tolstring(L, i, NULL);
        luaL_addvalue(&line);
    }
    luaL_addchar(&line, '\n');
    luaL_pushresult(&line);
    size_t size;
    const char *bytes = lua_tolstring(L, -1, &size);
    fflush(stdout);
    rk__output(STDOUT_FILENO, bytes, size);
    return 0;
}

/* The path of a module inside the library: "rk.server" -> "lua/rk/server.lua". */
static const char *embedded_path(lua_State *L, const char *module)
{
    const char *path = luaL_gsub(L, module, ".", "/");
    return lua_pushfstring(L, "lua/%s.lua", path);
}

static int search_embedded(lua_State *L)
{
    const char *path = embedded_path(L, luaL_checkstring(L, 1));
    const rk__embedded *file = rk__embedded_find(path);
    if (file == NULL) {
        lua_pushfstring(L, "no file '%s' in the library", path);
        return 1;
    }
    const char *chunk_name = lua_pushfstring(L, "@%s", path);
    if (luaL_loadbufferx(L, (const char *)file->bytes, file->size, chunk_name, "t") != LUA_OK) {
        return lua_error(L);
    }
    lua_pushstring(L, path);
    return 2;
}

/* Puts our searcher second: after preload, before the files of package.path. */
static void add_searcher(lua_State *L)
{
    luaL_getsubtable(L, LUA_REGISTRYINDEX, LUA_LOADED_TABLE);
    if (lua_getfield(L, -1, LUA_LOADLIBNAME) == LUA_TTABLE &&
        lua_getfield(L, -1, "searchers") == LUA_TTABLE) {
        for (lua_Integer i = (lua_Integer)lua_rawlen(L, -1); i >= 2; i--) {
            lua_rawgeti(L, -1, i);
            lua_rawseti(L, -2, i + 1);
        }
        lua_pushcfunction(L, search_embedded);
        lua_rawseti(L, -2, 2);
    }
}

/* Lua leaves the extra space of a new main thread as malloc gave it; the scheduler wants NULL. */
static void clear_extra_space(lua_State *L)
{
    lua_rawgeti(L, LUA_REGISTRYINDEX, LUA_RIDX_MAINTHREAD);
    memset(lua_getextraspace(lua_tothread(L, -1)), 0, LUA_EXTRASPACE);
    lua_pop(L, 1);
}

void rk__lua_state_prepare(lua_State *L)
{
    int top = lua_gettop(L);
    luaL_checkstack(L, 12, "preparing the state");
    if (lua_rawgetp(L, LUA_REGISTRYINDEX, &prepared_key) == LUA_TNIL) {
        clear_extra_space(L);
        luaL_getsubtable(L, LUA_REGISTRYINDEX, LUA_PRELOAD_TABLE);
        lua_pushcfunction(L, luaopen_rk);
        lua_setfield(L, -2, "rk");
        add_searcher(L);
        lua_pushcfunction(L, print_line);
        lua_setglobal(L, "print");
        lua_pushboolean(L, 1);
        lua_rawsetp(L, LUA_REGISTRYINDEX, &prepared_key);
    }
    lua_settop(L, top);
}

/* ---- where modules are looked for ---- */

static void set_path(int i, const char *text)
{
    pthread_mutex_lock(&paths_lock);
    if (paths[i] == NULL || strcmp(paths[i], text) != 0) {
        char *copy = strdup(text);
        if (copy != NULL) {
            free(paths[i]);
            paths[i] = copy;
        }
    }
    pthread_mutex_unlock(&paths_lock);
}

void rk__lua_share_paths(lua_State *L)
{
    int top = lua_gettop(L);
    luaL_getsubtable(L, LUA_REGISTRYINDEX, LUA_LOADED_TABLE);
    for (int i = 0; i < 2 && lua_getfield(L, top + 1, LUA_LOADLIBNAME) == LUA_TTABLE; i++) {
        if (lua_getfield(L, -1, path_names[i]) == LUA_TSTRING) {
            set_path(i, lua_tostring(L, -1));
        }
        lua_settop(L, top + 1);
    }
    lua_settop(L, top);
}

/* Copies into Lua's memory before anything that may raise, so that the lock is not left held. */
static void take_path(lua_State *L, int i)
{
    pthread_mutex_lock(&paths_lock);
    size_t size = paths[i] != NULL ? strlen(paths[i]) + 1 : 0;
    pthread_mutex_unlock(&paths_lock);
    if (size == 0) {
        return;
    }
    char *copy = lua_newuserdatauv(L, size, 0);
    pthread_mutex_lock(&paths_lock);
    snprintf(copy, size, "%s", paths[i]);
    pthread_mutex_unlock(&paths_lock);
    lua_getglobal(L, LUA_LOADLIBNAME);
    lua_pushstring(L, copy);
    lua_setfield(L, -2, path_names[i]);
    lua_pop(L, 2);
}

static int open_everything(lua_State *L)
{
    if (rk__state_settings_now.no_environment) {
        lua_pushboolean(L, 1);
        lua_setfield(L, LUA_REGISTRYINDEX, "LUA_NOENV");
    }
    luaL_openlibs(L);
    take_path(L, 0);
    take_path(L, 1);
    rk__lua_state_prepare(L);
    rk__lua_open_process(L);
    lua_warning(L, rk__state_settings_now.warnings ? "@on" : "@off", 0);
    return 0;
}

lua_State *rk__lua_state_new(void)
{
    lua_State *L = luaL_newstate();
    if (L == NULL) {
        return NULL;
    }
    lua_pushcfunction(L, open_everything);
    if (lua_pcall(L, 0, 0, 0) != LUA_OK) {
        lua_close(L);
        return NULL;
    }
    return L;
}
