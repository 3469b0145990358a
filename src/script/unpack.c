/*
 * unpack.c -- MessagePack to plain Lua values.
 *
 * Entered by the thread of the lua_State. Depth, counts and the Lua stack are checked before they
 * are used, so bytes from anywhere give a value or an error. Lua's memory errors pass through:
 * nothing is owned here.
 *
 * Besides what value.c writes: integers from 2^63 on become floats, ext 2 the text of a UUID, an
 * unknown ext the table {ext = code, data = bytes}; nil or NaN as a key is an error. A map whose
 * "__type" comes first and names a type known here becomes a message of that type.
 */
#include <math.h>
#include <string.h>
#include "base/error.h"
#include "script/values.h"

static int unpack_value(lua_State *L, rk__reader *r, int depth);

static int malformed(const rk__reader *r, const char *what)
{
    return rk__fail(RK_EFORMAT, "MessagePack: %s before byte %zu", what,
                    (size_t)(r->at - r->start));
}

static int unpack_ext(lua_State *L, const rk__token *token)
{
    const unsigned char *bytes = (const unsigned char *)token->bytes;
    if (token->ext == RK__EXT_PID && token->size == 8) {
        rk_pid pid = 0;
        for (int i = 0; i < 8; i++) {
            pid |= (rk_pid)bytes[i] << 8 * i;
        }
        rk__lua_push_pid(L, pid);
    } else if (token->ext == RK__EXT_UUID && token->size == 16) {
        char text[RK__ID_TEXT];
        lua_pushstring(L, rk__id_format(rk__id_from_bytes(bytes), text));
    } else if (token->ext == RK__EXT_ENTRY) {
        rk__lua_push_entry(L, token->bytes, token->size);
    } else {
        lua_createtable(L, 0, 2);
        lua_pushinteger(L, token->ext);
        lua_setfield(L, -2, "ext");
        lua_pushlstring(L, token->bytes, token->size);
        lua_setfield(L, -2, "data");
    }
    return 0;
}

/* How many items to make room for at once: a count is bounded by what is left of the input, but
 * arrays inside arrays could each claim all of it. */
static int room_for(uint32_t count)
{
    return count < 4096 ? (int)count : 4096;
}

static int unpack_array(lua_State *L, rk__reader *r, uint32_t count, int depth)
{
    lua_createtable(L, room_for(count), 0);
    for (uint32_t i = 1; i <= count; i++) {
        int rc = unpack_value(L, r, depth + 1);
        if (rc < 0) {
            return rc;
        }
        lua_rawseti(L, -2, i);
    }
    return 0;
}

static int unpack_map(lua_State *L, rk__reader *r, uint32_t count, int depth)
{
    lua_createtable(L, 0, room_for(count));
    for (uint32_t i = 0; i < count; i++) {
        int rc = unpack_value(L, r, depth + 1);
        if (rc < 0) {
            return rc;
        }
        if (lua_isnil(L, -1)) {
            return malformed(r, "nil as the key of a map");
        }
        if (lua_type(L, -1) == LUA_TNUMBER && isnan(lua_tonumber(L, -1))) {
            return malformed(r, "NaN as the key of a map");
        }
        rc = unpack_value(L, r, depth + 1);
        if (rc < 0) {
            return rc;
        }
        lua_rawset(L, -3);
    }
    return 0;
}

/* Whether the map that begins here, its header read, says that it is of a type known here. */
static bool names_type(rk__reader r)
{
    static const char key[] = "\xa6__type";
    rk__token name;
    if ((size_t)(r.end - r.at) < sizeof key || memcmp(r.at, key, sizeof key - 1) != 0) {
        return false;
    }
    r.at += sizeof key - 1;
    return rk__read_token(&r, &name) == 0 && name.kind == RK__TOKEN_STR &&
           rk__type_find(name.bytes, name.size);
}

static int unpack_typed(lua_State *L, rk__reader *r, const char *start, int depth)
{
    rk_message *m;
    rk__reader whole = *r;
    whole.at = start;
    int rc = rk__read_skip(&whole, depth);
    if (rc == 0) {
        rc = rk__message_unpack(&m, start, (size_t)(whole.at - start));
    }
    if (rc == 0) {
        r->at = whole.at;
        rk__lua_push_unsent(L, m);
    }
    return rc;
}

static int unpack_container(lua_State *L, rk__reader *r, const rk__token *token, const char *start,
                            int depth)
{
    if (depth >= RK__PACK_DEPTH) {
        return rk__fail(RK_ELIMIT,
                        "MessagePack: more than %d containers inside each other at byte "
                        "%zu",
                        RK__PACK_DEPTH, (size_t)(start - r->start));
    }
    if (!lua_checkstack(L, 8)) {
        return rk__fail(RK_ENOMEM, "MessagePack: the value does not fit the Lua stack");
    }
    if (token->kind == RK__TOKEN_ARRAY) {
        return unpack_array(L, r, token->size, depth);
    }
    return token->size && names_type(*r) ? unpack_typed(L, r, start, depth)
                                         : unpack_map(L, r, token->size, depth);
}

static int unpack_value(lua_State *L, rk__reader *r, int depth)
{
    rk__token token;
    const char *start = r->at;
    int rc = rk__read_token(r, &token);
    if (rc < 0) {
        return rc;
    }
    switch (token.kind) {
    case RK__TOKEN_NIL:
        lua_pushnil(L);
        break;
    case RK__TOKEN_BOOL:
        lua_pushboolean(L, token.boolean);
        break;
    case RK__TOKEN_INT:
        lua_pushinteger(L, token.integer);
        break;
    case RK__TOKEN_UINT:
        lua_pushnumber(L, (lua_Number)token.unsigned_integer);
        break;
    case RK__TOKEN_FLOAT:
        lua_pushnumber(L, token.number);
        break;
    case RK__TOKEN_STR:
    case RK__TOKEN_BIN:
        lua_pushlstring(L, token.bytes, token.size);
        break;
    case RK__TOKEN_EXT:
        return unpack_ext(L, &token);
    case RK__TOKEN_ARRAY:
    case RK__TOKEN_MAP:
        return unpack_container(L, r, &token, start, depth);
    }
    return 0;
}

int rk__lua_unpack(lua_State *L, rk__reader *r)
{
    int top = lua_gettop(L);
    int rc =
        lua_checkstack(L, 8) ? unpack_value(L, r, 0) : rk__fail(RK_ENOMEM, "the Lua stack is full");
    if (rc < 0) {
        lua_settop(L, top);
    }
    return rc;
}
