/*
 * entry.c -- calls and casts by the name of a handler: what makes them different from plain values.
 *
 * Entered by the thread of the lua_State; rk__lua_entry_call by any owner of a message. Such a
 * message is an array whose first item is ext 3 with the name, so that no table of a user can be
 * mistaken for one. Where one is read as a value, the name is an entry: a userdata that prints as
 * the name and packs as ext 3 again.
 */
#include <string.h>
#include "base/error.h"
#include "script/values.h"

const char rk__lua_entry_tag = 0;

struct entry {
    const char *tag;
    size_t size;
    char name[];
};

static const char entries_key = 0; /* registry: weak-valued table name -> entry, [1] metatable */

void rk__lua_push_entry(lua_State *L, const char *name, size_t size)
{
    lua_rawgetp(L, LUA_REGISTRYINDEX, &entries_key);
    lua_pushlstring(L, name, size);
    lua_pushvalue(L, -1);
    if (lua_rawget(L, -3) == LUA_TNIL) {
        lua_pop(L, 1);
        struct entry *e = lua_newuserdatauv(L, sizeof *e + size, 0);
        e->tag = &rk__lua_entry_tag;
        e->size = size;
        memcpy(e->name, name, size);
        luaL_setmetatable(L, "rk.entry");
        lua_pushvalue(L, -2);
        lua_pushvalue(L, -2);
        lua_rawset(L, -5);
    }
    lua_replace(L, -3);
    lua_pop(L, 1);
}

const char *rk__lua_to_entry(lua_State *L, int index, size_t *size)
{
    const struct entry *e = rk__lua_tagged(L, index, &rk__lua_entry_tag, sizeof *e);
    if (!e) {
        return NULL;
    }
    *size = e->size;
    return e->name;
}

static int entry_tostring(lua_State *L)
{
    size_t size = 0;
    const char *name = rk__lua_to_entry(L, 1, &size);
    luaL_argexpected(L, name, 1, "entry");
    lua_pushlstring(L, name, size);
    return 1;
}

bool rk__lua_entry_call(const rk_message *m, rk__token *name, rk__token *verb, rk__reader *args,
                        uint32_t *count)
{
    rk__token list;
    rk__body *body = m->body;
    if (body->type || !body->size || (body->payload[0] & 0xf0) == 0x80) {
        return false;
    }
    rk__reader_init(args, body->payload, body->size);
    if (rk__read_token(args, &list) < 0 || list.kind != RK__TOKEN_ARRAY || list.size < 2 ||
        rk__read_token(args, name) < 0 || name->kind != RK__TOKEN_EXT ||
        name->ext != RK__EXT_ENTRY || rk__read_token(args, verb) < 0 ||
        verb->kind != RK__TOKEN_STR) {
        return false;
    }
    *count = list.size - 2;
    return true;
}

void rk__lua_open_entries(lua_State *L)
{
    if (luaL_newmetatable(L, "rk.entry")) {
        lua_pushcfunction(L, entry_tostring);
        lua_setfield(L, -2, "__tostring");
        lua_pushliteral(L, "rk.entry");
        lua_setfield(L, -2, "__metatable");
        lua_newtable(L);
        lua_createtable(L, 0, 1);
        lua_pushliteral(L, "v");
        lua_setfield(L, -2, "__mode");
        lua_setmetatable(L, -2);
        lua_rawsetp(L, LUA_REGISTRYINDEX, &entries_key);
    }
    lua_pop(L, 1);
}
