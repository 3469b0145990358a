/*
 * fields.c -- the members of a struct as Lua values, and array fields as views.
 *
 * Entered by the thread of the lua_State; only reads bodies. A count is clamped to the field's size
 * wherever it is read (rk__field_count), so a body that a kernel wrote badly is never overrun.
 */
#include <math.h>
#include <string.h>
#include "base/error.h"
#include "script/values.h"

const char rk__lua_array_tag = 0;

static const char arrays_key = 0; /* registry: metatable of views */

/* ---- one element ---- */

#define LOAD(type, at)                                                                             \
    ({                                                                                             \
        type value_;                                                                               \
        memcpy(&value_, (at), sizeof value_);                                                      \
        value_;                                                                                    \
    })

static void push_uuid(lua_State *L, const char *at)
{
    char text[RK__ID_TEXT];
    lua_pushstring(L, rk__id_format(rk__id_from_bytes((const uint8_t *)at), text));
}

static void push_element(lua_State *L, rk__kind kind, const char *at)
{
    switch (kind) {
    case RK__BOOL:
        /* Read as a byte: code on a device may have left another value than 0 and 1. */
        lua_pushboolean(L, *at != 0);
        break;
    case RK__I8:
        lua_pushinteger(L, LOAD(int8_t, at));
        break;
    case RK__I16:
        lua_pushinteger(L, LOAD(int16_t, at));
        break;
    case RK__I32:
        lua_pushinteger(L, LOAD(int32_t, at));
        break;
    case RK__I64:
    case RK__U64:
        lua_pushinteger(L, LOAD(lua_Integer, at));
        break;
    case RK__U8:
        lua_pushinteger(L, LOAD(uint8_t, at));
        break;
    case RK__U16:
        lua_pushinteger(L, LOAD(uint16_t, at));
        break;
    case RK__U32:
        lua_pushinteger(L, LOAD(uint32_t, at));
        break;
    case RK__F32:
        lua_pushnumber(L, LOAD(float, at));
        break;
    case RK__F64:
        lua_pushnumber(L, LOAD(double, at));
        break;
    case RK__UUID:
        push_uuid(L, at);
        break;
    case RK__PID:
        rk__lua_push_pid(L, LOAD(rk_pid, at));
        break;
    case RK__STRING:
    case RK__BYTES:
    case RK__ANY:
    case RK__NESTED:
        rk_assert(!"elements of arrays are scalars");
        break;
    }
}

/* A pid field that nobody set is nil; in an array it is a pid, so that the sequence has no hole. */
static void push_scalar(lua_State *L, rk__kind kind, const char *at)
{
    if (kind == RK__PID && LOAD(rk_pid, at) == RK_NOBODY) {
        lua_pushnil(L);
    } else {
        push_element(L, kind, at);
    }
}

/* The value of an `any` field, made anew each time. Raises when the bytes there are none, which
 * code that writes structs itself may have done. */
static void push_any(lua_State *L, const char *base, const rk__fielddef *f)
{
    rk__reader r;
    uint32_t count = rk__field_count(base, f);
    if (!count) {
        lua_pushnil(L);
        return;
    }
    rk__reader_init(&r, base + f->offset, count);
    if (rk__lua_unpack(L, &r) < 0) {
        luaL_error(L, "field '%s': %s", f->name, rk_errdetail());
    }
    if (r.at != r.end) {
        luaL_error(L, "field '%s': more than one MessagePack value is there", f->name);
    }
}

/* ---- fields of a message ---- */

static void push_array(lua_State *L, int owner, rk__lua_message *m, const rk__fielddef *f)
{
    if (m->cached == f) {
        lua_getiuservalue(L, owner, 1);
        return;
    }
    rk__lua_array *a = lua_newuserdatauv(L, sizeof *a, 1);
    *a = (rk__lua_array){.tag = &rk__lua_array_tag,
                         .owner = m,
                         .field = f,
                         .values = m->base + f->offset,
                         .count = rk__field_count(m->base, f)};
    lua_pushvalue(L, owner);
    lua_setiuservalue(L, -2, 1);
    lua_rawgetp(L, LUA_REGISTRYINDEX, &arrays_key);
    lua_setmetatable(L, -2);
    lua_pushvalue(L, -1);
    lua_setiuservalue(L, owner, 1);
    m->cached = f;
}

static void push_nested(lua_State *L, const rk__lua_message *m, const rk__fielddef *f)
{
    rk__lua_push_meta(L, f->nested);
    rk__lua_message *view = rk__lua_new_message(L, lua_gettop(L), f->nested);
    lua_replace(L, -2);
    rk__body_retain(m->body);
    view->body = m->body;
    view->base = m->base + f->offset;
}

void rk__lua_push_field(lua_State *L, int owner, rk__lua_message *m, const rk__fielddef *f)
{
    if (f->array) {
        push_array(L, owner, m, f);
    } else if (f->kind == RK__STRING || f->kind == RK__BYTES) {
        lua_pushlstring(L, m->base + f->offset, rk__field_count(m->base, f));
    } else if (f->kind == RK__ANY) {
        push_any(L, m->base, f);
    } else if (f->kind == RK__NESTED) {
        push_nested(L, m, f);
    } else {
        push_scalar(L, f->kind, m->base + f->offset);
    }
}

/* ---- plain tables ---- */

static void push_sequence(lua_State *L, const rk__fielddef *f, const char *values, uint32_t count)
{
    lua_createtable(L, (int)count, 0);
    for (uint32_t i = 0; i < count; i++) {
        push_element(L, f->kind, values + (size_t)i * f->element);
        lua_rawseti(L, -2, i + 1);
    }
}

static void push_plain(lua_State *L, const char *base, const rk__fielddef *f)
{
    const char *at = base + f->offset;
    if (f->array) {
        push_sequence(L, f, at, rk__field_count(base, f));
    } else if (f->kind == RK__STRING || f->kind == RK__BYTES) {
        lua_pushlstring(L, at, rk__field_count(base, f));
    } else if (f->kind == RK__ANY) {
        push_any(L, base, f);
    } else if (f->kind == RK__NESTED) {
        rk__lua_push_struct(L, f->nested, at);
    } else {
        push_scalar(L, f->kind, at);
    }
}

void rk__lua_push_struct(lua_State *L, const rk_type *type, const char *base)
{
    luaL_checkstack(L, 8, "nested messages");
    lua_createtable(L, 0, (int)type->field_count);
    for (uint32_t i = 0; i < type->field_count; i++) {
        push_plain(L, base, &type->fields[i]);
        lua_setfield(L, -2, type->fields[i].name);
    }
}

/* ---- short texts ---- */

enum { SHOWN_ITEMS = 3, SHOWN_BYTES = 40, SHOWN_TEXT = 400, SHOWN_DEPTH = 3 };

static void describe_text(rk__strbuf *out, const char *bytes, uint32_t size)
{
    rk__strbuf_addc(out, '"');
    for (uint32_t i = 0; i < size && i < SHOWN_BYTES; i++) {
        unsigned char c = (unsigned char)bytes[i];
        if (c == '"' || c == '\\') {
            rk__strbuf_addf(out, "\\%c", c);
        } else if (c < 32 || c == 127) {
            rk__strbuf_addf(out, "\\x%02x", c);
        } else {
            rk__strbuf_addc(out, (char)c);
        }
    }
    rk__strbuf_adds(out, size > SHOWN_BYTES ? "...\"" : "\"");
}

static void describe_number(rk__strbuf *out, rk__kind kind, const char *at)
{
    char text[RK_PID_TEXT];
    switch (kind) {
    case RK__BOOL:
        rk__strbuf_adds(out, *at ? "true" : "false");
        break;
    case RK__I8:
        rk__strbuf_addf(out, "%d", LOAD(int8_t, at));
        break;
    case RK__I16:
        rk__strbuf_addf(out, "%d", LOAD(int16_t, at));
        break;
    case RK__I32:
        rk__strbuf_addf(out, "%d", LOAD(int32_t, at));
        break;
    case RK__I64:
        rk__strbuf_addf(out, "%lld", (long long)LOAD(int64_t, at));
        break;
    case RK__U8:
        rk__strbuf_addf(out, "%u", LOAD(uint8_t, at));
        break;
    case RK__U16:
        rk__strbuf_addf(out, "%u", LOAD(uint16_t, at));
        break;
    case RK__U32:
        rk__strbuf_addf(out, "%u", LOAD(uint32_t, at));
        break;
    case RK__U64:
        rk__strbuf_addf(out, "%llu", (unsigned long long)LOAD(uint64_t, at));
        break;
    case RK__F32:
        rk__strbuf_addf(out, "%.7g", (double)LOAD(float, at));
        break;
    case RK__F64:
        rk__strbuf_addf(out, "%.14g", LOAD(double, at));
        break;
    case RK__UUID:
        rk__strbuf_adds(out, rk__id_format(rk__id_from_bytes((const uint8_t *)at), text));
        break;
    case RK__PID:
        rk__strbuf_adds(out, rk_pid_format(LOAD(rk_pid, at), text));
        break;
    case RK__STRING:
    case RK__BYTES:
    case RK__ANY:
    case RK__NESTED:
        rk_assert(!"elements of arrays are scalars");
        break;
    }
}

static void describe_array(rk__strbuf *out, const rk__fielddef *f, const char *at, uint32_t count)
{
    rk__strbuf_addf(out, "[%u]", count);
    for (uint32_t i = 0; i < count && i < SHOWN_ITEMS; i++) {
        rk__strbuf_adds(out, i ? ", " : " ");
        describe_number(out, f->kind, at + (size_t)i * f->element);
    }
    rk__strbuf_adds(out, count > SHOWN_ITEMS ? ", ..." : "");
}

/* Scalars as they are, of the rest only what it is. */
static void describe_any(rk__strbuf *out, const char *at, uint32_t size)
{
    rk__reader r;
    rk__token token;
    rk__reader_init(&r, at, size);
    if (!size || rk__read_token(&r, &token) < 0) {
        rk__strbuf_adds(out, size ? "?" : "nil");
        return;
    }
    switch (token.kind) {
    case RK__TOKEN_BOOL:
        rk__strbuf_adds(out, token.boolean ? "true" : "false");
        break;
    case RK__TOKEN_INT:
        rk__strbuf_addf(out, "%lld", (long long)token.integer);
        break;
    case RK__TOKEN_FLOAT:
        rk__strbuf_addf(out, "%.14g", token.number);
        break;
    case RK__TOKEN_STR:
    case RK__TOKEN_BIN:
        describe_text(out, token.bytes, token.size);
        break;
    default:
        rk__strbuf_addf(out, "%s (%u bytes of MessagePack)", rk__token_name(&token), size);
        break;
    }
}

static void describe_field(rk__strbuf *out, const char *base, const rk__fielddef *f, int depth)
{
    const char *at = base + f->offset;
    rk__strbuf_addf(out, "%s = ", f->name);
    if (f->array) {
        describe_array(out, f, at, rk__field_count(base, f));
    } else if (f->kind == RK__STRING || f->kind == RK__BYTES) {
        describe_text(out, at, rk__field_count(base, f));
    } else if (f->kind == RK__ANY) {
        describe_any(out, at, rk__field_count(base, f));
    } else if (f->kind == RK__NESTED) {
        rk__lua_describe_struct(out, f->nested, at, depth + 1);
    } else {
        describe_number(out, f->kind, at);
    }
}

void rk__lua_describe_struct(rk__strbuf *out, const rk_type *type, const char *base, int depth)
{
    if (depth > SHOWN_DEPTH) {
        rk__strbuf_adds(out, "{ ... }");
        return;
    }
    rk__strbuf_adds(out, type->field_count ? "{ " : "{ }");
    for (uint32_t i = 0; i < type->field_count; i++) {
        rk__strbuf_adds(out, i ? ", " : "");
        if (out->size > SHOWN_TEXT) {
            rk__strbuf_adds(out, "... }");
            return;
        }
        describe_field(out, base, &type->fields[i], depth);
    }
    rk__strbuf_adds(out, type->field_count ? " }" : "");
}

/* ---- views of arrays ---- */

static const rk__lua_array *check_array(lua_State *L, int index)
{
    const rk__lua_array *a = rk__lua_to_array(L, index);
    luaL_argexpected(L, a, index, "array of a message");
    rk__lua_message_base(L, a->owner);
    return a;
}

/* Upvalue: the methods. Outside of 1..# there is nil, as in a table. */
static int array_index(lua_State *L)
{
    const rk__lua_array *a = check_array(L, 1);
    int whole;
    lua_Integer i = lua_tointegerx(L, 2, &whole);
    if (whole && lua_type(L, 2) == LUA_TNUMBER) {
        if (i >= 1 && i <= (lua_Integer)a->count) {
            push_element(L, a->field->kind, a->values + (size_t)(i - 1) * a->field->element);
            return 1;
        }
        lua_pushnil(L);
        return 1;
    }
    lua_pushvalue(L, 2);
    lua_rawget(L, lua_upvalueindex(1));
    return 1;
}

static int array_len(lua_State *L)
{
    lua_pushinteger(L, check_array(L, 1)->count);
    return 1;
}

static int array_newindex(lua_State *L)
{
    const rk__lua_array *a = check_array(L, 1);
    return luaL_error(L,
                      "messages do not change once made: build a new one with %s(message, "
                      "{ %s = {...} })",
                      a->owner->type->name, a->field->name);
}

static int array_table(lua_State *L)
{
    const rk__lua_array *a = check_array(L, 1);
    push_sequence(L, a->field, a->values, a->count);
    return 1;
}

static int array_next(lua_State *L)
{
    const rk__lua_array *a = check_array(L, 1);
    lua_Integer i = luaL_optinteger(L, 2, 0);
    if (i < 0 || i >= (lua_Integer)a->count) {
        lua_pushnil(L);
        return 1;
    }
    lua_pushinteger(L, i + 1);
    push_element(L, a->field->kind, a->values + (size_t)i * a->field->element);
    return 2;
}

static int array_pairs(lua_State *L)
{
    check_array(L, 1);
    lua_pushcfunction(L, array_next);
    lua_pushvalue(L, 1);
    lua_pushnil(L);
    return 3;
}

static int array_tostring(lua_State *L)
{
    const rk__lua_array *a = check_array(L, 1);
    rk__strbuf *text = &rk__lua_values_of(L, false)->scratch;
    rk__strbuf_clear(text);
    describe_array(text, a->field, a->values, a->count);
    lua_pushlstring(L, text->bytes ? text->bytes : "", text->size);
    return 1;
}

void rk__lua_open_arrays(lua_State *L)
{
    static const luaL_Reg methods[] = {{"table", array_table}, {NULL, NULL}};
    static const luaL_Reg metamethods[] = {{"__len", array_len},
                                           {"__newindex", array_newindex},
                                           {"__pairs", array_pairs},
                                           {"__tostring", array_tostring},
                                           {NULL, NULL}};
    if (lua_rawgetp(L, LUA_REGISTRYINDEX, &arrays_key) == LUA_TNIL) {
        luaL_newlib(L, metamethods);
        luaL_newlib(L, methods);
        lua_pushcclosure(L, array_index, 1);
        lua_setfield(L, -2, "__index");
        lua_pushliteral(L, "array of a message");
        lua_setfield(L, -2, "__metatable");
        lua_rawsetp(L, LUA_REGISTRYINDEX, &arrays_key);
    }
    lua_pop(L, 1);
}
