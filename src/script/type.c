/*
 * type.c -- message types as Lua values: rk.message and what a type object can do.
 *
 * Entered by the thread of the lua_State. Types are process-wide (message/type.h); a state has one
 * object per type, kept in the metatable of its messages.
 */
#include <stdlib.h>
#include <string.h>
#include "base/error.h"
#include "script/values.h"

const char rk__lua_type_tag = 0;

struct type {
    const char *tag;
    const rk_type *type;
};

enum { TYPE_OBJECT = 2 }; /* place in the metatable of messages */

void rk__lua_push_type(lua_State *L, const rk_type *type)
{
    luaL_checkstack(L, 6, "message type");
    rk__lua_push_meta(L, type);
    if (lua_rawgeti(L, -1, TYPE_OBJECT) == LUA_TNIL) {
        lua_pop(L, 1);
        struct type *t = lua_newuserdatauv(L, sizeof *t, 0);
        t->tag = &rk__lua_type_tag;
        t->type = type;
        luaL_setmetatable(L, "rk.type");
        lua_pushvalue(L, -1);
        lua_rawseti(L, -3, TYPE_OBJECT);
    }
    lua_replace(L, -2);
}

const rk_type *rk__lua_to_type(lua_State *L, int index)
{
    const struct type *t = rk__lua_tagged(L, index, &rk__lua_type_tag, sizeof *t);
    return t ? t->type : NULL;
}

static const rk_type *check_type(lua_State *L, int index)
{
    const rk_type *type = rk__lua_to_type(L, index);
    luaL_argexpected(L, type, index, "message type");
    return type;
}

/* ---- rk.message ---- */

static lua_Unsigned count_fields(lua_State *L)
{
    lua_Unsigned count = 0;
    for (lua_pushnil(L); lua_next(L, 2); lua_pop(L, 1)) {
        count++;
    }
    return count;
}

/* Reads the pair at -2, -1; the strings stay in the table. */
static void read_field(lua_State *L, rk_field *field)
{
    const rk_type *nested = rk__lua_to_type(L, -1);
    if (lua_type(L, -2) != LUA_TSTRING) {
        luaL_error(L,
                   "message type '%s': fields are written name = \"type\"; there is %s %s as a "
                   "name",
                   lua_tostring(L, 1), luaL_typename(L, -2), luaL_tolstring(L, -2, NULL));
    }
    if (!nested && lua_type(L, -1) != LUA_TSTRING) {
        luaL_error(L,
                   "message type '%s', field '%s': expected a type like \"f32[64]\" or a "
                   "message type, got %s",
                   lua_tostring(L, 1), lua_tostring(L, -2), luaL_typename(L, -1));
    }
    field->name = lua_tostring(L, -2);
    field->type = nested ? nested->name : lua_tostring(L, -1);
    if (strlen(field->name) != lua_rawlen(L, -2)) {
        luaL_error(L, "message type '%s': a field name has a zero byte", lua_tostring(L, 1));
    }
    if (!nested && strlen(field->type) != lua_rawlen(L, -1)) {
        luaL_error(L, "message type '%s', field '%s': its type has a zero byte", lua_tostring(L, 1),
                   field->name);
    }
}

static const rk_type *define(lua_State *L)
{
    const rk_type *type;
    size_t i = 0, count = count_fields(L);
    rk_field *fields = lua_newuserdatauv(L, (count + 1) * sizeof *fields, 0);
    for (lua_pushnil(L); lua_next(L, 2); lua_pop(L, 1)) {
        read_field(L, &fields[i++]);
    }
    if (rk_message_define(&type, lua_tostring(L, 1), fields, count) < 0) {
        luaL_error(L, "%s", rk_errdetail());
    }
    return type;
}

/* rk.message(name, fields) defines or raises; rk.message(name) looks up, or nil, message, code. */
static int message(lua_State *L)
{
    const rk_type *type;
    luaL_checktype(L, 1, LUA_TSTRING);
    luaL_argcheck(L, strlen(lua_tostring(L, 1)) == lua_rawlen(L, 1), 1, "the name has a zero byte");
    if (lua_isnoneornil(L, 2)) {
        int rc = rk_message_find(&type, lua_tostring(L, 1));
        if (rc < 0) {
            return rk__lua_fail(L, rc);
        }
    } else {
        luaL_checktype(L, 2, LUA_TTABLE);
        type = define(L);
    }
    rk__lua_push_type(L, type);
    return 1;
}

/* ---- type objects ---- */

static int type_header(lua_State *L)
{
    char *text;
    const rk_type *type = check_type(L, 1);
    if (rk_type_header(&text, &type, 1) < 0) {
        return luaL_error(L, "%s", rk_errdetail());
    }
    /* The text must not be lost when Lua is out of memory: a buffer that is there already. */
    rk__strbuf *out = &rk__lua_values_of(L, false)->scratch;
    rk__strbuf_clear(out);
    rk__strbuf_adds(out, text);
    free(text);
    lua_pushlstring(L, out->bytes ? out->bytes : "", out->size);
    return 1;
}

static int type_fields(lua_State *L)
{
    char text[96];
    const rk_type *type = check_type(L, 1);
    lua_createtable(L, 0, (int)type->field_count);
    for (uint32_t i = 0; i < type->field_count; i++) {
        lua_pushstring(L, rk__field_text(&type->fields[i], text));
        lua_setfield(L, -2, type->fields[i].name);
    }
    return 1;
}

static int type_index(lua_State *L)
{
    const rk_type *type = check_type(L, 1);
    const char *key = lua_type(L, 2) == LUA_TSTRING ? lua_tostring(L, 2) : "";
    if (strcmp(key, "name") == 0) {
        lua_pushstring(L, type->name);
    } else if (strcmp(key, "size") == 0) {
        lua_pushinteger(L, type->size);
    } else if (strcmp(key, "hash") == 0) {
        char text[17];
        snprintf(text, sizeof text, "%016llx", (unsigned long long)type->hash);
        lua_pushstring(L, text);
    } else {
        lua_pushvalue(L, 2);
        lua_rawget(L, lua_upvalueindex(1));
    }
    return 1;
}

static int type_tostring(lua_State *L)
{
    lua_pushfstring(L, "message type %s", check_type(L, 1)->name);
    return 1;
}

void rk__lua_open_types(lua_State *L)
{
    static const luaL_Reg methods[] = {
        {"header", type_header}, {"fields", type_fields}, {NULL, NULL}};
    static const luaL_Reg metamethods[] = {
        {"__call", rk__lua_construct}, {"__tostring", type_tostring}, {NULL, NULL}};
    rk__lua_open_deliveries(L);
    if (luaL_newmetatable(L, "rk.type")) {
        luaL_setfuncs(L, metamethods, 0);
        luaL_newlib(L, methods);
        lua_pushcclosure(L, type_index, 1);
        lua_setfield(L, -2, "__index");
        lua_pushliteral(L, "message type");
        lua_setfield(L, -2, "__metatable");
    }
    lua_pop(L, 1);
    lua_pushcfunction(L, message);
    lua_setfield(L, -2, "message");
}
