/*
 * message.c -- messages as Lua userdata: envelope, methods, lifetime.
 *
 * Entered by the thread of the lua_State. A userdata reads straight from the body, which other
 * threads may read at the same time and nobody writes. Each type has a metatable of its own in each
 * state; its __index looks the name up in a key table and gets the number of a field, so reading
 * one compares no strings.
 */
#include <string.h>
#include "base/error.h"
#include "script/values.h"

const char rk__lua_message_tag = 0;

enum { KEYS = 1 }; /* place in the metatable; type.c has 2 */

static rk__lua_message *check_message(lua_State *L, int index)
{
    rk__lua_message *m = rk__lua_to_message(L, index);
    luaL_argexpected(L, m, index, "message");
    return m;
}

const char *rk__lua_message_base(lua_State *L, const rk__lua_message *m)
{
    if (!m->base) {
        luaL_error(L, "this '%s' was closed", m->type->name);
    }
    return m->base;
}

uint8_t rk__lua_message_priority(const rk__lua_message *m)
{
    return m->delivery ? m->delivery->priority : m->priority;
}

rk__id rk__lua_message_correlation(const rk__lua_message *m)
{
    return m->delivery ? m->delivery->correlation : m->correlation;
}

rk__body *rk__lua_message_body(const rk__lua_message *m)
{
    if (!m->base) {
        rk__fail(RK_EINVAL, "this '%s' was closed", m->type->name);
        return NULL;
    }
    if (m->base == (const char *)m->body->payload && m->type == m->body->type) {
        rk__body_retain(m->body);
        return m->body;
    }
    rk__body *body = rk__body_new(m->type, m->type->size);
    if (!body) {
        rk__fail(RK_ENOMEM, "out of memory for a '%s'", m->type->name);
        return NULL;
    }
    memcpy(body->payload, m->base, m->type->size);
    return body;
}

int rk__lua_message_pack(rk__strbuf *out, const rk__lua_message *m)
{
    rk__body *body = rk__lua_message_body(m);
    if (!body) {
        return RK_ENOMEM;
    }
    rk_message envelope = {.body = body,
                           .priority = rk__lua_message_priority(m),
                           .correlation = rk__lua_message_correlation(m)};
    int rc = rk__message_pack(out, &envelope);
    rk__body_release(body);
    return rc;
}

/* ---- lifetime ---- */

rk__lua_message *rk__lua_new_message(lua_State *L, int meta, const rk_type *type)
{
    rk__lua_message *m = lua_newuserdatauv(L, sizeof *m, 1);
    *m = (rk__lua_message){
        .tag = &rk__lua_message_tag, .type = type, .priority = RK_PRIORITY_NORMAL};
    lua_pushvalue(L, meta);
    lua_setmetatable(L, -2);
    return m;
}

/* __gc and __close. */
static int message_release(lua_State *L)
{
    rk__lua_message *m = check_message(L, 1);
    rk_message *delivery = m->delivery;
    rk__body *body = m->body;
    m->base = NULL;
    m->delivery = NULL;
    m->body = NULL;
    if (delivery) {
        rk_message_release(delivery);
    } else if (body) {
        rk__body_release(body);
    }
    return 0;
}

/* ---- envelope ---- */

static void push_id(lua_State *L, rk__id id)
{
    char text[RK__ID_TEXT];
    if (rk__id_is_set(id)) {
        lua_pushstring(L, rk__id_format(id, text));
    } else {
        lua_pushnil(L);
    }
}

static void push_envelope(lua_State *L, const rk__lua_message *m, lua_Integer key)
{
    const rk_message *delivery = m->delivery;
    switch (key) {
    case RK__KEY_MESSAGE_ID:
        push_id(L, rk__body_id(m->body));
        return;
    case RK__KEY_CORRELATION_ID:
        push_id(L, rk__lua_message_correlation(m));
        return;
    case RK__KEY_PRIORITY:
        lua_pushinteger(L, rk__lua_message_priority(m));
        return;
    case RK__KEY_TYPE:
        lua_pushstring(L, m->type->name);
        return;
    case RK__KEY_FROM:
        if (delivery && delivery->from != RK_NOBODY) {
            rk__lua_push_pid(L, delivery->from);
            return;
        }
        break;
    case RK__KEY_SENT:
        if (delivery && (delivery->flags & RK__STAMPED)) {
            lua_pushnumber(L, (lua_Number)delivery->sent / 1e9);
            return;
        }
        break;
    }
    lua_pushnil(L);
}

/* ---- reading ---- */

static int no_field(lua_State *L, const rk__lua_message *m, int key)
{
    const rk__fielddef *f;
    size_t size;
    if (lua_type(L, key) != LUA_TSTRING) {
        return luaL_error(L, "message type '%s' has fields by name, not by %s", m->type->name,
                          luaL_typename(L, key));
    }
    const char *name = lua_tolstring(L, key, &size);
    rk__type_field(m->type, name, size, &f);
    return luaL_error(L, "%s", rk_errdetail());
}

/* Upvalue: the key table of the type. */
static int message_index(lua_State *L)
{
    rk__lua_message *m = check_message(L, 1);
    rk__lua_message_base(L, m);
    lua_pushvalue(L, 2);
    int kind = lua_rawget(L, lua_upvalueindex(1));
    if (kind == LUA_TFUNCTION) {
        return 1;
    }
    if (kind == LUA_TNIL) {
        return no_field(L, m, 2);
    }
    lua_Integer key = lua_tointeger(L, -1);
    if (key < 0) {
        push_envelope(L, m, key);
    } else {
        rk__lua_push_field(L, 1, m, &m->type->fields[key]);
    }
    return 1;
}

static int message_newindex(lua_State *L)
{
    const char *name = check_message(L, 1)->type->name;
    const char *key = luaL_tolstring(L, 2, NULL);
    return luaL_error(L,
                      "messages do not change once made: build a new one with %s(message, "
                      "{ %s = ... })",
                      name, key);
}

/* The iterator of pairs: the field after the one named by the control variable. */
static int next_field(lua_State *L)
{
    rk__lua_message *m = check_message(L, 1);
    rk__lua_message_base(L, m);
    lua_Integer next = 0;
    if (!lua_isnoneornil(L, 2)) {
        lua_pushvalue(L, 2);
        lua_rawget(L, lua_upvalueindex(1));
        next = lua_tointeger(L, -1) + 1;
    }
    if (next < 0 || next >= m->type->field_count) {
        lua_pushnil(L);
        return 1;
    }
    lua_pushstring(L, m->type->fields[next].name);
    rk__lua_push_field(L, 1, m, &m->type->fields[next]);
    return 2;
}

static int message_pairs(lua_State *L)
{
    check_message(L, 1);
    lua_pushvalue(L, lua_upvalueindex(1));
    lua_pushcclosure(L, next_field, 1);
    lua_pushvalue(L, 1);
    lua_pushnil(L);
    return 3;
}

static int message_tostring(lua_State *L)
{
    const rk__lua_message *m = check_message(L, 1);
    if (!m->base) {
        lua_pushfstring(L, "%s (closed)", m->type->name);
        return 1;
    }
    rk__strbuf *text = &rk__lua_values_of(L, false)->scratch;
    rk__strbuf_clear(text);
    rk__strbuf_addf(text, "%s ", m->type->name);
    rk__lua_describe_struct(text, m->type, m->base, 0);
    lua_pushlstring(L, text->bytes ? text->bytes : "", text->size);
    return 1;
}

/* ---- methods ---- */

static int message_table(lua_State *L)
{
    const rk__lua_message *m = check_message(L, 1);
    rk__lua_push_struct(L, m->type, rk__lua_message_base(L, m));
    return 1;
}

static int message_pack(lua_State *L)
{
    const rk__lua_message *m = check_message(L, 1);
    rk__strbuf *out = &rk__lua_values_of(L, false)->scratch;
    rk__strbuf_clear(out);
    if (rk__lua_message_pack(out, m) < 0) {
        return luaL_error(L, "%s", rk_errdetail());
    }
    lua_pushlstring(L, out->bytes, out->size);
    return 1;
}

/* ---- metatables ---- */

static void push_keys(lua_State *L, const rk_type *type)
{
    static const luaL_Reg methods[] = {
        {"table", message_table}, {"pack", message_pack}, {NULL, NULL}};
    static const struct {
        const char *name;
        int key;
    } envelope[] = {{"message_id", RK__KEY_MESSAGE_ID},
                    {"correlation_id", RK__KEY_CORRELATION_ID},
                    {"priority", RK__KEY_PRIORITY},
                    {"from", RK__KEY_FROM},
                    {"sent", RK__KEY_SENT},
                    {"type", RK__KEY_TYPE}};
    lua_createtable(L, 0, (int)type->field_count + 8);
    luaL_setfuncs(L, methods, 0);
    for (size_t i = 0; i < sizeof envelope / sizeof *envelope; i++) {
        lua_pushinteger(L, envelope[i].key);
        lua_setfield(L, -2, envelope[i].name);
    }
    for (uint32_t i = 0; i < type->field_count; i++) {
        lua_pushinteger(L, i);
        lua_setfield(L, -2, type->fields[i].name);
    }
}

static void make_meta(lua_State *L, const rk_type *type)
{
    static const luaL_Reg with_keys[] = {
        {"__index", message_index}, {"__pairs", message_pairs}, {NULL, NULL}};
    static const luaL_Reg others[] = {{"__newindex", message_newindex},
                                      {"__tostring", message_tostring},
                                      {"__gc", message_release},
                                      {"__close", message_release},
                                      {NULL, NULL}};
    lua_createtable(L, 2, 8);
    push_keys(L, type);
    lua_pushvalue(L, -2);
    lua_pushvalue(L, -2);
    luaL_setfuncs(L, with_keys, 1);
    lua_pop(L, 1);
    lua_rawseti(L, -2, KEYS);
    luaL_setfuncs(L, others, 0);
    lua_pushstring(L, type->name);
    lua_setfield(L, -2, "__name");
    lua_pushstring(L, type->name);
    lua_setfield(L, -2, "__metatable");
}

/* The registry key is the address of the type itself, which is never freed. */
void rk__lua_push_meta(lua_State *L, const rk_type *type)
{
    if (lua_rawgetp(L, LUA_REGISTRYINDEX, type) == LUA_TNIL) {
        lua_pop(L, 1);
        luaL_checkstack(L, 8, "message type");
        make_meta(L, type);
        lua_pushvalue(L, -1);
        lua_rawsetp(L, LUA_REGISTRYINDEX, type);
    }
}

void rk__lua_open_messages(lua_State *L)
{
    rk__lua_open_deliveries(L);
    rk__lua_open_arrays(L);
}
