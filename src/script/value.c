/*
 * value.c -- plain Lua values to MessagePack, straight into bytes; unpack.c is the way back.
 *
 * Entered by the thread of the lua_State. No Lua code runs while a value is packed (tables are read
 * raw, metatables do not count), so a table cannot change on the way; nothing raises there either.
 *
 * What becomes what: nil, booleans; integers and floats stay apart; strings are `str` when they are
 * UTF-8, else `bin`, and both come back as strings. A table whose keys are exactly 1..n is an
 * array, the empty table too; any other is a map with strings, numbers, booleans and pids as keys.
 * A pid is ext 1, a typed message its map form, which comes back as a message when the type is
 * known there.
 */
#include <string.h>
#include "base/error.h"
#include "script/values.h"

/* ---- packing ---- */

/* Where the packer is, for errors and to notice cycles; `key` is the stack index of the key whose
 * value is being packed, or 0 in an array, where `item` says which. */
struct frame {
    const struct frame *up;
    const void *table;
    int key;
    lua_Integer item;
};

static int pack_value(lua_State *L, int index, rk__strbuf *out, const struct frame *up, int depth);

static void add_key(lua_State *L, rk__strbuf *text, const struct frame *frame)
{
    if (!frame->key) {
        rk__strbuf_addf(text, "[%lld]", (long long)frame->item);
    } else if (lua_type(L, frame->key) == LUA_TSTRING) {
        rk__strbuf_addf(text, ".%.60s", lua_tostring(L, frame->key));
    } else if (lua_isinteger(L, frame->key)) {
        rk__strbuf_addf(text, "[%lld]", (long long)lua_tointeger(L, frame->key));
    } else if (lua_type(L, frame->key) == LUA_TNUMBER) {
        rk__strbuf_addf(text, "[%.14g]", lua_tonumber(L, frame->key));
    } else if (lua_isboolean(L, frame->key)) {
        rk__strbuf_addf(text, "[%s]", lua_toboolean(L, frame->key) ? "true" : "false");
    } else {
        rk__strbuf_addf(text, "[%s]", lua_typename(L, lua_type(L, frame->key)));
    }
}

static void add_path(lua_State *L, rk__strbuf *text, const struct frame *frame)
{
    if (frame) {
        add_path(L, text, frame->up);
        add_key(L, text, frame);
    }
}

/* "field .a.b[3] WHAT", or "the value WHAT" at the top. */
static int fail_at(lua_State *L, const struct frame *frame, int code, const char *what)
{
    rk__strbuf path = RK__STRBUF_INIT;
    rk__strbuf_adds(&path, frame ? "field " : "the value");
    add_path(L, &path, frame);
    int rc = rk__fail(code, "%s %s", path.bytes ? path.bytes : "a field", what);
    rk__strbuf_free(&path);
    return rc;
}

static int refuse(lua_State *L, int index, const struct frame *frame)
{
    char what[160];
    snprintf(what, sizeof what,
             "is a %s; only nil, booleans, numbers, strings, tables, pids and "
             "messages can be sent",
             luaL_typename(L, index));
    return fail_at(L, frame, RK_ETYPE, what);
}

/* Length of the longest prefix that is ASCII, in steps of 8 bytes. */
static size_t ascii_prefix(const char *bytes, size_t size)
{
    size_t i = 0;
    for (uint64_t word; i + 8 <= size; i += 8) {
        memcpy(&word, bytes + i, sizeof word);
        if (word & UINT64_C(0x8080808080808080)) {
            break;
        }
    }
    return i;
}

/* Bytes that a UTF-8 character with this first byte has; 0: none begins so. */
static size_t utf8_announced(unsigned char first)
{
    return first < 0x80   ? 1
           : first < 0xc2 ? 0
           : first < 0xe0 ? 2
           : first < 0xf0 ? 3
           : first < 0xf5 ? 4
                          : 0;
}

/* Bytes of the UTF-8 character at s; 0: it is none. */
static size_t utf8_length(const unsigned char *s, size_t left)
{
    size_t size = utf8_announced(s[0]);
    if (size < 2 || size > left) {
        return size <= left ? size : 0;
    }
    /* The second byte excludes overlong forms, surrogates and what is beyond U+10FFFF. */
    unsigned char low = s[0] == 0xe0 ? 0xa0 : s[0] == 0xf0 ? 0x90 : 0x80;
    unsigned char high = s[0] == 0xed ? 0x9f : s[0] == 0xf4 ? 0x8f : 0xbf;
    if (s[1] < low || s[1] > high) {
        return 0;
    }
    for (size_t i = 2; i < size; i++) {
        if ((s[i] & 0xc0) != 0x80) {
            return 0;
        }
    }
    return size;
}

static bool is_utf8(const char *bytes, size_t size)
{
    size_t i = ascii_prefix(bytes, size);
    while (i < size) {
        size_t step = utf8_length((const unsigned char *)bytes + i, size - i);
        if (!step) {
            return false;
        }
        i += step;
    }
    return true;
}

static int pack_string(lua_State *L, int index, rk__strbuf *out, const struct frame *frame)
{
    size_t size;
    const char *bytes = lua_tolstring(L, index, &size);
    if (size > INT32_MAX) {
        return fail_at(L, frame, RK_ELIMIT, "is a string of more than 2 GiB");
    }
    if (is_utf8(bytes, size)) {
        rk__pack_str(out, bytes, size);
    } else {
        rk__pack_bin(out, bytes, size);
    }
    return 0;
}

static int pack_typed(lua_State *L, const rk__lua_message *m, rk__strbuf *out,
                      const struct frame *frame, int depth)
{
    if (!m->base) {
        return fail_at(L, frame, RK_EINVAL, "is a message that was closed");
    }
    size_t before = out->size;
    int rc = rk__lua_message_pack(out, m);
    if (rc == 0 && depth > 0) {
        rk__reader r;
        rk__reader_init(&r, out->bytes + before, out->size - before);
        rc = rk__read_skip(&r, depth);
    }
    return rc;
}

static int pack_userdata(lua_State *L, int index, rk__strbuf *out, const struct frame *frame,
                         int depth)
{
    rk_pid pid;
    size_t size;
    const rk__lua_message *m = rk__lua_to_message(L, index);
    if (m) {
        return pack_typed(L, m, out, frame, depth);
    }
    if (rk__lua_to_pid(L, index, &pid)) {
        uint8_t bytes[8];
        for (int i = 0; i < 8; i++) {
            bytes[i] = (uint8_t)(pid >> 8 * i);
        }
        rk__pack_ext(out, RK__EXT_PID, bytes, sizeof bytes);
        return 0;
    }
    const char *entry = rk__lua_to_entry(L, index, &size);
    if (!entry) {
        return refuse(L, index, frame);
    }
    rk__pack_ext(out, RK__EXT_ENTRY, entry, size);
    return 0;
}

/* Counts the pairs of a table of length n; true when the keys are exactly 1..n. */
static bool count_pairs(lua_State *L, int table, lua_Unsigned n, lua_Unsigned *count)
{
    lua_Unsigned integers = 0;
    *count = 0;
    lua_pushnil(L);
    while (lua_next(L, table)) {
        ++*count;
        lua_pop(L, 1);
        /* Unsigned, so that one comparison says 1 <= key <= n. */
        integers += lua_isinteger(L, -1) && (lua_Unsigned)lua_tointeger(L, -1) - 1 < n;
    }
    return *count == n && integers == n;
}

static int pack_array(lua_State *L, int table, uint32_t count, rk__strbuf *out, struct frame *frame,
                      int depth)
{
    int rc = 0;
    frame->key = 0;
    rk__pack_array(out, count);
    for (uint32_t i = 1; rc == 0 && i <= count; i++) {
        frame->item = i;
        lua_rawgeti(L, table, i);
        rc = pack_value(L, lua_gettop(L), out, frame, depth + 1);
        lua_pop(L, 1);
    }
    return rc;
}

static int pack_key(lua_State *L, int index, rk__strbuf *out, const struct frame *frame)
{
    rk_pid pid;
    int type = lua_type(L, index);
    if (type != LUA_TSTRING && type != LUA_TNUMBER && type != LUA_TBOOLEAN &&
        !rk__lua_to_pid(L, index, &pid)) {
        char what[128];
        snprintf(what, sizeof what,
                 "has a %s as its key; keys can be strings, numbers, booleans "
                 "and pids",
                 lua_typename(L, type));
        return fail_at(L, frame, RK_ETYPE, what);
    }
    return pack_value(L, index, out, frame, RK__PACK_DEPTH);
}

/* Packs the pairs without a header and counts them. */
static int pack_pairs(lua_State *L, int table, rk__strbuf *out, struct frame *frame, int depth,
                      lua_Unsigned *count)
{
    int rc = 0;
    lua_pushnil(L);
    frame->key = lua_gettop(L);
    while (rc == 0 && lua_next(L, table)) {
        ++*count;
        rc = pack_key(L, frame->key, out, frame);
        if (rc == 0) {
            rc = pack_value(L, frame->key + 1, out, frame, depth + 1);
        }
        lua_settop(L, frame->key);
    }
    lua_settop(L, frame->key - 1);
    return rc;
}

/* Replaces the one byte at `at` by the header of a map, which may be longer. */
static void put_header(rk__strbuf *out, size_t at, uint32_t count)
{
    char header[8];
    size_t size = out->size;
    if (count == 0) {
        out->bytes[at] = '\x90';
        return;
    }
    rk__pack_map(out, count);
    size_t length = out->size - size;
    if (out->failed) {
        return;
    }
    memcpy(header, out->bytes + size, length);
    memmove(out->bytes + at + length, out->bytes + at + 1, size - at - 1);
    memcpy(out->bytes + at, header, length);
    out->size = size + length - 1;
    out->bytes[out->size] = '\0';
}

/* A table of length 0, so no array unless it is empty: one walk, then the header is known. */
static int pack_map(lua_State *L, int table, rk__strbuf *out, struct frame *frame, int depth)
{
    size_t at = out->size;
    lua_Unsigned count = 0;
    rk__pack_map(out, 0);
    int rc = pack_pairs(L, table, out, frame, depth, &count);
    if (rc == 0 && count > INT32_MAX) {
        return fail_at(L, frame->up, RK_ELIMIT, "is a table of more than 2^31 items");
    }
    if (rc == 0 && !out->failed) {
        put_header(out, at, (uint32_t)count);
    }
    return rc;
}

static int check_table(lua_State *L, const void *table, const struct frame *up, int depth)
{
    for (const struct frame *f = up; f; f = f->up) {
        if (f->table == table) {
            return fail_at(L, up, RK_EINVAL,
                           "is a table that contains itself; a message cannot "
                           "hold a cycle");
        }
    }
    if (depth >= RK__PACK_DEPTH) {
        return fail_at(L, up, RK_ELIMIT, "is deeper than 32 tables inside each other");
    }
    return lua_checkstack(L, 8) ? 0 : fail_at(L, up, RK_ENOMEM, "does not fit the Lua stack");
}

static int pack_table(lua_State *L, int index, rk__strbuf *out, const struct frame *up, int depth)
{
    lua_Unsigned count;
    struct frame frame = {.up = up, .table = lua_topointer(L, index)};
    int rc = check_table(L, frame.table, up, depth);
    if (rc < 0) {
        return rc;
    }
    lua_Unsigned length = lua_rawlen(L, index);
    if (length == 0) {
        return pack_map(L, index, out, &frame, depth);
    }
    bool array = count_pairs(L, index, length, &count);
    if (count > INT32_MAX) {
        return fail_at(L, up, RK_ELIMIT, "is a table of more than 2^31 items");
    }
    if (array) {
        return pack_array(L, index, (uint32_t)count, out, &frame, depth);
    }
    rk__pack_map(out, (uint32_t)count);
    return pack_pairs(L, index, out, &frame, depth, &count);
}

static int pack_value(lua_State *L, int index, rk__strbuf *out, const struct frame *up, int depth)
{
    switch (lua_type(L, index)) {
    case LUA_TNIL:
        rk__pack_nil(out);
        return 0;
    case LUA_TBOOLEAN:
        rk__pack_bool(out, lua_toboolean(L, index));
        return 0;
    case LUA_TNUMBER:
        if (lua_isinteger(L, index)) {
            rk__pack_int(out, lua_tointeger(L, index));
        } else {
            rk__pack_double(out, lua_tonumber(L, index));
        }
        return 0;
    case LUA_TSTRING:
        return pack_string(L, index, out, up);
    case LUA_TTABLE:
        return pack_table(L, index, out, up, depth);
    case LUA_TUSERDATA:
        return pack_userdata(L, index, out, up, depth);
    default:
        return refuse(L, index, up);
    }
}

int rk__lua_pack(lua_State *L, int index, rk__strbuf *out)
{
    int top = lua_gettop(L);
    int rc = pack_value(L, lua_absindex(L, index), out, NULL, 0);
    lua_settop(L, top);
    if (rc == 0 && out->failed) {
        rc = rk__fail(RK_ENOMEM, "out of memory for the MessagePack form of a value");
    }
    return rc;
}

/* ---- Lua functions ---- */

static int pack(lua_State *L)
{
    luaL_checkany(L, 1);
    rk__strbuf *out = &rk__lua_values_of(L, false)->scratch;
    rk__strbuf_clear(out);
    int rc = rk__lua_pack(L, 1, out);
    if (rc < 0) {
        rk__strbuf_clear(out);
        return luaL_error(L, "cannot pack: %s", rk_errdetail());
    }
    lua_pushlstring(L, out->bytes, out->size);
    return 1;
}

static int unpack(lua_State *L)
{
    size_t size;
    luaL_checktype(L, 1, LUA_TSTRING);
    const char *bytes = lua_tolstring(L, 1, &size);
    rk__reader r;
    rk__reader_init(&r, bytes, size);
    int rc = rk__lua_unpack(L, &r);
    if (rc == 0 && r.at != r.end) {
        rc = rk__fail(RK_EFORMAT, "MessagePack: %zu bytes after the end of the value at byte %zu",
                      (size_t)(r.end - r.at), (size_t)(r.at - r.start));
    }
    return rc < 0 ? rk__lua_fail(L, rc) : 1;
}

void rk__lua_open_values(lua_State *L)
{
    static const luaL_Reg functions[] = {{"pack", pack}, {"unpack", unpack}, {NULL, NULL}};
    rk__lua_open_deliveries(L);
    rk__lua_open_entries(L);
    luaL_setfuncs(L, functions, 0);
}
