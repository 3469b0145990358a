/*
 * modnames.c -- what has a name in package.loaded: modules, what they hold (functions, and userdata
 * like io.stdout).
 *
 * Entered by the thread of the lua_State. Two exceptions: Lua functions among the globals have no
 * name, since another state does not have them; nor have tables inside modules. The names of a
 * state are kept while no module is added, since walking all modules takes longer than a capture; a
 * name is looked up again before it is used, so one that is out of date is never wrong, only
 * missing.
 */
#include <string.h>
#include "script/transfer.h"

/* names[value at the top] = text, unless it has a name; pops the value. */
static void name_value(lua_State *L, int names, const char *text, size_t size)
{
    lua_pushvalue(L, -1);
    if (lua_rawget(L, names) == LUA_TNIL) {
        lua_pushvalue(L, -2);
        lua_pushlstring(L, text, size);
        lua_rawset(L, names);
    }
    lua_pop(L, 2);
}

/* Whether the value at the top of module `module` can be found by its key in another state. */
static bool has_place(lua_State *L, const char *module)
{
    if (strcmp(module, "_G") == 0) {
        return lua_iscfunction(L, -1);
    }
    return lua_isfunction(L, -1) || lua_type(L, -1) == LUA_TUSERDATA ||
           (lua_istable(L, -1) && strcmp(module, "package") == 0);
}

/* Names what the table at the top holds; `prefix` (its name, with a NUL) is left as it was. */
static void name_members(lua_State *L, int names, rk__strbuf *prefix, const char *module,
                         bool deeper)
{
    int table = lua_gettop(L);
    for (lua_pushnil(L); lua_next(L, table);) {
        if (lua_type(L, -2) != LUA_TSTRING) {
            lua_pop(L, 1);
            continue;
        }
        size_t size, before = prefix->size;
        const char *key = lua_tolstring(L, -2, &size);
        rk__strbuf_add(prefix, key, size);
        if (prefix->failed) {
            lua_settop(L, table);
            return;
        }
        if (has_place(L, module)) {
            name_value(L, names, prefix->bytes, prefix->size);
        } else {
            if (deeper && lua_istable(L, -1)) {
                rk__strbuf_addc(prefix, '\0');
                name_members(L, names, prefix, module, false);
            }
            lua_pop(L, 1);
        }
        prefix->size = before;
    }
}

/* Modules first, so that a module inside another is known by its own name. package.loaded is at
 * `loaded`, the top. */
static void name_modules(lua_State *L, int names, int loaded)
{
    rk__strbuf *prefix = &rk__lua_values_of(L, false)->scratch;
    for (lua_pushnil(L); lua_next(L, loaded);) {
        size_t size;
        bool object = lua_istable(L, -1) || lua_isfunction(L, -1) || lua_isuserdata(L, -1);
        if (object && lua_type(L, -2) == LUA_TSTRING) {
            const char *name = lua_tolstring(L, -2, &size);
            name_value(L, names, name, size);
        } else {
            lua_pop(L, 1);
        }
    }
    for (lua_pushnil(L); lua_next(L, loaded); lua_pop(L, 1)) {
        if (lua_istable(L, -1) && lua_type(L, -2) == LUA_TSTRING) {
            const char *name = lua_tostring(L, -2);
            rk__strbuf_clear(prefix);
            rk__strbuf_adds(prefix, name);
            rk__strbuf_addc(prefix, '\0');
            /* The globals and package hold everything else; one level of them is enough. */
            name_members(L, names, prefix, name, strcmp(name, "_G") && strcmp(name, "package"));
        }
    }
    lua_settop(L, loaded);
    rk__strbuf_clear(prefix);
}

static const char names_key = 0; /* registry: weak-keyed table value -> name, [0] modules counted */

static lua_Integer count_modules(lua_State *L)
{
    lua_Integer modules = 0;
    luaL_getsubtable(L, LUA_REGISTRYINDEX, LUA_LOADED_TABLE);
    for (lua_pushnil(L); lua_next(L, -2); lua_pop(L, 1)) {
        modules++;
    }
    lua_pop(L, 1);
    return modules;
}

void rk__lua_make_names(lua_State *L)
{
    lua_newtable(L);
    int names = lua_gettop(L);
    lua_createtable(L, 0, 1);
    lua_pushliteral(L, "k");
    lua_setfield(L, -2, "__mode");
    lua_setmetatable(L, names);
    luaL_getsubtable(L, LUA_REGISTRYINDEX, LUA_LOADED_TABLE);
    name_modules(L, names, names + 1);
    lua_settop(L, names);
    lua_pushinteger(L, count_modules(L));
    lua_rawseti(L, names, 0);
    lua_pushvalue(L, names);
    lua_rawsetp(L, LUA_REGISTRYINDEX, &names_key);
}

bool rk__lua_find_names(lua_State *L)
{
    if (lua_rawgetp(L, LUA_REGISTRYINDEX, &names_key) == LUA_TTABLE) {
        lua_rawgeti(L, -1, 0);
        bool same = lua_tointeger(L, -1) == count_modules(L);
        lua_pop(L, 1);
        if (same) {
            return false;
        }
    }
    lua_pop(L, 1);
    rk__lua_make_names(L);
    return true;
}

/* Whether `name` still leads to the value at index. */
static bool still_named(lua_State *L, int index, const char *name, size_t size)
{
    int top = lua_gettop(L);
    const char *part = name, *end = name + size;
    luaL_getsubtable(L, LUA_REGISTRYINDEX, LUA_LOADED_TABLE);
    while (part <= end && lua_istable(L, -1)) {
        size_t length = strnlen(part, (size_t)(end - part));
        lua_pushlstring(L, part, length);
        lua_rawget(L, -2);
        part += length + 1;
    }
    bool same = part > end && lua_rawequal(L, index, -1);
    lua_settop(L, top);
    return same;
}

const char *rk__lua_name_of(lua_State *L, int names, int index, size_t *size)
{
    lua_pushvalue(L, index);
    const char *name = NULL;
    if (lua_rawget(L, names) == LUA_TSTRING) {
        name = lua_tolstring(L, -1, size);
        name = still_named(L, index, name, *size) ? name : NULL;
    }
    lua_pop(L, 1);
    return name;
}
