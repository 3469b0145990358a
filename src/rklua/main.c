/*
 * main.c -- the program rklua: runs a script, the statements of -e, or the REPL.
 *
 * Exit status: 0; 1 after an error; 2 after a wrong command line; 128 + signal after SIGINT or
 * SIGTERM. Whatever way it ends, closing the state closes the runtimes that are still open: every
 * actor is stopped and joined.
 *
 * Threads: main.
 */
#include "rklua/rklua.h"

#include <lauxlib.h>
#include <lualib.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "base/error.h"
#include "base/log.h"
#include "script/chunk.h"
#include "script/launch.h"
#include "script/settings.h"

/* What the protected part is given and gives back. */
typedef struct program {
    arguments arguments;
    int status;
} program;

void rk__report(lua_State *L, bool with_name)
{
    const char *text = lua_tostring(L, -1);
    lua_pushfstring(L, "%s%s\n", with_name ? "rklua: " : "", text != NULL ? text : "(no message)");
    size_t size;
    const char *line = lua_tolstring(L, -1, &size);
    fflush(stdout);
    rk__output(STDERR_FILENO, line, size);
    lua_pop(L, 2);
}

void rk__print_version(void)
{
    static const char version[] = "rklua " RK_VERSION " (" LUA_RELEASE ")\n";
    fflush(stdout);
    rk__output(STDOUT_FILENO, version, sizeof version - 1);
}

/* Runs the chunk below its arguments when loading it gave LUA_OK; reports errors. */
static bool run_loaded(lua_State *L, int status, int argument_count)
{
    if (status == LUA_OK) {
        status = rk__signals_run(L, argument_count, 0);
    }
    if (status != LUA_OK) {
        rk__report(L, true);
    }
    return status == LUA_OK;
}

static bool run_text(lua_State *L, const char *text, const char *name)
{
    return run_loaded(L, luaL_loadbuffer(L, text, strlen(text), name), 0);
}

static bool run_file(lua_State *L, const char *path)
{
    return run_loaded(L, luaL_loadfile(L, path), 0);
}

/* ---- before the script ---- */

/* LUA_INIT_5_4, else LUA_INIT: a chunk, or @file. */
static bool run_init(lua_State *L)
{
    const char *name = "=LUA_INIT_5_4", *init = getenv(name + 1);
    if (init == NULL) {
        name = "=LUA_INIT";
        init = getenv(name + 1);
    }
    if (init == NULL) {
        return true;
    }
    return init[0] == '@' ? run_file(L, init + 1) : run_text(L, init, name);
}

static int read_config(lua_State *L)
{
    const char *path = lua_tostring(L, 1);
    if (luaL_loadfile(L, path) != LUA_OK) {
        return lua_error(L);
    }
    lua_call(L, 0, 1);
    if (!lua_istable(L, -1)) {
        return luaL_error(L, "%s: a table of runtime options is expected, not a %s", path,
                          luaL_typename(L, -1));
    }
    for (lua_pushnil(L); lua_next(L, 2) != 0; lua_settop(L, 3)) {
        if (lua_type(L, 3) != LUA_TSTRING) {
            return luaL_error(L, "%s: a runtime option has a name, not a %s", path,
                              luaL_typename(L, 3));
        }
        const char *name = lua_tostring(L, 3);
        const char *text = rk__lua_setting_text(L, name);
        if (rk__setting_set(RK__LAYER_CONFIG, name, text) < 0) {
            return luaL_error(L, "%s: %s", path, rk_errdetail());
        }
    }
    return 0;
}

static bool run_config(lua_State *L, const char *path)
{
    if (path == NULL) {
        return true;
    }
    lua_pushcfunction(L, read_config);
    lua_pushstring(L, path);
    return run_loaded(L, LUA_OK, 1);
}

/* -l mod and -l name=mod, into a global of that name. */
static bool require_library(lua_State *L, const char *value)
{
    const char *equals = strchr(value, '=');
    const char *module = equals != NULL ? equals + 1 : value;
    size_t size = equals != NULL ? (size_t)(equals - value) : strlen(value);
    lua_getglobal(L, "require");
    lua_pushstring(L, module);
    if (rk__signals_run(L, 1, 1) != LUA_OK) {
        rk__report(L, true);
        return false;
    }
    lua_pushlstring(L, value, size);
    lua_insert(L, -2);
    lua_pushglobaltable(L);
    lua_insert(L, -3);
    lua_settable(L, -3);
    lua_pop(L, 1);
    return true;
}

static bool run_options(lua_State *L, const arguments *a)
{
    const char *value;
    bool fine = true;
    char letter;
    for (int i = 1; fine && (letter = rk__arguments_next(a, &i, &value)) != 0;) {
        fine = letter == 'e' ? run_text(L, value, "=(command line)") : require_library(L, value);
    }
    return fine;
}

/* ---- the script ---- */

/* arg[0] is the script, what is before it has negative indexes. */
static void make_arg_table(lua_State *L, const arguments *a)
{
    int zero = a->script < a->argc ? a->script : 0;
    lua_createtable(L, a->argc - zero, zero + 1);
    for (int i = 0; i < a->argc; i++) {
        lua_pushstring(L, a->argv[i]);
        lua_rawseti(L, -2, i - zero);
    }
    lua_setglobal(L, "arg");
}

static bool run_script(lua_State *L, const arguments *a)
{
    const char *path = a->argv[a->script];
    bool standard_input = strcmp(path, "-") == 0 && strcmp(a->argv[a->script - 1], "--") != 0;
    int status = luaL_loadfile(L, standard_input ? NULL : path);
    int n = a->argc - a->script - 1;
    if (status == LUA_OK) {
        luaL_checkstack(L, n + 3, "too many arguments to the script");
        for (int i = a->script + 1; i < a->argc; i++) {
            lua_pushstring(L, a->argv[i]);
        }
    }
    return run_loaded(L, status, n);
}

/* `rk` is opened for every script, so that Ctrl-C knows the state's scheduler; it is a global only
 * where somebody types. */
static void open_rk(lua_State *L, const arguments *a)
{
    bool typed = a->execute || a->interactive || a->script >= a->argc;
    luaL_requiref(L, "rk", luaopen_rk, 0);
    if (typed) {
        lua_pushvalue(L, -1);
        lua_setglobal(L, "rk");
    }
    lua_pop(L, 1);
    rk__signals_open(L);
}

static bool run_all(lua_State *L, const arguments *a)
{
    bool has_script = a->script < a->argc;
    if (a->show_version) {
        rk__print_version();
    }
    if ((!a->no_environment && !run_init(L)) || !run_config(L, a->config) || !run_options(L, a) ||
        (has_script && !run_script(L, a))) {
        return false;
    }
    if (a->interactive) {
        rk__repl(L);
    } else if (!has_script && !a->execute && !a->show_version) {
        if (!isatty(STDIN_FILENO)) {
            return run_file(L, NULL);
        }
        rk__print_version();
        rk__repl(L);
    }
    return true;
}

static int protected_main(lua_State *L)
{
    program *p = lua_touserdata(L, 1);
    make_arg_table(L, &p->arguments);
    open_rk(L, &p->arguments);
    p->status = run_all(L, &p->arguments) ? EXIT_OK : EXIT_ERROR;
    return 0;
}

/* ---- the program ---- */

static int run_program(program *p)
{
    rk__state_settings_now.no_environment = p->arguments.no_environment;
    rk__state_settings_now.warnings = p->arguments.warnings;
    lua_State *L = rk__lua_state_new();
    if (L == NULL) {
        fputs("rklua: cannot create a Lua state: out of memory\n", stderr);
        return EXIT_ERROR;
    }
    lua_pushcfunction(L, protected_main);
    lua_pushlightuserdata(L, p);
    if (rk__lua_run(L, 1, 0, NULL) != LUA_OK) {
        rk__report(L, true);
        p->status = EXIT_ERROR;
    }
    lua_close(L);
    int caught = rk__signals_caught();
    return caught != 0 ? 128 + caught : p->status;
}

int main(int argc, char **argv)
{
    program p = {.status = EXIT_ERROR};
    int status = rk__arguments_read(&p.arguments, argc, argv);
    if (status != 0) {
        return status;
    }
    if (p.arguments.help) {
        rk__arguments_help();
        return EXIT_OK;
    }
    if (p.arguments.version) {
        rk__print_version();
        return EXIT_OK;
    }
    return run_program(&p);
}
