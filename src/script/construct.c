/*
 * construct.c -- T{...}: a message from a Lua table, checked field by field.
 *
 * Entered by the thread of the lua_State. The body under construction belongs to its userdata from
 * the start, so an error raised half-way loses nothing; nobody else sees it before it is complete.
 *
 * T{...} and T() make a new one; T(m) and T(m, {changes}) copy m, with its priority but without its
 * ids. Besides fields, priority, message_id and correlation_id can be given. Integers are taken as
 * they are, floats for integer fields when they are whole; a u64 takes negative Lua integers for
 * the values above 2^63, which is how it reads.
 */
#include <float.h>
#include <math.h>
#include <string.h>
#include "base/error.h"
#include "script/values.h"

/* Where a value goes, for errors: a field, an element of it, inside an outer field. */
struct place {
    const struct place *up;
    const rk_type *type;
    const char *name;
    lua_Integer item; /* 0: the field itself */
};

static void fill(lua_State *L, int table, int keys, const rk_type *type, char *base,
                 const struct place *up, rk__lua_message *top);

/* ---- errors ---- */

static void add_place(rk__strbuf *text, const struct place *p)
{
    if (p->up) {
        add_place(text, p->up);
        rk__strbuf_addc(text, '.');
    }
    rk__strbuf_adds(text, p->name);
    if (p->item) {
        rk__strbuf_addf(text, "[%lld]", (long long)p->item);
    }
}

static void add_value(lua_State *L, int index, rk__strbuf *text)
{
    const rk__lua_message *m = rk__lua_to_message(L, index);
    const char *name = luaL_typename(L, index);
    rk_pid pid;
    if (m) {
        rk__strbuf_addf(text, "a message of type '%s'", m->type->name);
    } else if (rk__lua_to_pid(L, index, &pid)) {
        rk__strbuf_adds(text, "a pid");
    } else if (lua_isinteger(L, index)) {
        rk__strbuf_addf(text, "%lld", (long long)lua_tointeger(L, index));
    } else if (lua_type(L, index) == LUA_TNUMBER) {
        rk__strbuf_addf(text, "%.17g", lua_tonumber(L, index));
    } else if (lua_type(L, index) == LUA_TSTRING) {
        size_t size;
        const char *bytes = lua_tolstring(L, index, &size);
        rk__strbuf_addf(text, "the string \"%.40s%s\"", bytes, size > 40 ? "..." : "");
    } else {
        rk__strbuf_addf(text, lua_isnil(L, index) ? "%s" : "a %s", name);
    }
}

/* The field with its path: "Type: field 'inner.values[3]': ". */
static rk__strbuf *begin_place(lua_State *L, const struct place *p)
{
    const struct place *outer = p;
    while (outer->up) {
        outer = outer->up;
    }
    rk__strbuf *text = &rk__lua_values_of(L, false)->scratch;
    rk__strbuf_clear(text);
    rk__strbuf_addf(text, "%s: field '", outer->type->name);
    add_place(text, p);
    rk__strbuf_adds(text, "': ");
    return text;
}

/* The same, and what should have been there: "...: expected WHAT, got ". */
static rk__strbuf *begin_error(lua_State *L, const struct place *p, const char *what)
{
    rk__strbuf *text = begin_place(L, p);
    rk__strbuf_addf(text, "expected %s, got ", what);
    return text;
}

static void raise_error(lua_State *L, const rk__strbuf *text)
{
    luaL_error(L, "%s", text->bytes ? text->bytes : "out of memory");
}

static void expected(lua_State *L, const struct place *p, const char *what, int got)
{
    rk__strbuf *text = begin_error(L, p, what);
    add_value(L, got, text);
    raise_error(L, text);
}

/* `unit` is "bytes" or "elements". */
static void too_long(lua_State *L, const struct place *p, const rk__fielddef *f, const char *unit,
                     size_t got)
{
    char what[160], type[96];
    snprintf(what, sizeof what, "%s (at most %u %s)", rk__field_text(f, type), f->capacity, unit);
    rk__strbuf *text = begin_error(L, p, what);
    rk__strbuf_addf(text, "%zu", got);
    raise_error(L, text);
}

/* `up` is where the table is; NULL: it is the whole message. */
static void unknown_field(lua_State *L, const rk_type *type, int key, const struct place *up)
{
    const rk__fielddef *f;
    size_t size;
    const char *shown = luaL_tolstring(L, key, NULL);
    rk__strbuf *text = &rk__lua_values_of(L, false)->scratch;
    rk__strbuf_clear(text);
    if (up) {
        begin_place(L, up);
    }
    if (lua_type(L, key) == LUA_TSTRING) {
        const char *name = lua_tolstring(L, key, &size);
        rk__type_field(type, name, size, &f);
        rk__strbuf_adds(text, rk_errdetail());
    } else {
        rk__strbuf_addf(text, "%s%sexpected names of fields as keys, got %s %.80s",
                        up ? "" : type->name, up ? "" : ": ", luaL_typename(L, key), shown);
    }
    raise_error(L, text);
}

/* ---- numbers ---- */

static const struct {
    lua_Integer low, high;
    const char *text;
} ranges[] = {
    [RK__I8] = {INT8_MIN, INT8_MAX, "i8 (-128 to 127)"},
    [RK__I16] = {INT16_MIN, INT16_MAX, "i16 (-32768 to 32767)"},
    [RK__I32] = {INT32_MIN, INT32_MAX, "i32 (-2147483648 to 2147483647)"},
    [RK__I64] = {INT64_MIN, INT64_MAX, "i64 (-2^63 to 2^63-1)"},
    [RK__U8] = {0, UINT8_MAX, "u8 (0 to 255)"},
    [RK__U16] = {0, UINT16_MAX, "u16 (0 to 65535)"},
    [RK__U32] = {0, UINT32_MAX, "u32 (0 to 4294967295)"},
    [RK__U64] = {INT64_MIN, INT64_MAX, "u64 (0 to 2^64-1)"},
};

/* The integer at index; whole floats count, a u64 also takes those from 2^63 on. */
static bool to_integer(lua_State *L, int index, rk__kind kind, lua_Integer *out)
{
    int whole = 0;
    if (lua_type(L, index) != LUA_TNUMBER) {
        return false;
    }
    *out = lua_tointegerx(L, index, &whole);
    if (kind != RK__U64 || lua_isinteger(L, index)) {
        return whole;
    }
    lua_Number value = lua_tonumber(L, index);
    if (!(value >= 0 && value < 0x1p64) || value != floor(value)) {
        return false;
    }
    *out = (lua_Integer)(uint64_t)value;
    return true;
}

static void set_integer(lua_State *L, int index, rk__kind kind, char *at, const struct place *p)
{
    lua_Integer value;
    if (!to_integer(L, index, kind, &value) || value < ranges[kind].low ||
        value > ranges[kind].high) {
        expected(L, p, ranges[kind].text, index);
    }
    /* Little endian: the low bytes come first. */
    memcpy(at, &value, rk__kind_size(kind));
}

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "set_integer stores the low bytes");

static void set_float(lua_State *L, int index, rk__kind kind, char *at, const struct place *p)
{
    if (lua_type(L, index) != LUA_TNUMBER) {
        expected(L, p, rk__kind_name(kind), index);
    }
    double value = lua_tonumber(L, index);
    float narrow = (float)value;
    if (kind == RK__F64) {
        memcpy(at, &value, sizeof value);
        return;
    }
    if (isinf(narrow) && isfinite(value)) {
        expected(L, p, "f32 (up to 3.4028235e+38)", index);
    }
    memcpy(at, &narrow, sizeof narrow);
}

/* ---- other scalars ---- */

static bool to_id(lua_State *L, int index, rk__id *out)
{
    size_t size;
    if (lua_type(L, index) != LUA_TSTRING) {
        return false;
    }
    const char *text = lua_tolstring(L, index, &size);
    if (size == 16) {
        *out = rk__id_from_bytes((const uint8_t *)text);
        return true;
    }
    return size == RK__ID_TEXT - 1 && strlen(text) == size && rk__id_parse(text, out);
}

static void set_uuid(lua_State *L, int index, char *at, const struct place *p)
{
    rk__id id;
    if (!to_id(L, index, &id)) {
        expected(L, p, "uuid (its text, or 16 bytes)", index);
    }
    rk__id_bytes(id, (uint8_t *)at);
}

static void set_pid(lua_State *L, int index, char *at, const struct place *p)
{
    rk_pid pid;
    if (!rk__lua_to_pid(L, index, &pid)) {
        expected(L, p, "a pid", index);
    }
    memcpy(at, &pid, sizeof pid);
}

static void set_scalar(lua_State *L, int index, rk__kind kind, char *at, const struct place *p)
{
    switch (kind) {
    case RK__BOOL:
        if (!lua_isboolean(L, index)) {
            expected(L, p, "bool", index);
        }
        *at = (char)lua_toboolean(L, index);
        break;
    case RK__F32:
    case RK__F64:
        set_float(L, index, kind, at, p);
        break;
    case RK__UUID:
        set_uuid(L, index, at, p);
        break;
    case RK__PID:
        set_pid(L, index, at, p);
        break;
    default:
        set_integer(L, index, kind, at, p);
        break;
    }
}

/* ---- strings, arrays, nested messages ---- */

static void set_text(lua_State *L, int index, const rk__fielddef *f, char *base,
                     const struct place *p)
{
    char text[96];
    size_t size;
    if (lua_type(L, index) != LUA_TSTRING) {
        expected(L, p, rk__field_text(f, text), index);
    }
    const char *bytes = lua_tolstring(L, index, &size);
    if (size > f->capacity) {
        too_long(L, p, f, "bytes", size);
    }
    rk__field_set_bytes(base, f, bytes, size);
}

/* The key of a pair of a sequence, 1 or more; raises for others. */
static lua_Integer sequence_key(lua_State *L, int key, const struct place *p)
{
    if (!lua_isinteger(L, key) || lua_tointeger(L, key) < 1) {
        const char *shown = luaL_tolstring(L, key, NULL);
        rk__strbuf *text = begin_place(L, p);
        rk__strbuf_addf(text, "expected a sequence, got key '%.80s'", shown);
        raise_error(L, text);
    }
    return lua_tointeger(L, key);
}

/* Raises for a table whose keys go beyond its border: something before them is missing. A key that
 * does not belong there at all is the better reason, if there is one. */
static void hole(lua_State *L, int table, const struct place *p)
{
    lua_Integer i = 1;
    lua_pushnil(L);
    for (int key = lua_gettop(L); lua_next(L, table); lua_settop(L, key)) {
        sequence_key(L, key, p);
    }
    while (lua_rawgeti(L, table, i) != LUA_TNIL) {
        i++;
        lua_pop(L, 1);
    }
    rk__strbuf *text = begin_place(L, p);
    rk__strbuf_addf(text, "expected a sequence, got a hole at %lld", (long long)i);
    raise_error(L, text);
}

/* A walk by pairs: a count that is not the length shows what a walk by index would lose. */
static void set_from_table(lua_State *L, int index, const rk__fielddef *f, char *base,
                           struct place *p)
{
    lua_Unsigned length = lua_rawlen(L, index), count = 0;
    if (length > f->capacity) {
        too_long(L, p, f, "elements", length);
    }
    lua_pushnil(L);
    int key = lua_gettop(L);
    for (; lua_next(L, index); count++) {
        lua_Integer i = sequence_key(L, key, p);
        if ((lua_Unsigned)i > length) {
            hole(L, index, p);
        }
        p->item = i;
        set_scalar(L, key + 1, f->kind, base + f->offset + (size_t)(i - 1) * f->element, p);
        p->item = 0;
        lua_settop(L, key);
    }
    if (count != length) {
        hole(L, index, p);
    }
    rk__field_set_count(base, f, (uint32_t)count);
}

/* Another message's array: copied as it is when the elements are alike, else one by one. */
static void set_from_array(lua_State *L, int index, const rk__fielddef *f, char *base,
                           struct place *p)
{
    const rk__lua_array *a = rk__lua_to_array(L, index);
    rk__lua_message_base(L, a->owner);
    if (a->count > f->capacity) {
        too_long(L, p, f, "elements", a->count);
    }
    if (a->field->kind == f->kind) {
        memcpy(base + f->offset, a->values, (size_t)a->count * f->element);
    }
    for (uint32_t i = 1; a->field->kind != f->kind && i <= a->count; i++) {
        p->item = i;
        lua_geti(L, index, i);
        set_scalar(L, lua_gettop(L), f->kind, base + f->offset + (size_t)(i - 1) * f->element, p);
        lua_pop(L, 1);
    }
    p->item = 0;
    rk__field_set_count(base, f, a->count);
}

static void set_array(lua_State *L, int index, const rk__fielddef *f, char *base, struct place *p)
{
    char text[96];
    if (lua_istable(L, index)) {
        set_from_table(L, index, f, base, p);
    } else if (rk__lua_to_array(L, index)) {
        set_from_array(L, index, f, base, p);
    } else {
        lua_pushfstring(L, "%s (a sequence)", rk__field_text(f, text));
        expected(L, p, lua_tostring(L, -1), index);
    }
}

/* Any value as MessagePack; the scratch buffer is free, since nothing here nests. */
static void set_any(lua_State *L, int index, const rk__fielddef *f, char *base,
                    const struct place *p)
{
    rk__reader r;
    rk__strbuf *packed = &rk__lua_values_of(L, false)->scratch;
    rk__strbuf_clear(packed);
    int rc = rk__lua_pack(L, index, packed);
    if (rc == 0) {
        rk__reader_init(&r, packed->bytes, packed->size);
        rc = rk__field_read_any(base, f, &r);
    }
    if (rc < 0) {
        rk__strbuf *text = begin_place(L, p);
        rk__strbuf_adds(text, rk_errdetail());
        raise_error(L, text);
    }
}

static void set_nested(lua_State *L, int index, const rk__fielddef *f, char *base,
                       const struct place *p)
{
    const rk__lua_message *m = rk__lua_to_message(L, index);
    char *at = base + f->offset;
    if (m && m->type == f->nested) {
        memcpy(at, rk__lua_message_base(L, m), f->nested->size);
        return;
    }
    if (!lua_istable(L, index)) {
        lua_pushfstring(L, "a table or a message of type '%s'", f->nested->name);
        expected(L, p, lua_tostring(L, -1), index);
    }
    memset(at, 0, f->nested->size);
    rk__lua_push_meta(L, f->nested);
    lua_rawgeti(L, -1, 1);
    fill(L, index, lua_gettop(L), f->nested, at, p, NULL);
    lua_pop(L, 2);
}

static void set_field(lua_State *L, int index, const rk__fielddef *f, char *base, struct place *p)
{
    if (f->array) {
        set_array(L, index, f, base, p);
    } else if (f->kind == RK__STRING || f->kind == RK__BYTES) {
        set_text(L, index, f, base, p);
    } else if (f->kind == RK__ANY) {
        set_any(L, index, f, base, p);
    } else if (f->kind == RK__NESTED) {
        set_nested(L, index, f, base, p);
    } else {
        set_scalar(L, index, f->kind, base + f->offset, p);
    }
}

/* ---- envelope ---- */

static void set_envelope(lua_State *L, int index, lua_Integer key, rk__lua_message *m,
                         const struct place *p)
{
    rk__id id;
    lua_Integer priority = -1;
    switch (key) {
    case RK__KEY_PRIORITY:
        if (!to_integer(L, index, RK__U8, &priority) || priority < 0 || priority > 255) {
            expected(L, p, "a priority (0 to 255)", index);
        }
        m->priority = (uint8_t)priority;
        return;
    case RK__KEY_CORRELATION_ID:
    case RK__KEY_MESSAGE_ID:
        if (!to_id(L, index, &id)) {
            expected(L, p, "uuid (its text, or 16 bytes)", index);
        }
        if (key == RK__KEY_MESSAGE_ID) {
            rk__body_id_set(m->body, id);
        } else {
            m->correlation = id;
        }
        return;
    default:
        luaL_error(L,
                   "%s: '%s' is set by the runtime; fields, priority, message_id and "
                   "correlation_id can be given",
                   p->type->name, p->name);
    }
}

/* ---- putting it together ---- */

/* Fills the struct from the pairs of a table; `top` is the message when this is not nested. */
static void fill(lua_State *L, int table, int keys, const rk_type *type, char *base,
                 const struct place *up, rk__lua_message *top)
{
    luaL_checkstack(L, 12, "nested messages");
    lua_pushnil(L);
    int pair = lua_gettop(L);
    while (lua_next(L, table)) {
        lua_pushvalue(L, pair);
        int kind = lua_rawget(L, keys);
        lua_Integer key = lua_tointeger(L, -1);
        if (kind != LUA_TNUMBER || (key < 0 && !top)) {
            unknown_field(L, type, pair, up);
        }
        struct place p = {.up = up, .type = type, .name = lua_tostring(L, pair)};
        if (key < 0) {
            set_envelope(L, pair + 1, key, top, &p);
        } else {
            set_field(L, pair + 1, &type->fields[key], base, &p);
        }
        lua_settop(L, pair);
    }
}

/* What the arguments start from: a message to copy (and then changes), or nothing. */
static const rk__lua_message *check_arguments(lua_State *L, const rk_type *type, int *table)
{
    const rk__lua_message *source = rk__lua_to_message(L, 2);
    *table = source ? 3 : 2;
    if (lua_gettop(L) > *table) {
        luaL_error(L, "%s takes a table of fields, or a message and a table of changes",
                   type->name);
    }
    lua_settop(L, 3);
    if (source && source->type != type) {
        luaL_error(L, "%s: expected a message of this type, got a message of type '%s'", type->name,
                   source->type->name);
    }
    if (!lua_isnil(L, *table) && !lua_istable(L, *table)) {
        luaL_error(L, "%s: expected a table of fields, got %s", type->name,
                   luaL_typename(L, *table));
    }
    if (source) {
        rk__lua_message_base(L, source);
    }
    return source;
}

int rk__lua_construct(lua_State *L)
{
    int table;
    const rk_type *type = rk__lua_to_type(L, 1);
    luaL_argexpected(L, type, 1, "message type");
    const rk__lua_message *source = check_arguments(L, type, &table);
    rk__lua_push_meta(L, type);
    rk__lua_message *m = rk__lua_new_message(L, 4, type);
    m->body = rk__body_new(type, type->size);
    if (!m->body) {
        return luaL_error(L, "out of memory for a '%s'", type->name);
    }
    char *base = (char *)m->body->payload;
    m->base = base;
    if (source) {
        memcpy(base, source->base, type->size);
        m->priority = rk__lua_message_priority(source);
    }
    if (lua_istable(L, table)) {
        lua_rawgeti(L, 4, 1);
        fill(L, table, 6, type, base, NULL, m);
        lua_settop(L, 5);
    }
    rk__lua_account(L, sizeof(rk__body) + type->size);
    lua_settop(L, 5);
    return 1;
}
