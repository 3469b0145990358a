/*
 * kernel.c -- rk.kernel(name, options): a ring kernel definition from Lua.
 *
 * The text of the handlers is looked for in the script that calls, so that what a compiler says has
 * the line numbers of that script.
 *
 * Threads: the state's own.
 */
#include "script/launch.h"
#include "device/device.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "base/clock.h"
#include "base/error.h"

enum { SCRIPT_MAX = 16 << 20 }; /* bytes of a script that is searched */

/* ---- where the source is in the script ---- */

/* The whole file as a string on the stack, or false. */
static bool push_file(lua_State *L, const char *path)
{
    FILE *file = fopen(path, "rb");
    if (file == NULL) {
        return false;
    }
    rk__strbuf text = RK__STRBUF_INIT;
    char piece[4096];
    size_t n;
    while ((n = fread(piece, 1, sizeof piece, file)) > 0 && text.size < SCRIPT_MAX) {
        rk__strbuf_add(&text, piece, n);
    }
    fclose(file);
    bool whole = !text.failed && text.size > 0 && text.size < SCRIPT_MAX;
    if (whole) {
        /* A copy in Lua's hands: what follows may raise. */
        char *copy = lua_newuserdatauv(L, text.size, 0);
        memcpy(copy, text.bytes, text.size);
    }
    rk__strbuf_free(&text);
    return whole;
}

/* The line where `text` begins in `script`: the first time at or after `from`, else the last. */
static int line_of(const char *script, size_t size, const char *text, size_t text_size, int from)
{
    int line = 1, found = 0;
    const char *at = script, *end = script + size;
    const char *hit = script;
    while ((hit = memmem(hit, (size_t)(end - hit), text, text_size)) != NULL) {
        for (; at < hit; at++) {
            line += *at == '\n';
        }
        found = line;
        if (line >= from) {
            break;
        }
        hit++;
    }
    return found;
}

/* Sets source_name and source_line when the calling chunk is a file that has the text in it. Leaves
 * the strings it points to on the stack. */
static void locate(lua_State *L, rk_kernel *kernel)
{
    lua_Debug ar;
    if (!lua_getstack(L, 1, &ar) || !lua_getinfo(L, "Sl", &ar) || ar.source[0] != '@' ||
        kernel->source[0] == '\0' || !push_file(L, ar.source + 1)) {
        return;
    }
    int line = line_of(lua_touserdata(L, -1), lua_rawlen(L, -1), kernel->source,
                       strlen(kernel->source), ar.currentline);
    if (line > 0) {
        kernel->source_name = lua_pushstring(L, ar.source + 1);
        kernel->source_line = line;
    }
}

/* ---- options ---- */

static const rk_type *to_type(lua_State *L, int index, const char *key)
{
    const rk_type *type = rk__lua_to_type(L, index);
    if (type == NULL && lua_type(L, index) == LUA_TSTRING) {
        if (rk_message_find(&type, lua_tostring(L, index)) < 0) {
            luaL_error(L, "kernel option '%s': %s", key, rk_errdetail());
        }
    } else if (type == NULL) {
        luaL_error(L, "kernel option '%s' must be a message type or a list of them, not a %s", key,
                   luaL_typename(L, index));
    }
    return type;
}

/* T or {T1, T2}: an array of types, kept alive by a userdata left on the stack. */
static const rk_type **type_list(lua_State *L, const char *key, size_t *count)
{
    int kind = lua_getfield(L, 2, key);
    int value = lua_gettop(L);
    *count = 0;
    if (kind == LUA_TNIL) {
        return NULL;
    }
    bool list = kind == LUA_TTABLE && rk__lua_to_type(L, value) == NULL;
    size_t n = list ? (size_t)luaL_len(L, value) : 1;
    const rk_type **types = lua_newuserdatauv(L, (n + 1) * sizeof *types, 0);
    for (size_t i = 0; i < n; i++) {
        if (list) {
            lua_geti(L, value, (lua_Integer)i + 1);
            types[i] = to_type(L, lua_gettop(L), key);
            lua_pop(L, 1);
        } else {
            types[i] = to_type(L, value, key);
        }
    }
    *count = n;
    return types;
}

static int by_name(const void *a, const void *b)
{
    return strcmp(((const rk_field *)a)->name, ((const rk_field *)b)->name);
}

/* One entry of `state`; name at -2, type at -1. The strings live in the option table. */
static rk_field state_field(lua_State *L)
{
    if (lua_type(L, -2) != LUA_TSTRING) {
        luaL_error(L, "kernel option 'state' must have field names as keys, not a %s",
                   luaL_typename(L, -2));
    }
    rk_field field = {lua_tostring(L, -2), NULL};
    const rk_type *type = rk__lua_to_type(L, -1);
    if (type != NULL) {
        field.type = rk_type_name(type);
    } else if (lua_type(L, -1) == LUA_TSTRING) {
        field.type = lua_tostring(L, -1);
    } else {
        luaL_error(L,
                   "kernel option 'state', field '%s': a type such as \"u64[256]\" is expected, "
                   "not a %s",
                   field.name, luaL_typename(L, -1));
    }
    return field;
}

static void read_state(lua_State *L, rk_kernel *kernel)
{
    size_t n = 0;
    if (lua_getfield(L, 2, "state") == LUA_TNIL) {
        return;
    }
    int table = lua_gettop(L);
    if (!lua_istable(L, table)) {
        luaL_error(L, "kernel option 'state' must be a table { field = \"type\" }, not a %s",
                   luaL_typename(L, table));
    }
    for (lua_pushnil(L); lua_next(L, table) != 0; lua_pop(L, 1)) {
        n++;
    }
    rk_field *fields = lua_newuserdatauv(L, (n + 1) * sizeof *fields, 0);
    size_t i = 0;
    for (lua_pushnil(L); lua_next(L, table) != 0; lua_pop(L, 1)) {
        fields[i++] = state_field(L);
    }
    qsort(fields, n, sizeof *fields, by_name);
    kernel->state = fields;
    kernel->state_count = n;
}

static const char *text_option(lua_State *L, const char *key)
{
    int type = lua_getfield(L, 2, key);
    if (type != LUA_TNIL && type != LUA_TSTRING) {
        luaL_error(L, "kernel option '%s' must be a string, not a %s", key, lua_typename(L, type));
    }
    return lua_tostring(L, -1);
}

static void read_source(lua_State *L, rk_kernel *kernel)
{
    kernel->source = text_option(L, "source");
    kernel->file = text_option(L, "file");
    if ((kernel->source == NULL) == (kernel->file == NULL)) {
        luaL_error(L, "kernel \"%s\" needs its handlers either as 'source' or as 'file'",
                   kernel->name);
    }
    if (kernel->source != NULL) {
        locate(L, kernel);
    }
}

static void read_numbers(lua_State *L, rk_kernel *kernel)
{
    kernel->block = (uint32_t)rk__lua_whole(L, 2, "block", 1, 1024, kernel->block);
    kernel->grid = (uint32_t)rk__lua_whole(L, 2, "grid", 1, UINT32_MAX, kernel->grid);
    kernel->queue_size =
        (uint32_t)rk__lua_whole(L, 2, "queue_size", 1, UINT32_MAX, kernel->queue_size);
    kernel->cpu_threads =
        (uint32_t)rk__lua_whole(L, 2, "cpu_threads", 1, 1024, kernel->cpu_threads);
    kernel->full = rk__lua_full(L, 2, kernel->full);
    if (lua_getfield(L, 2, "handler_timeout") != LUA_TNIL) {
        int is_number;
        lua_Number seconds = lua_tonumberx(L, -1, &is_number);
        if (!is_number || seconds != seconds) {
            luaL_error(L, "kernel option 'handler_timeout' must be a number of seconds, not %s",
                       luaL_tolstring(L, -1, NULL));
        }
        kernel->handler_timeout = rk__seconds(seconds);
    }
    const char *then = text_option(L, "on_timeout");
    kernel->timeout_fails = then != NULL && strcmp(then, "fail") == 0;
    if (then != NULL && !kernel->timeout_fails && strcmp(then, "report") != 0) {
        luaL_error(L, "kernel option 'on_timeout' must be \"report\" or \"fail\", not \"%s\"",
                   then);
    }
}

/* rk.kernel(name, options): the definition, for runtime:launch and spawn. */
static int define_kernel(lua_State *L)
{
    static const char *const known[] = {
        "accepts",    "block",   "cpu_threads", "file",   "full",  "grid", "handler_timeout",
        "on_timeout", "replies", "queue_size",  "source", "state", NULL};
    rk_kernel kernel = RK_KERNEL_INIT;
    kernel.name = luaL_checkstring(L, 1);
    luaL_checktype(L, 2, LUA_TTABLE);
    lua_settop(L, 2);
    luaL_checkstack(L, 32, "reading the options of a kernel");
    rk__lua_check_keys(L, 2, "kernel", known);
    kernel.accepts = type_list(L, "accepts", &kernel.accepts_count);
    kernel.replies = type_list(L, "replies", &kernel.replies_count);
    read_state(L, &kernel);
    read_numbers(L, &kernel);
    read_source(L, &kernel);
    int rc = rk_kernel_define(&kernel);
    if (rc == 0) {
        rc = rk__lua_push_definition(L, kernel.name);
    }
    return rc < 0 ? rk__lua_raise(L, rc, RK_NOBODY) : 1;
}

/* rk.precompile(name, folder) -> true | nil, message, code: for the build, which ships compiled
 * kernels. */
static int precompile(lua_State *L)
{
    int rc = rk__kernel_precompile(luaL_checkstring(L, 1), luaL_checkstring(L, 2));
    lua_pushboolean(L, 1);
    return rc < 0 ? rk__lua_fail(L, rc) : 1;
}

void rk__lua_open_kernels(lua_State *L)
{
    rk__lua_open_definitions(L);
    lua_pushcfunction(L, precompile);
    lua_setfield(L, -2, "precompile");
    lua_pushcfunction(L, define_kernel);
    lua_setfield(L, -2, "kernel");
}
