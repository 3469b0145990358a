/*
 * handlers.c -- what a handler table may look like: checked by rk.actor, spawn, when a module gives
 * one, by become and by an upgrade.
 *
 * Threads: the state's own.
 */
#include "script/launch.h"
#include "script/server.h"

static const struct {
    const char *name;
    int type; /* LUA_TNONE: checked by itself */
} entries[] = {{"init", LUA_TFUNCTION},    {"call", LUA_TTABLE},         {"cast", LUA_TTABLE},
               {"info", LUA_TFUNCTION},    {"terminate", LUA_TFUNCTION}, {"topic", LUA_TTABLE},
               {"migrate", LUA_TFUNCTION}, {"reentrant", LUA_TNONE},     {"stash", LUA_TNONE}};

enum { ENTRIES = sizeof entries / sizeof *entries };

/* The entries of `call`, `cast` or `topic`, the table on top of L. */
static void check_functions(lua_State *L, const char *what, const char *named_by)
{
    lua_pushnil(L);
    while (lua_next(L, -2) != 0) {
        const char *entry = luaL_tolstring(L, -2, NULL);
        if (lua_type(L, -3) != LUA_TSTRING) {
            luaL_error(
                L, "handler table: the key %s in '%s' is a %s; entries are named by strings: %s",
                entry, what, luaL_typename(L, -3), named_by);
        }
        if (lua_type(L, -2) != LUA_TFUNCTION) {
            luaL_error(L, "handler table: '%s.%s' must be a function, not a %s", what, entry,
                       luaL_typename(L, -2));
        }
        lua_pop(L, 2);
    }
}

static void check_entry(lua_State *L, int index, int entry)
{
    const char *name = entries[entry].name;
    int expected = entries[entry].type;
    int type = lua_getfield(L, index, name);
    if (type != LUA_TNIL && expected != LUA_TNONE && type != expected) {
        luaL_error(L, "handler table: '%s' must be a %s, not a %s", name, lua_typename(L, expected),
                   lua_typename(L, type));
    }
    if (type == LUA_TTABLE && expected == LUA_TTABLE) {
        check_functions(L, name,
                        name[0] == 't' ? "a topic or a pattern"
                                       : "a name or the name of a message type");
    }
    lua_pop(L, 1);
}

/* A whole number from low to RK__SERVER_MOST in the field; what else it may be is `also`. */
static lua_Integer check_number(lua_State *L, int index, const char *name, lua_Integer low,
                                const char *also)
{
    int whole = 0;
    lua_Integer n = lua_type(L, index) == LUA_TNUMBER ? lua_tointegerx(L, index, &whole) : 0;
    if (!whole || n < low || n > RK__SERVER_MOST) {
        luaL_error(L, "handler table: '%s' must be %sa whole number from %I to %I, not %s", name,
                   also, (LUAI_UACINT)low, (LUAI_UACINT)RK__SERVER_MOST,
                   luaL_tolstring(L, index, NULL));
    }
    return n;
}

uint32_t rk__lua_reentrant(lua_State *L, int index)
{
    lua_Integer n = 0;
    if (lua_getfield(L, index, "reentrant") == LUA_TBOOLEAN) {
        n = lua_toboolean(L, -1) ? RK__SERVER_HANDLERS : 0;
    } else if (!lua_isnil(L, -1)) {
        n = check_number(L, lua_gettop(L), "reentrant", 1, "true, false or ");
    }
    lua_pop(L, 1);
    return (uint32_t)n;
}

uint32_t rk__lua_stash_bound(lua_State *L, int index)
{
    lua_Integer n = RK__SERVER_STASH;
    if (lua_getfield(L, index, "stash") != LUA_TNIL) {
        n = check_number(L, lua_gettop(L), "stash", 0, "");
    }
    lua_pop(L, 1);
    return (uint32_t)n;
}

void rk__lua_check_handlers(lua_State *L, int index)
{
    const char *known[ENTRIES + 1] = {NULL};
    luaL_checkstack(L, 8, "a handler table");
    for (int i = 0; i < ENTRIES; i++) {
        known[i] = entries[i].name;
    }
    rk__lua_check_keys(L, index, "handler table", known);
    for (int i = 0; i < ENTRIES; i++) {
        check_entry(L, index, i);
    }
    rk__lua_reentrant(L, index);
    rk__lua_stash_bound(L, index);
}
