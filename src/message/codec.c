/*
 * codec.c -- MessagePack tokens: writing to a strbuf, reading from bytes.
 *
 * Entered by the owner of the buffer or reader; nothing is shared. libmpack encodes and decodes
 * tokens. Its buffering of split tokens is never needed here, since both sides are contiguous, and
 * the tokens that fit one byte, floats and short strings are done in place: they are nearly all of
 * a message. libmpack does not look at lengths, so every one is checked here.
 */
#include <stdbool.h>
#include <mpack.h>
#include <stdint.h>
#include <string.h>
#include "base/error.h"
#include "message/codec.h"

enum {
    FIXINT_END = 0x80, /* 0x00..0x7f are the ints themselves */
    FIXMAP = 0x80,
    FIXARRAY = 0x90,
    FIXSTR = 0xa0,
    FIXSTR_END = 0xc0,
    NIL = 0xc0,
    FLOAT32 = 0xca,
    FLOAT64 = 0xcb,
    INT_8 = 0xd0,
    INT_16 = 0xd1,
    INT_32 = 0xd2,
    INT_64 = 0xd3,
    NEGATIVE_FIXINT = 0xe0
};

/* ---- writing ---- */

/* Room for `size` bytes and the NUL; without a call in the usual case. */
static inline bool reserve(rk__strbuf *s, size_t size)
{
    return (!s->failed && s->capacity - s->size > size) || rk__strbuf_reserve(s, size);
}

static inline void put_byte(rk__strbuf *s, uint8_t byte)
{
    if (reserve(s, 1)) {
        s->bytes[s->size++] = (char)byte;
        s->bytes[s->size] = '\0';
    }
}

static void put_token(rk__strbuf *s, const mpack_token_t *token)
{
    if (!reserve(s, MPACK_MAX_TOKEN_LEN)) {
        return;
    }
    mpack_tokbuf_t buffer;
    mpack_tokbuf_init(&buffer);
    char *at = s->bytes + s->size;
    size_t room = MPACK_MAX_TOKEN_LEN;
    int rc = mpack_write(&buffer, &at, &room, token);
    rk_assert(rc == MPACK_OK);
    (void)rc;
    s->size = (size_t)(at - s->bytes);
    s->bytes[s->size] = '\0';
}

/* A header that is one byte for small counts. */
static void put_header(rk__strbuf *s, uint32_t count, uint32_t small, uint8_t code,
                       mpack_token_type_t type)
{
    if (count < small) {
        put_byte(s, (uint8_t)(code | count));
    } else {
        mpack_token_t token = {.type = type, .length = count};
        put_token(s, &token);
    }
}

void rk__pack_nil(rk__strbuf *s)
{
    put_byte(s, NIL);
}

void rk__pack_bool(rk__strbuf *s, bool value)
{
    mpack_token_t token = mpack_pack_boolean(value);
    put_token(s, &token);
}

/* A code and the low `width` bytes of a value, big endian. */
static void put_wide(rk__strbuf *s, uint8_t code, uint64_t value, unsigned width)
{
    if (reserve(s, 1 + width)) {
        uint64_t big = __builtin_bswap64(value << (64 - 8 * width));
        s->bytes[s->size] = (char)code;
        memcpy(s->bytes + s->size + 1, &big, width);
        s->size += 1 + width;
        s->bytes[s->size] = '\0';
    }
}

/* libmpack 1.0.5 writes -129 as an int 8 and -32769 as an int 16, which lose a bit, so negative
 * integers are written here. */
void rk__pack_int(rk__strbuf *s, int64_t value)
{
    if (value >= 0) {
        rk__pack_uint(s, (uint64_t)value);
    } else if (value >= -32) {
        put_byte(s, (uint8_t)value);
    } else if (value >= INT8_MIN) {
        put_wide(s, INT_8, (uint64_t)value, 1);
    } else if (value >= INT16_MIN) {
        put_wide(s, INT_16, (uint64_t)value, 2);
    } else if (value >= INT32_MIN) {
        put_wide(s, INT_32, (uint64_t)value, 4);
    } else {
        put_wide(s, INT_64, (uint64_t)value, 8);
    }
}

void rk__pack_uint(rk__strbuf *s, uint64_t value)
{
    if (value < FIXINT_END) {
        put_byte(s, (uint8_t)value);
    } else {
        mpack_token_t token = mpack_pack_uint(value);
        put_token(s, &token);
    }
}

/* mpack_pack_float would choose the width by the value, and turn signalling NaNs into quiet ones;
 * here the field chooses, and the bits go out as they are. */
void rk__pack_float(rk__strbuf *s, float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    put_wide(s, FLOAT32, bits, 4);
}

void rk__pack_double(rk__strbuf *s, double value)
{
    uint64_t bits;
    memcpy(&bits, &value, sizeof bits);
    put_wide(s, FLOAT64, bits, 8);
}

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "values are swapped to big endian");

static void put_bytes(rk__strbuf *s, const void *bytes, size_t size)
{
    if (size && reserve(s, size)) {
        memcpy(s->bytes + s->size, bytes, size);
        s->size += size;
        s->bytes[s->size] = '\0';
    }
}

void rk__pack_str(rk__strbuf *s, const char *bytes, size_t size)
{
    rk_assert(size <= UINT32_MAX);
    put_header(s, (uint32_t)size, 32, FIXSTR, MPACK_TOKEN_STR);
    put_bytes(s, bytes, size);
}

void rk__pack_bin(rk__strbuf *s, const void *bytes, size_t size)
{
    rk_assert(size <= UINT32_MAX);
    put_header(s, (uint32_t)size, 0, 0, MPACK_TOKEN_BIN);
    put_bytes(s, bytes, size);
}

void rk__pack_array(rk__strbuf *s, uint32_t count)
{
    put_header(s, count, 16, FIXARRAY, MPACK_TOKEN_ARRAY);
}

void rk__pack_map(rk__strbuf *s, uint32_t count)
{
    put_header(s, count, 16, FIXMAP, MPACK_TOKEN_MAP);
}

void rk__pack_ext(rk__strbuf *s, int8_t type, const void *bytes, size_t size)
{
    rk_assert(size <= UINT32_MAX);
    /* libmpack writes the type of an ext as an unsigned byte. */
    mpack_token_t token = mpack_pack_ext((uint8_t)type, (uint32_t)size);
    put_token(s, &token);
    put_bytes(s, bytes, size);
}

/* ---- reading ---- */

void rk__reader_init(rk__reader *r, const void *bytes, size_t size)
{
    r->start = r->at = bytes;
    r->end = r->at + size;
}

const char *rk__token_name(const rk__token *token)
{
    static const char *const names[] = {
        [RK__TOKEN_NIL] = "nil",         [RK__TOKEN_BOOL] = "a bool",
        [RK__TOKEN_INT] = "an integer",  [RK__TOKEN_UINT] = "an integer",
        [RK__TOKEN_FLOAT] = "a float",   [RK__TOKEN_STR] = "a string",
        [RK__TOKEN_BIN] = "binary data", [RK__TOKEN_ARRAY] = "an array",
        [RK__TOKEN_MAP] = "a map",       [RK__TOKEN_EXT] = "an extension",
    };
    return names[token->kind];
}

static size_t left(const rk__reader *r)
{
    return (size_t)(r->end - r->at);
}

static int truncated(const rk__reader *r)
{
    return rk__fail(RK_EFORMAT, "MessagePack: the input ends at byte %zu inside a value",
                    (size_t)(r->end - r->start));
}

/* Takes the bytes of a str, bin or ext whose header has been read. */
static int take_bytes(rk__reader *r, rk__token *out)
{
    if (out->size > left(r)) {
        return rk__fail(RK_EFORMAT, "MessagePack: %s of %u bytes at byte %zu, but only %zu follow",
                        rk__token_name(out), out->size, (size_t)(r->at - r->start), left(r));
    }
    out->bytes = r->at;
    r->at += out->size;
    return 0;
}

/* An item has at least one byte, a pair two: more of them than the rest of the input can hold is
 * refused here, so nobody allocates by a count that only pretends. */
static int check_items(const rk__reader *r, const rk__token *token)
{
    uint64_t least = (uint64_t)token->size * (token->kind == RK__TOKEN_MAP ? 2 : 1);
    if (least > left(r)) {
        return rk__fail(RK_EFORMAT,
                        "MessagePack: %s of %u items at byte %zu, but only %zu bytes "
                        "follow",
                        rk__token_name(token), token->size, (size_t)(r->at - r->start), left(r));
    }
    return 0;
}

static void take_float(rk__token *out, const mpack_token_t *token)
{
    out->kind = RK__TOKEN_FLOAT;
    out->size = token->length;
    if (token->length == 4) {
        float value;
        uint32_t bits = token->data.value.lo;
        memcpy(&value, &bits, sizeof value);
        out->unsigned_integer = bits;
        out->number = value;
    } else {
        uint64_t bits = (uint64_t)token->data.value.hi << 32 | token->data.value.lo;
        memcpy(&out->number, &bits, sizeof out->number);
        out->unsigned_integer = bits;
    }
}

static void take_uint(rk__token *out, uint64_t value)
{
    out->kind = value > INT64_MAX ? RK__TOKEN_UINT : RK__TOKEN_INT;
    out->unsigned_integer = value;
    out->integer = (int64_t)value;
}

static int take_sized(rk__reader *r, rk__token *out, rk__token_kind kind, uint32_t size)
{
    out->kind = kind;
    out->size = size;
    return kind == RK__TOKEN_ARRAY || kind == RK__TOKEN_MAP ? check_items(r, out)
                                                            : take_bytes(r, out);
}

static int take_token(rk__reader *r, rk__token *out, const mpack_token_t *token)
{
    switch (token->type) {
    case MPACK_TOKEN_NIL:
        out->kind = RK__TOKEN_NIL;
        return 0;
    case MPACK_TOKEN_BOOLEAN:
        out->kind = RK__TOKEN_BOOL;
        out->boolean = mpack_unpack_boolean(*token);
        return 0;
    case MPACK_TOKEN_UINT:
        take_uint(out, mpack_unpack_uint(*token));
        return 0;
    case MPACK_TOKEN_SINT:
        out->kind = RK__TOKEN_INT;
        out->integer = mpack_unpack_sint(*token);
        return 0;
    case MPACK_TOKEN_FLOAT:
        take_float(out, token);
        return 0;
    case MPACK_TOKEN_STR:
        return take_sized(r, out, RK__TOKEN_STR, token->length);
    case MPACK_TOKEN_BIN:
        return take_sized(r, out, RK__TOKEN_BIN, token->length);
    case MPACK_TOKEN_EXT:
        out->ext = (int8_t)token->data.ext_type;
        return take_sized(r, out, RK__TOKEN_EXT, token->length);
    case MPACK_TOKEN_ARRAY:
        return take_sized(r, out, RK__TOKEN_ARRAY, token->length);
    case MPACK_TOKEN_MAP:
        return take_sized(r, out, RK__TOKEN_MAP, token->length);
    default:
        return rk__fail(RK_EFORMAT, "MessagePack: unexpected data before byte %zu",
                        (size_t)(r->at - r->start));
    }
}

/* What is not done in place: a fresh tokbuf per token, so libmpack neither keeps a partial token
 * nor hands out the bytes of a string as chunks. */
static int read_slow(rk__reader *r, rk__token *out)
{
    mpack_tokbuf_t buffer;
    mpack_token_t token;
    size_t size = left(r);
    const char *at = r->at;
    mpack_tokbuf_init(&buffer);
    int rc = mpack_read(&buffer, &at, &size, &token);
    if (rc == MPACK_EOF) {
        return truncated(r);
    }
    if (rc != MPACK_OK) {
        return rk__fail(RK_EFORMAT, "MessagePack: invalid byte 0x%02x at byte %zu",
                        (unsigned char)*r->at, (size_t)(r->at - r->start));
    }
    r->at = at;
    return take_token(r, out, &token);
}

static int read_float(rk__reader *r, rk__token *out, uint32_t size)
{
    mpack_token_t token = {.type = MPACK_TOKEN_FLOAT, .length = size};
    uint32_t high, low;
    if (left(r) < size + 1) {
        return truncated(r);
    }
    memcpy(&low, r->at + size - 3, sizeof low);
    memcpy(&high, r->at + 1, sizeof high);
    token.data.value.lo = __builtin_bswap32(low);
    token.data.value.hi = size == 8 ? __builtin_bswap32(high) : 0;
    r->at += size + 1;
    take_float(out, &token);
    return 0;
}

int rk__read_token(rk__reader *r, rk__token *out)
{
    if (r->at == r->end) {
        return truncated(r);
    }
    uint8_t code = (uint8_t)*r->at;
    if (code < FIXINT_END) {
        r->at++;
        take_uint(out, code);
        return 0;
    }
    if (code < FIXSTR_END) {
        r->at++;
        return code >= FIXSTR     ? take_sized(r, out, RK__TOKEN_STR, code & 0x1f)
               : code >= FIXARRAY ? take_sized(r, out, RK__TOKEN_ARRAY, code & 0xf)
                                  : take_sized(r, out, RK__TOKEN_MAP, code & 0xf);
    }
    if (code >= NEGATIVE_FIXINT) {
        r->at++;
        out->kind = RK__TOKEN_INT;
        out->integer = (int8_t)code;
        return 0;
    }
    if (code == FLOAT32 || code == FLOAT64) {
        return read_float(r, out, code == FLOAT32 ? 4 : 8);
    }
    return read_slow(r, out);
}

int rk__read_skip(rk__reader *r, int depth)
{
    rk__token token;
    int rc = rk__read_token(r, &token);
    if (rc < 0 || (token.kind != RK__TOKEN_ARRAY && token.kind != RK__TOKEN_MAP)) {
        return rc;
    }
    if (depth >= RK__PACK_DEPTH) {
        return rk__fail(RK_ELIMIT,
                        "MessagePack: more than %d containers inside each other at byte "
                        "%zu",
                        RK__PACK_DEPTH, (size_t)(r->at - r->start));
    }
    uint64_t values = (uint64_t)token.size * (token.kind == RK__TOKEN_MAP ? 2 : 1);
    for (; rc == 0 && values; values--) {
        rc = rk__read_skip(r, depth + 1);
    }
    return rc;
}
