/*
 * unpack.c -- MessagePack to typed messages.
 *
 * Any thread may enter; the message that is being filled belongs to the caller. What comes in may
 * be hostile: the struct is as large as its type says, whatever the input claims, and the reader
 * has checked each length against the input.
 */
#include <stdio.h>
#include <string.h>
#include "base/error.h"
#include "message/codec.h"
#include "message/schema.h"

static bool is_key(const rk__token *token, const char *text)
{
    return token->kind == RK__TOKEN_STR && token->size == strlen(text) &&
           memcmp(token->bytes, text, token->size) == 0;
}

static int wrong_token(const rk__fielddef *f, const rk__token *token)
{
    char text[96];
    return rk__fail(RK_ETYPE, "field '%s': expected %s, got %s", f->name, rk__field_text(f, text),
                    rk__token_name(token));
}

/* ---- uuids: bin 16, the 36 characters, or {"__uuid_bin__": bin 16} ---- */

static int read_uuid_map(rk__reader *r, rk__token *token)
{
    rk__token key;
    if (token->size != 1) {
        return 1;
    }
    int rc = rk__read_token(r, &key);
    if (rc == 0) {
        rc = rk__read_token(r, token);
    }
    return rc < 0 ? rc : !is_key(&key, "__uuid_bin__") || token->kind != RK__TOKEN_BIN;
}

/* `token` has been read. 1: it is no uuid. */
static int read_uuid(rk__reader *r, rk__token *token, uint8_t bytes[16])
{
    if (token->kind == RK__TOKEN_MAP) {
        int rc = read_uuid_map(r, token);
        if (rc != 0) {
            return rc;
        }
    }
    if (token->kind == RK__TOKEN_BIN && token->size == 16) {
        memcpy(bytes, token->bytes, 16);
        return 0;
    }
    if (token->kind == RK__TOKEN_STR && token->size == RK__ID_TEXT - 1) {
        char text[RK__ID_TEXT];
        rk__id id;
        memcpy(text, token->bytes, RK__ID_TEXT - 1);
        text[RK__ID_TEXT - 1] = '\0';
        if (rk__id_parse(text, &id)) {
            rk__id_bytes(id, bytes);
            return 0;
        }
    }
    return 1;
}

static int unpack_uuid(rk__reader *r, rk__token *token, const rk__fielddef *f, uint8_t bytes[16])
{
    int rc = read_uuid(r, token, bytes);
    if (rc <= 0) {
        return rc;
    }
    return rk__fail(RK_ETYPE,
                    "field '%s': expected uuid (16 bytes as binary data, its 36 "
                    "characters, or {\"__uuid_bin__\": 16 bytes}), got %s",
                    f->name, rk__token_name(token));
}

/* ---- scalars ---- */

static int unpack_float(const rk__token *token, const rk__fielddef *f, uint8_t *base, uint32_t i)
{
    /* The same width: bit for bit, so that every NaN survives. */
    if (f->kind == RK__F32 && token->size == 4) {
        uint32_t bits = (uint32_t)token->unsigned_integer;
        memcpy(base + f->offset + (size_t)i * 4, &bits, sizeof bits);
        return 0;
    }
    if (f->kind == RK__F64 && token->size == 8) {
        memcpy(base + f->offset + (size_t)i * 8, &token->unsigned_integer, 8);
        return 0;
    }
    return rk__field_set_number(base, f, i, token->number);
}

static int unpack_scalar(rk__reader *r, rk__token *token, const rk__fielddef *f, uint8_t *base,
                         uint32_t i)
{
    if (f->kind == RK__UUID) {
        return unpack_uuid(r, token, f, base + f->offset + (size_t)i * 16);
    }
    if (f->kind == RK__BOOL) {
        return token->kind == RK__TOKEN_BOOL ? rk__field_set_uint(base, f, i, token->boolean)
                                             : wrong_token(f, token);
    }
    bool whole = token->kind == RK__TOKEN_INT || token->kind == RK__TOKEN_UINT;
    if (f->kind == RK__PID && !whole) {
        return wrong_token(f, token);
    }
    switch (token->kind) {
    case RK__TOKEN_INT:
        return rk__field_set_int(base, f, i, token->integer);
    case RK__TOKEN_UINT:
        return rk__field_set_uint(base, f, i, token->unsigned_integer);
    case RK__TOKEN_FLOAT:
        return unpack_float(token, f, base, i);
    default:
        return wrong_token(f, token);
    }
}

/* ---- fields ---- */

static int check_depth(const rk__reader *r, int depth)
{
    if (depth >= RK__PACK_DEPTH) {
        return rk__fail(RK_ELIMIT,
                        "MessagePack: more than %d containers inside each other at byte "
                        "%zu",
                        RK__PACK_DEPTH, (size_t)(r->at - r->start));
    }
    return 0;
}

/* Reads an element that was refused once more, as a field "v[2]" of its own: so that the error
 * names it, and that what is refused pays for it. */
static int name_element(rk__reader r, const rk__fielddef *f, uint8_t *base, uint32_t i)
{
    rk__token token;
    char name[RK_NAME_MAX + 16];
    rk__fielddef item = *f;
    snprintf(name, sizeof name, "%s[%u]", f->name, i + 1);
    item.name = name;
    item.array = false;
    item.capacity = 1;
    item.count_offset = UINT32_MAX;
    item.offset += i * f->element;
    int rc = rk__read_token(&r, &token);
    return rc < 0 ? rk__fail_prefix(rc, "field '%s'", name)
                  : unpack_scalar(&r, &token, &item, base, 0);
}

static int unpack_list(rk__reader *r, const rk__token *list, const rk__fielddef *f, uint8_t *base)
{
    int rc = rk__field_set_count(base, f, list->size);
    for (uint32_t i = 0; rc == 0 && i < list->size; i++) {
        rk__token token;
        rk__reader before = *r;
        rc = rk__read_token(r, &token);
        if (rc == 0) {
            rc = unpack_scalar(r, &token, f, base, i);
        }
        if (rc < 0) {
            return name_element(before, f, base, i);
        }
    }
    return rc;
}

static int unpack_array(rk__reader *r, const rk__token *token, const rk__fielddef *f, uint8_t *base,
                        int depth)
{
    int rc = check_depth(r, depth);
    if (rc < 0) {
        return rc;
    }
    if (token->kind == RK__TOKEN_ARRAY) {
        return unpack_list(r, token, f, base);
    }
    if (token->kind == RK__TOKEN_MAP && f->kind != RK__UUID) {
        return rk__ndarray_unpack(r, token, f, base, depth);
    }
    return wrong_token(f, token);
}

static int unpack_field(rk__reader *r, const rk__fielddef *f, uint8_t *base, int depth)
{
    rk__token token;
    if (f->kind == RK__NESTED) {
        int rc = rk__struct_unpack(r, f->nested, base + f->offset, NULL, depth);
        return rc < 0 ? rk__fail_prefix(rc, "field '%s'", f->name) : 0;
    }
    if (f->kind == RK__ANY) {
        int rc = rk__field_read_any(base, f, r);
        return rc < 0 ? rk__fail_prefix(rc, "field '%s'", f->name) : 0;
    }
    int rc = rk__read_token(r, &token);
    if (rc < 0) {
        return rk__fail_prefix(rc, "field '%s'", f->name);
    }
    if (f->array) {
        return unpack_array(r, &token, f, base, depth);
    }
    if (f->kind == RK__STRING || f->kind == RK__BYTES) {
        bool fits =
            token.kind == RK__TOKEN_STR || (token.kind == RK__TOKEN_BIN && f->kind == RK__BYTES);
        return fits ? rk__field_set_bytes(base, f, token.bytes, token.size)
                    : wrong_token(f, &token);
    }
    return unpack_scalar(r, &token, f, base, 0);
}

/* ---- envelope ---- */

static int unpack_id(rk__reader *r, const rk__token *key, rk__id *out)
{
    rk__token token;
    uint8_t bytes[16];
    int rc = rk__read_token(r, &token);
    if (rc < 0) {
        return rc;
    }
    if (token.kind == RK__TOKEN_NIL) {
        *out = (rk__id){0, 0};
        return 0;
    }
    rc = read_uuid(r, &token, bytes);
    if (rc > 0) {
        return rk__fail(RK_ETYPE, "%.*s: expected a uuid or nil, got %s", (int)key->size,
                        key->bytes, rk__token_name(&token));
    }
    if (rc == 0) {
        *out = rk__id_from_bytes(bytes);
    }
    return rc;
}

static int unpack_priority(rk__reader *r, rk_message *m)
{
    rk__token token;
    int rc = rk__read_token(r, &token);
    if (rc < 0) {
        return rc;
    }
    if (token.kind != RK__TOKEN_INT) {
        return rk__fail(RK_ETYPE, "priority: expected an integer from 0 to 255, got %s",
                        rk__token_name(&token));
    }
    if (token.integer < 0 || token.integer > 255) {
        return rk__fail(RK_ERANGE, "priority: expected 0 to 255, got %lld",
                        (long long)token.integer);
    }
    m->priority = (uint8_t)token.integer;
    return 0;
}

/* A nested struct may carry its "__type" too, but it must be the one the schema has. */
static int check_type_name(rk__reader *r, const rk_type *type)
{
    rk__token name;
    int rc = rk__read_token(r, &name);
    if (rc < 0 || is_key(&name, type->name)) {
        return rc;
    }
    return rk__fail(RK_ETYPE, "__type: expected '%s', got %s%.*s", type->name,
                    name.kind == RK__TOKEN_STR ? "" : rk__token_name(&name),
                    name.kind == RK__TOKEN_STR ? (int)(name.size < 80 ? name.size : 80) : 0,
                    name.kind == RK__TOKEN_STR ? name.bytes : "");
}

/* Keys that no field can have. 1: the key is none of them. */
static int unpack_envelope(rk__reader *r, const rk__token *key, const rk_type *type, rk_message *m,
                           int depth)
{
    if (is_key(key, "__type")) {
        return check_type_name(r, type);
    }
    if (is_key(key, "from") || is_key(key, "sent") || is_key(key, "type")) {
        return rk__read_skip(r, depth);
    }
    bool id = is_key(key, "message_id");
    if (id || is_key(key, "correlation_id")) {
        rk__id value;
        int rc = m ? unpack_id(r, key, &value) : rk__read_skip(r, depth);
        if (rc == 0 && m && id) {
            rk__body_id_set(m->body, value);
        } else if (rc == 0 && m) {
            m->correlation = value;
        }
        return rc;
    }
    if (is_key(key, "priority")) {
        return m ? unpack_priority(r, m) : rk__read_skip(r, depth);
    }
    return 1;
}

/* ---- structs ---- */

/* Which field a key is; they mostly come in layout order, so the expected one is looked at first.
 * 0: it was a key of the envelope, and its value has been read; 1: *out is the field. */
static int take_key(rk__reader *r, const rk_type *type, rk_message *m, int depth, uint32_t expected,
                    const rk__fielddef **out)
{
    rk__token key;
    int rc = rk__read_token(r, &key);
    if (rc < 0) {
        return rc;
    }
    if (key.kind != RK__TOKEN_STR) {
        return rk__fail(RK_EFORMAT, "expected field names as keys, got %s before byte %zu",
                        rk__token_name(&key), (size_t)(r->at - r->start));
    }
    if (expected < type->field_count && is_key(&key, type->fields[expected].name)) {
        *out = &type->fields[expected];
        return 1;
    }
    rc = unpack_envelope(r, &key, type, m, depth);
    if (rc <= 0) {
        return rc;
    }
    rc = rk__type_field(type, key.bytes, key.size, out);
    return rc < 0 ? rc : 1;
}

static int unpack_pair(rk__reader *r, const rk_type *type, uint8_t *base, rk_message *m, int depth,
                       uint64_t *seen, uint32_t *expected)
{
    const rk__fielddef *f;
    int rc = take_key(r, type, m, depth, *expected, &f);
    if (rc <= 0) {
        return rc;
    }
    uint32_t index = (uint32_t)(f - type->fields);
    uint64_t bit = UINT64_C(1) << (index % 64);
    if (seen[index / 64] & bit) {
        return rk__fail(RK_EFORMAT, "field '%s' is there twice", f->name);
    }
    seen[index / 64] |= bit;
    *expected = index + 1;
    return unpack_field(r, f, base, depth);
}

/* The pairs of a map whose header has been read. */
static int unpack_pairs(rk__reader *r, uint32_t pairs, const rk_type *type, void *base,
                        rk_message *m, int depth)
{
    uint64_t seen[RK__FIELDS_MAX / 64];
    uint32_t expected = 0;
    int rc = 0;
    memset(seen, 0, (type->field_count + 63) / 64 * sizeof *seen);
    for (; rc == 0 && pairs; pairs--) {
        rc = unpack_pair(r, type, base, m, depth, seen, &expected);
    }
    return rc < 0 ? rk__fail_prefix(rc, "%s", type->name) : 0;
}

int rk__struct_unpack(rk__reader *r, const rk_type *type, void *base, rk_message *m, int depth)
{
    rk__token map;
    int rc = check_depth(r, depth);
    if (rc == 0) {
        rc = rk__read_token(r, &map);
    }
    if (rc < 0) {
        return rc;
    }
    if (map.kind != RK__TOKEN_MAP) {
        return rk__fail(RK_ETYPE, "expected a map with the fields of %s, got %s", type->name,
                        rk__token_name(&map));
    }
    return unpack_pairs(r, map.size, type, base, m, depth + 1);
}

/* ---- messages ---- */

/* The type that a map with "__type" first names; NULL in *out when the value is something else. */
static int named_type(rk__reader r, const rk_type **out)
{
    rk__token token;
    *out = NULL;
    int rc = rk__read_token(&r, &token);
    if (rc < 0 || token.kind != RK__TOKEN_MAP || token.size == 0) {
        return rc;
    }
    rc = rk__read_token(&r, &token);
    if (rc < 0 || !is_key(&token, "__type")) {
        return rc;
    }
    rc = rk__read_token(&r, &token);
    if (rc < 0) {
        return rc;
    }
    if (token.kind != RK__TOKEN_STR) {
        return rk__fail(RK_EFORMAT, "__type: expected the name of a message type, got %s",
                        rk__token_name(&token));
    }
    *out = rk__type_find(token.bytes, token.size);
    if (!*out) {
        rk__strbuf names = RK__STRBUF_INIT;
        rk__type_names(&names);
        rc = rk__fail(RK_ENOENT, "__type: no message type '%.*s'; there are %s",
                      (int)(token.size < 80 ? token.size : 80), token.bytes,
                      names.bytes ? names.bytes : "none");
        rk__strbuf_free(&names);
    }
    return rc;
}

static int unpack_typed(rk_message *m, rk__reader *r)
{
    int rc = rk__struct_unpack(r, m->body->type, m->body->payload, m, 0);
    if (rc == 0 && r->at != r->end) {
        rc = rk__fail(RK_EFORMAT, "%s: %zu bytes after the end of the message at byte %zu",
                      m->body->type->name, (size_t)(r->end - r->at), (size_t)(r->at - r->start));
    }
    return rc;
}

int rk__message_unpack(rk_message **out, const void *bytes, size_t size)
{
    rk__reader r;
    const rk_type *type;
    rk_message *m;
    rk__reader_init(&r, bytes, size);
    int rc = named_type(r, &type);
    if (rc < 0) {
        return rc;
    }
    if (!type) {
        return rk_message_new_packed(out, bytes, size);
    }
    rc = rk_message_new(&m, type);
    if (rc < 0) {
        return rc;
    }
    rc = unpack_typed(m, &r);
    if (rc < 0) {
        rk__delivery_free(m);
        return rc;
    }
    *out = m;
    return 0;
}

int rk_message_unpack(rk_message **out, const void *bytes, size_t size)
{
    RK_CHECK(out && (bytes || !size), "rk_message_unpack needs bytes and a place for the message");
    return rk__message_unpack(out, bytes, size);
}
