/*
 * ndarray.c -- numeric arrays in the form of Python peers:
 *   {"__ndarray__": true | bytes, "dtype": "<f4" | "float32" | ..., "shape": [n, ...],
 *    "data": bytes}          (the bytes are under one of the two keys)
 *
 * Any thread may enter; nothing is shared. Keys come in any order, so they are collected first;
 * elements are then copied when dtype and field agree, and converted one by one when not. Every
 * byte order is understood: bytes are put together as numbers, not cast.
 */
#include <string.h>
#include "base/error.h"
#include "message/codec.h"

struct ndarray {
    const char *bytes; /* NULL: not seen */
    uint32_t size;
    const char *dtype; /* NULL: not seen */
    uint32_t dtype_size;
    uint64_t elements; /* product of the shape */
    bool shaped, marked;
    char code; /* of a dtype: b bool, i signed, u unsigned, f float */
    uint8_t width;
    bool big;
};

static bool is_text(const char *bytes, size_t size, const char *text)
{
    return size == strlen(text) && memcmp(bytes, text, size) == 0;
}

/* ---- dtype ---- */

static const struct {
    const char *name, *brief;
    char code;
    uint8_t width;
} dtypes[] = {
    {"bool", "b1", 'b', 1},   {"bool_", "?", 'b', 1},    {"int8", "i1", 'i', 1},
    {"int16", "i2", 'i', 2},  {"int32", "i4", 'i', 4},   {"int64", "i8", 'i', 8},
    {"uint8", "u1", 'u', 1},  {"uint16", "u2", 'u', 2},  {"uint32", "u4", 'u', 4},
    {"uint64", "u8", 'u', 8}, {"float32", "f4", 'f', 4}, {"float64", "f8", 'f', 8},
};

static int parse_dtype(struct ndarray *a)
{
    const char *text = a->dtype;
    size_t size = a->dtype_size;
    if (size && strchr("<>=|", *text) && *text) {
        a->big = *text == '>';
        text++;
        size--;
    }
    for (size_t i = 0; i < sizeof dtypes / sizeof *dtypes; i++) {
        if (is_text(text, size, dtypes[i].brief) || is_text(text, size, dtypes[i].name)) {
            a->code = dtypes[i].code;
            a->width = dtypes[i].width;
            return 0;
        }
    }
    return rk__fail(RK_ETYPE,
                    "unknown dtype '%.*s'; there are bool, int8 to int64, uint8 to "
                    "uint64, float32, float64, or as <f4",
                    (int)(size < 40 ? size : 40), text);
}

/* ---- keys ---- */

static int read_shape(rk__reader *r, struct ndarray *a)
{
    rk__token token;
    int rc = rk__read_token(r, &token);
    if (rc < 0) {
        return rc;
    }
    if (token.kind != RK__TOKEN_ARRAY) {
        return rk__fail(RK_ETYPE, "shape: expected a list, got %s", rk__token_name(&token));
    }
    a->elements = 1;
    a->shaped = true;
    for (uint32_t left = token.size; left; left--) {
        rc = rk__read_token(r, &token);
        if (rc < 0) {
            return rc;
        }
        if (token.kind != RK__TOKEN_INT || token.integer < 0) {
            return rk__fail(RK_ETYPE, "shape: expected counts, got %s", rk__token_name(&token));
        }
        if (__builtin_mul_overflow(a->elements, (uint64_t)token.integer, &a->elements)) {
            return rk__fail(RK_ERANGE, "shape: more elements than 64 bits count");
        }
    }
    return 0;
}

static int take_data(struct ndarray *a, const rk__token *token)
{
    if (a->bytes) {
        return rk__fail(RK_EFORMAT, "the bytes are there twice");
    }
    a->bytes = token->bytes;
    a->size = token->size;
    return 0;
}

static int read_value(rk__reader *r, const rk__token *key, struct ndarray *a)
{
    rk__token token;
    if (is_text(key->bytes, key->size, "shape")) {
        return a->shaped ? rk__fail(RK_EFORMAT, "the shape is there twice") : read_shape(r, a);
    }
    int rc = rk__read_token(r, &token);
    if (rc < 0) {
        return rc;
    }
    if (is_text(key->bytes, key->size, "__ndarray__")) {
        a->marked = true;
        if (token.kind == RK__TOKEN_BIN) {
            return take_data(a, &token);
        }
        return token.kind == RK__TOKEN_BOOL && token.boolean
                   ? 0
                   : rk__fail(RK_ETYPE, "__ndarray__: expected true or binary data, got %s",
                              rk__token_name(&token));
    }
    if (is_text(key->bytes, key->size, "data") && token.kind == RK__TOKEN_BIN) {
        return take_data(a, &token);
    }
    if (is_text(key->bytes, key->size, "dtype") && token.kind == RK__TOKEN_STR) {
        a->dtype = token.bytes;
        a->dtype_size = token.size;
        return 0;
    }
    return rk__fail(RK_EFORMAT,
                    "unexpected %s under '%.*s'; expected __ndarray__, dtype (string), "
                    "shape (list) and data (binary)",
                    rk__token_name(&token), (int)(key->size < 40 ? key->size : 40), key->bytes);
}

static int read_map(rk__reader *r, const rk__token *map, struct ndarray *a)
{
    int rc = 0;
    for (uint32_t left = map->size; rc == 0 && left; left--) {
        rk__token key;
        rc = rk__read_token(r, &key);
        if (rc == 0 && key.kind != RK__TOKEN_STR) {
            rc = rk__fail(RK_EFORMAT, "expected strings as keys, got %s", rk__token_name(&key));
        }
        if (rc == 0) {
            rc = read_value(r, &key, a);
        }
    }
    if (rc == 0 && !(a->marked && a->bytes && a->dtype && a->shaped)) {
        rc = rk__fail(RK_EFORMAT,
                      "a map in place of an array needs the keys __ndarray__, dtype, "
                      "shape, and data unless __ndarray__ has the bytes; there is no %s",
                      !a->marked   ? "__ndarray__"
                      : !a->dtype  ? "dtype"
                      : !a->shaped ? "shape"
                                   : "data");
    }
    return rc;
}

/* ---- elements ---- */

static uint64_t element_bits(const struct ndarray *a, uint64_t i)
{
    const uint8_t *at = (const uint8_t *)a->bytes + i * a->width;
    uint64_t bits = 0;
    for (unsigned k = 0; k < a->width; k++) {
        bits = bits << 8 | at[a->big ? k : a->width - 1u - k];
    }
    return bits;
}

static int64_t sign_extend(uint64_t bits, unsigned width)
{
    unsigned shift = 64 - 8 * width;
    return (int64_t)(bits << shift) >> shift;
}

static double as_number(uint64_t bits, unsigned width)
{
    double wide;
    float narrow;
    uint32_t low = (uint32_t)bits;
    if (width == 4) {
        memcpy(&narrow, &low, sizeof narrow);
        return narrow;
    }
    memcpy(&wide, &bits, sizeof wide);
    return wide;
}

static int set_element(const struct ndarray *a, const rk__fielddef *f, void *base, uint32_t i)
{
    uint64_t bits = element_bits(a, i);
    switch (a->code) {
    case 'f':
        return rk__field_set_number(base, f, i, as_number(bits, a->width));
    case 'i':
        return rk__field_set_int(base, f, i, sign_extend(bits, a->width));
    default:
        return rk__field_set_uint(base, f, i, bits);
    }
}

/* Whether the bytes are already what the field holds; bools are looked at one by one. */
static bool same_layout(const struct ndarray *a, const rk__fielddef *f)
{
    static const char codes[] = {
        [RK__BOOL] = 0,  [RK__I8] = 'i',  [RK__I16] = 'i', [RK__I32] = 'i', [RK__I64] = 'i',
        [RK__U8] = 'u',  [RK__U16] = 'u', [RK__U32] = 'u', [RK__U64] = 'u', [RK__F32] = 'f',
        [RK__F64] = 'f', [RK__UUID] = 0,  [RK__PID] = 'u',
    };
    return codes[f->kind] == a->code && f->element == a->width && !a->big;
}

static int store(const struct ndarray *a, const rk__fielddef *f, uint8_t *base)
{
    uint32_t count = (uint32_t)a->elements;
    if (same_layout(a, f)) {
        memcpy(base + f->offset, a->bytes, (size_t)count * f->element);
        return 0;
    }
    int rc = 0;
    for (uint32_t i = 0; rc == 0 && i < count; i++) {
        rc = set_element(a, f, base, i);
    }
    return rc;
}

int rk__ndarray_unpack(rk__reader *r, const rk__token *map, const rk__fielddef *f, void *base,
                       int depth)
{
    struct ndarray a = {0};
    if (depth + 1 >= RK__PACK_DEPTH) {
        return rk__fail(RK_ELIMIT, "field '%s': more than %d containers inside each other", f->name,
                        RK__PACK_DEPTH);
    }
    int rc = read_map(r, map, &a);
    if (rc == 0) {
        rc = parse_dtype(&a);
    }
    if (rc == 0 && (a.elements > a.size || a.elements * a.width != a.size)) {
        rc = rk__fail(RK_EFORMAT, "the shape has %llu elements of %u bytes, but %u bytes are there",
                      (unsigned long long)a.elements, a.width, a.size);
    }
    if (rc < 0) {
        return rk__fail_prefix(rc, "field '%s'", f->name);
    }
    rc = rk__field_set_count(base, f, (uint32_t)a.elements);
    return rc < 0 ? rc : store(&a, f, base);
}
