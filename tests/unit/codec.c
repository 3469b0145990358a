/* codec.c -- MessagePack: tokens, typed messages, hostile input. */
#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>
#include "base/error.h"
#include "message/codec.h"
#include "schemas.h"

#define COUNT(array) (sizeof(array) / sizeof *(array))

/* ---- tokens ---- */

static void expect_bytes(rk__strbuf *s, const char *bytes, size_t size, const char *what)
{
    cr_expect(s->size == size && memcmp(s->bytes, bytes, size) == 0, "%s: %zu bytes, first %02x",
              what, s->size, s->size ? (unsigned char)s->bytes[0] : 0);
    rk__strbuf_clear(s);
}

#define EXPECT_BYTES(s, text) expect_bytes((s), (text), sizeof(text) - 1, #text)

Test(codec, integers_have_their_shortest_form)
{
    rk__strbuf s = RK__STRBUF_INIT;
    rk__pack_int(&s, 0), EXPECT_BYTES(&s, "\x00");
    rk__pack_int(&s, 127), EXPECT_BYTES(&s, "\x7f");
    rk__pack_int(&s, 128), EXPECT_BYTES(&s, "\xcc\x80");
    rk__pack_int(&s, 256), EXPECT_BYTES(&s, "\xcd\x01\x00");
    rk__pack_int(&s, 65536), EXPECT_BYTES(&s, "\xce\x00\x01\x00\x00");
    rk__pack_int(&s, INT64_C(1) << 32), EXPECT_BYTES(&s, "\xcf\0\0\0\1\0\0\0\0");
    rk__pack_uint(&s, UINT64_MAX), EXPECT_BYTES(&s, "\xcf\xff\xff\xff\xff\xff\xff\xff\xff");
    rk__pack_int(&s, -1), EXPECT_BYTES(&s, "\xff");
    rk__pack_int(&s, -32), EXPECT_BYTES(&s, "\xe0");
    rk__pack_int(&s, -33), EXPECT_BYTES(&s, "\xd0\xdf");
    rk__pack_int(&s, -128), EXPECT_BYTES(&s, "\xd0\x80");
    rk__pack_int(&s, -129), EXPECT_BYTES(&s, "\xd1\xff\x7f");
    rk__pack_int(&s, -32769), EXPECT_BYTES(&s, "\xd2\xff\xff\x7f\xff");
    rk__pack_int(&s, INT64_C(-2147483649)),
        EXPECT_BYTES(&s, "\xd3\xff\xff\xff\xff\x7f\xff\xff\xff");
    rk__pack_int(&s, INT64_MIN), EXPECT_BYTES(&s, "\xd3\x80\0\0\0\0\0\0\0");
    rk__strbuf_free(&s);
}

static void expect_integer(uint64_t bits, bool negative)
{
    rk__strbuf s = RK__STRBUF_INIT;
    rk__reader r;
    rk__token t;
    if (negative) {
        rk__pack_int(&s, (int64_t)bits);
    } else {
        rk__pack_uint(&s, bits);
    }
    rk__reader_init(&r, s.bytes, s.size);
    cr_assert_eq(rk__read_token(&r, &t), 0);
    uint64_t back = t.kind == RK__TOKEN_UINT ? t.unsigned_integer : (uint64_t)t.integer;
    cr_assert_eq(t.kind, !negative && bits > INT64_MAX ? RK__TOKEN_UINT : RK__TOKEN_INT);
    cr_assert_eq(back, bits, "%llx came back as %llx", (unsigned long long)bits,
                 (unsigned long long)back);
    rk__strbuf_free(&s);
}

/* libmpack has errors just beyond the ends of the narrow forms. */
Test(codec, integers_around_every_power_of_two_survive)
{
    for (int k = 0; k < 64; k++) {
        for (uint64_t delta = 0; delta < 5; delta++) {
            uint64_t value = (UINT64_C(1) << k) + delta - 2;
            expect_integer(value, false);
            if ((int64_t)(0 - value) < 0) {
                expect_integer(0 - value, true);
            }
        }
    }
}

Test(codec, the_other_tokens_have_their_bytes)
{
    rk__strbuf s = RK__STRBUF_INIT;
    char text[300];
    memset(text, 'x', sizeof text);
    rk__pack_nil(&s), EXPECT_BYTES(&s, "\xc0");
    rk__pack_bool(&s, true), EXPECT_BYTES(&s, "\xc3");
    rk__pack_bool(&s, false), EXPECT_BYTES(&s, "\xc2");
    rk__pack_float(&s, 1.5f), EXPECT_BYTES(&s, "\xca\x3f\xc0\0\0");
    rk__pack_double(&s, 1.5), EXPECT_BYTES(&s, "\xcb\x3f\xf8\0\0\0\0\0\0");
    rk__pack_str(&s, "", 0), EXPECT_BYTES(&s, "\xa0");
    rk__pack_str(&s, "abc", 3), EXPECT_BYTES(&s, "\xa3"
                                                 "abc");
    rk__pack_bin(&s, "abc", 3), EXPECT_BYTES(&s, "\xc4\x03"
                                                 "abc");
    rk__pack_array(&s, 15), EXPECT_BYTES(&s, "\x9f");
    rk__pack_array(&s, 16), EXPECT_BYTES(&s, "\xdc\x00\x10");
    rk__pack_array(&s, 65536), EXPECT_BYTES(&s, "\xdd\x00\x01\x00\x00");
    rk__pack_map(&s, 2), EXPECT_BYTES(&s, "\x82");
    rk__pack_map(&s, 16), EXPECT_BYTES(&s, "\xde\x00\x10");
    rk__pack_ext(&s, -2, "abcd", 4), EXPECT_BYTES(&s, "\xd6\xfe"
                                                      "abcd");
    rk__pack_ext(&s, 5, "abc", 3), EXPECT_BYTES(&s, "\xc7\x03\x05"
                                                    "abc");
    rk__pack_str(&s, text, 32);
    cr_expect(s.size == 34 && (uint8_t)s.bytes[0] == 0xd9 && s.bytes[1] == 32);
    rk__strbuf_clear(&s);
    rk__pack_str(&s, text, 300);
    cr_expect(s.size == 303 && (uint8_t)s.bytes[0] == 0xda);
    rk__strbuf_free(&s);
}

Test(codec, tokens_read_back)
{
    static const char bytes[] =
        "\xd0\x80\xcf\xff\xff\xff\xff\xff\xff\xff\xff\xca\x3f\xc0\0\0\xd6\xfe"
        "abcd\xc0\xc3\xd9\x02hi";
    rk__reader r;
    rk__token t;
    rk__reader_init(&r, bytes, sizeof bytes - 1);
    cr_assert(rk__read_token(&r, &t) == 0 && t.kind == RK__TOKEN_INT && t.integer == -128);
    cr_assert(rk__read_token(&r, &t) == 0 && t.kind == RK__TOKEN_UINT);
    cr_assert_eq(t.unsigned_integer, UINT64_MAX);
    cr_assert(rk__read_token(&r, &t) == 0 && t.kind == RK__TOKEN_FLOAT && t.number == 1.5);
    cr_assert(rk__read_token(&r, &t) == 0 && t.kind == RK__TOKEN_EXT && t.ext == -2);
    cr_assert(t.size == 4 && memcmp(t.bytes, "abcd", 4) == 0);
    cr_assert(rk__read_token(&r, &t) == 0 && t.kind == RK__TOKEN_NIL);
    cr_assert(rk__read_token(&r, &t) == 0 && t.kind == RK__TOKEN_BOOL && t.boolean);
    cr_assert(rk__read_token(&r, &t) == 0 && t.kind == RK__TOKEN_STR && t.size == 2);
    cr_assert_eq(rk__read_token(&r, &t), RK_EFORMAT, "nothing is left");
}

/* ---- typed messages ---- */

static rk_message *unpack(const void *bytes, size_t size)
{
    rk_message *m = NULL;
    cr_assert_eq(rk_message_unpack(&m, bytes, size), 0, "%s", rk_errdetail());
    return m;
}

static void random_envelope(dice *d, rk_message *m)
{
    if (below(d, 2)) {
        rk_message_set_priority(m, (int)below(d, 256));
    }
    if (below(d, 2)) {
        (void)rk__body_id(m->body);
    }
    if (below(d, 2)) {
        m->correlation = rk__id_new();
    }
}

static void expect_same(rk_message *a, rk_message *b, uint64_t seed)
{
    rk__id p = {0, 0}, q = {0, 0};
    cr_assert_eq(a->body->type, b->body->type);
    const char *field = first_difference(a->body->type, rk_message_data(a), rk_message_data(b));
    cr_assert_null(field, "seed %llu: field %s", (unsigned long long)seed, field);
    cr_assert_eq(rk__body_id_peek(a->body, &p), rk__body_id_peek(b->body, &q));
    cr_assert_eq(memcmp(&p, &q, sizeof p), 0);
    cr_assert_eq(memcmp(&a->correlation, &b->correlation, sizeof p), 0);
    cr_assert_eq(a->priority, b->priority);
}

/* Every shorter input must fail, and as malformed data. Reads at the very end of a heap block, so
 * that ASan sees one byte too many. */
static void truncate_everywhere(const char *bytes, size_t size, uint64_t seed)
{
    size_t step = size < 400 ? 1 : size / 200;
    for (size_t n = 0; n < size; n += step) {
        char *copy = malloc(n + 1);
        rk_message *m = NULL;
        memcpy(copy + 1, bytes, n);
        int rc = rk_message_unpack(&m, copy + 1, n);
        cr_assert_eq(rc, RK_EFORMAT, "seed %llu: %zu of %zu bytes gave %d (%s)",
                     (unsigned long long)seed, n, size, rc, rk_errdetail());
        cr_assert_null(m);
        free(copy);
    }
}

static void round_trip(dice *d, const rk_type *type, uint64_t seed)
{
    rk_message *m;
    void *bytes, *again;
    size_t size, size_again;
    cr_assert_eq(rk_message_new(&m, type), 0);
    random_struct(d, type, rk_message_data(m));
    random_envelope(d, m);
    cr_assert_eq(rk_message_pack(m, &bytes, &size), 0);
    rk_message *copy = unpack(bytes, size);
    expect_same(m, copy, seed);
    cr_assert_eq(rk_message_pack(copy, &again, &size_again), 0);
    cr_assert(size == size_again && memcmp(bytes, again, size) == 0);
    truncate_everywhere(bytes, size, seed);
    free(again);
    free(bytes);
    rk__delivery_free(copy);
    rk__delivery_free(m);
}

Test(codec, random_messages_of_random_types_round_trip)
{
    enum { TYPES = 150, VALUES = 6 };
    const rk_type *types[TYPES];
    const char *given = getenv("RK_SEED");
    uint64_t seed = given ? strtoull(given, NULL, 0) : 42;
    dice d = {seed};
    for (size_t i = 0; i < TYPES; i++) {
        char name[32];
        snprintf(name, sizeof name, "Random%zu", i);
        cr_assert_eq(random_type(&d, name, types, i, &types[i]), 0, "%s", rk_errdetail());
        for (int k = 0; k < VALUES; k++) {
            round_trip(&d, types[i], seed);
        }
    }
}

static const rk_type *tick(void)
{
    static const rk_field fields[] = {
        {"price", "f64"}, {"n", "i16"},    {"f", "f32"},     {"on", "bool"},     {"v", "f32[4]"},
        {"u", "u8[4]"},   {"id", "uuid"},  {"p", "pid"},     {"s", "string[4]"}, {"b", "bytes[4]"},
        {"w", "f64[4]"},  {"q", "i64[2]"}, {"ok", "bool[4]"}};
    const rk_type *type;
    cr_assert_eq(rk_message_define(&type, "Tick", fields, COUNT(fields)), 0);
    return type;
}

Test(codec, a_message_has_the_documented_bytes)
{
    const rk_type *type;
    rk_message *m;
    void *bytes;
    size_t size;
    static const rk_field fields[] = {{"a", "u8"}, {"x", "f32"}, {"t", "string[8]"}};
    static const char expected[] =
        "\x85\xa6__type\xa5Three\xa8priority\xcc\xc8\xa1x\xca\x3f\xc0\0\0"
        "\xa1"
        "a\x05\xa1t\xa2hi";
    cr_assert_eq(rk_message_define(&type, "Three", fields, 3), 0);
    cr_assert_eq(rk_message_new(&m, type), 0);
    rk_message_set_priority(m, 200);
    cr_assert_eq(rk_set_int(m, "a", 5), 0);
    cr_assert_eq(rk_set_number(m, "x", 1.5), 0);
    cr_assert_eq(rk_set_bytes(m, "t", "hi", 2), 0);
    cr_assert_eq(rk_message_pack(m, &bytes, &size), 0);
    cr_assert(size == sizeof expected - 1 && memcmp(bytes, expected, size) == 0);
    free(bytes);
    rk__delivery_free(m);
}

/* ---- forms that are accepted ---- */

/* {"__type": "Tick", ...}: `rest` has `pairs` further pairs. */
static int try_tick(rk_message **out, uint32_t pairs, const void *rest, size_t size)
{
    rk__strbuf s = RK__STRBUF_INIT;
    tick();
    rk__pack_map(&s, pairs + 1);
    rk__pack_str(&s, "__type", 6);
    rk__pack_str(&s, "Tick", 4);
    rk__strbuf_add(&s, rest, size);
    int rc = rk_message_unpack(out, s.bytes, s.size);
    rk__strbuf_free(&s);
    return rc;
}

#define TRY_TICK(out, pairs, rest) try_tick((out), (pairs), (rest), sizeof(rest) - 1)

static rk_message *accepted(uint32_t pairs, const void *rest, size_t size)
{
    rk_message *m = NULL;
    cr_assert_eq(try_tick(&m, pairs, rest, size), 0, "%s", rk_errdetail());
    return m;
}

#define ACCEPTED(pairs, rest) accepted((pairs), (rest), sizeof(rest) - 1)

Test(codec, numbers_convert_when_nothing_is_lost)
{
    int64_t n;
    double d;
    rk_message *m = ACCEPTED(3, "\xa1n\xcb\x40\x08\0\0\0\0\0\0" /* 3.0 */
                                "\xa5price\x07"
                                "\xa1"
                                "f\xcb\x3f\xb9\x99\x99\x99\x99\x99\x9a" /* 0.1 */);
    cr_expect(rk_get_int(m, "n", &n) == 0 && n == 3);
    cr_expect(rk_get_number(m, "price", &d) == 0 && d == 7);
    cr_expect(rk_get_number(m, "f", &d) == 0 && d == (double)0.1f);
    rk__delivery_free(m);
}

static void expect_floats(rk_message *m, const char *field, size_t count)
{
    const void *values;
    size_t n;
    cr_assert_eq(rk_get_array(m, field, &values, &n), 0);
    cr_assert_eq(n, count);
    for (size_t i = 0; i < n; i++) {
        cr_assert_eq(*field == 'v' ? (double)((const float *)values)[i]
                                   : ((const double *)values)[i],
                     (double)(i + 1));
    }
    rk__delivery_free(m);
}

#define ND(mark, dtype, shape)                                                                     \
    "\x84\xab__ndarray__" mark "\xa5"                                                              \
    "dtype" dtype "\xa5shape" shape

Test(codec, arrays_come_as_lists_and_as_ndarrays)
{
    expect_floats(ACCEPTED(1, "\xa1v\x93\x01\xca\x40\0\0\0\x03"), "v", 3);
    expect_floats(
        ACCEPTED(1, "\xa1v" ND("\xc3", "\xa3<f4", "\x91\x02") "\xa4"
                                                              "data\xc4\x08\0\0\x80\x3f\0\0\0\x40"),
        "v", 2);
    expect_floats(ACCEPTED(1, "\xa1v" ND("\xc3", "\xa3>f4",
                                         "\x92\x01\x02") "\xa4"
                                                         "data\xc4\x08\x3f\x80\0\0\x40\0\0\0"),
                  "v", 2);
    expect_floats(ACCEPTED(1, "\xa1w" ND("\xc3",
                                         "\xa7"
                                         "float32",
                                         "\x91\x02") "\xa4"
                                                     "data\xc4\x08\0\0\x80\x3f\0\0\0\x40"),
                  "w", 2);
    expect_floats(ACCEPTED(1,
                           "\xa1w" ND("\xc3", "\xa5uint8", "\x91\x03") "\xa4"
                                                                       "data\xc4\x03\x01\x02\x03"),
                  "w", 3);
    expect_floats(
        ACCEPTED(1, "\xa1v" ND("\xc3", "\xa3<i8", "\x91\x01") "\xa4"
                                                              "data\xc4\x08\x01\0\0\0\0\0\0\0"),
        "v", 1);
    /* The bytes under __ndarray__ itself, keys in another order. */
    expect_floats(ACCEPTED(1, "\xa1v\x83\xa5shape\x91\x02\xa5"
                              "dtype\xa2"
                              "f4"
                              "\xab__ndarray__\xc4\x08\0\0\x80\x3f\0\0\0\x40"),
                  "v", 2);
}

Test(codec, signed_elements_keep_their_sign)
{
    const void *values;
    size_t n;
    rk_message *m =
        ACCEPTED(1, "\xa1q" ND("\xc3", "\xa3>i2", "\x91\x02") "\xa4"
                                                              "data\xc4\x04\xff\xfe\x7f\xff");
    cr_assert(rk_get_array(m, "q", &values, &n) == 0 && n == 2);
    cr_assert_eq(((const int64_t *)values)[0], -2);
    cr_assert_eq(((const int64_t *)values)[1], 32767);
    rk__delivery_free(m);
}

Test(codec, uuids_come_in_three_forms)
{
    static const char expected[16] =
        "\x12\x3e\x45\x67\xe8\x9b\x12\xd3\xa4\x56\x42\x66\x14\x17\x40\0";
    rk_message *forms[] = {
        ACCEPTED(1, "\xa2id\xc4\x10\x12\x3e\x45\x67\xe8\x9b\x12\xd3\xa4\x56\x42\x66\x14\x17\x40\0"),
        ACCEPTED(1, "\xa2id\xd9\x24"
                    "123E4567-e89b-12d3-a456-426614174000"),
        ACCEPTED(1, "\xa2id\x81\xac__uuid_bin__\xc4\x10"
                    "\x12\x3e\x45\x67\xe8\x9b\x12\xd3\xa4\x56\x42\x66\x14\x17\x40\0")};
    for (size_t i = 0; i < COUNT(forms); i++) {
        const void *bytes;
        size_t size;
        cr_assert(rk_get_bytes(forms[i], "id", &bytes, &size) == 0 && size == 16);
        cr_assert_eq(memcmp(bytes, expected, 16), 0, "form %zu", i);
        rk__delivery_free(forms[i]);
    }
}

Test(codec, the_envelope_is_taken_and_unknown_parts_of_it_skipped)
{
    uint8_t id[16];
    rk__id made;
    rk_message *m = ACCEPTED(7, "\xa8priority\x07\xa4"
                                "from\x81\xa1x\x01\xa4sent\xc0\xa4type\xa1z"
                                "\xaamessage_id\x81\xac__uuid_bin__\xc4\x10"
                                "0123456789abcdef"
                                "\xae"
                                "correlation_id\xc4\x10"
                                "fedcba9876543210"
                                "\xa1n\x05");
    cr_assert_eq(rk_message_priority(m), 7);
    rk_message_id(m, id);
    cr_assert_eq(memcmp(id, "0123456789abcdef", 16), 0);
    cr_assert(rk_message_correlation(m, id));
    cr_assert_eq(memcmp(id, "fedcba9876543210", 16), 0);
    cr_assert_eq(rk_message_from(m), RK_NOBODY, "nobody can forge a sender");
    rk__delivery_free(m);
    m = ACCEPTED(2, "\xae"
                    "correlation_id\xc0\xaamessage_id\xc0");
    cr_assert(!rk_message_correlation(m, id) && !rk__body_id_peek(m->body, &made));
    rk__delivery_free(m);
}

/* ---- refusals ---- */

static void refused(uint32_t pairs, const void *rest, size_t size, int code, const char *part)
{
    rk_message *m = NULL;
    int rc = try_tick(&m, pairs, rest, size);
    cr_expect_eq(rc, code, "expected %s, got %s (%s)", part, rk_err_name(rc), rk_errdetail());
    cr_expect_null(m);
    cr_expect(strstr(rk_errdetail(), part), "'%s' is not in '%s'", part, rk_errdetail());
    cr_expect(strncmp(rk_errdetail(), "Tick: ", 6) == 0, "%s", rk_errdetail());
}

#define REFUSED(pairs, rest, code, part) refused((pairs), (rest), sizeof(rest) - 1, (code), (part))

Test(codec, wrong_fields_are_named)
{
    REFUSED(1, "\xa3xyz\x01", RK_ENOENT, "no field 'xyz'");
    REFUSED(1, "\x01\x01", RK_EFORMAT, "keys");
    REFUSED(2, "\xa1n\x01\xa1n\x02", RK_EFORMAT, "'n' is there twice");
    REFUSED(1, "\xa1n\xa1z", RK_ETYPE, "field 'n': expected i16, got a string");
    REFUSED(1, "\xa1n\xc0", RK_ETYPE, "got nil");
    REFUSED(1, "\xa1n\xc3", RK_ETYPE, "got a bool");
    REFUSED(1, "\xa1n\xcd\x80\x00", RK_ERANGE, "got 32768");
    REFUSED(1, "\xa1n\xcb\x3f\xf8\0\0\0\0\0\0", RK_ETYPE, "1.5");
    REFUSED(1,
            "\xa1"
            "f\xcb\x7f\xe0\0\0\0\0\0\0",
            RK_ERANGE, "f32");
    REFUSED(1, "\xa2on\x01", RK_ETYPE, "bool");
    REFUSED(1, "\xa1p\xff", RK_ERANGE, "pid");
    REFUSED(1, "\xa1p\xcb\x3f\xf0\0\0\0\0\0\0", RK_ETYPE, "pid");
    REFUSED(1, "\xa1s\xa5hello", RK_ERANGE, "at most 4 bytes), got 5");
    REFUSED(1, "\xa1s\xc4\x01x", RK_ETYPE, "string[4]");
    REFUSED(1, "\xa1v\x95\1\2\3\4\5", RK_ERANGE, "at most 4 elements), got 5");
    REFUSED(1, "\xa1v\x92\1\xa1x", RK_ETYPE, "field 'v[2]': expected f32, got a string");
    REFUSED(1, "\xa1v\x07", RK_ETYPE, "f32[4]");
    REFUSED(1, "\xa2id\xc4\x02hi", RK_ETYPE, "uuid");
    REFUSED(1, "\xa2id\x81\xa1x\x01", RK_ETYPE, "uuid");
    REFUSED(1, "\xa8priority\xcd\x01\x00", RK_ERANGE, "priority");
    REFUSED(1, "\xa8priority\xa1x", RK_ETYPE, "priority");
    REFUSED(1, "\xaamessage_id\x01", RK_ETYPE, "message_id");
    REFUSED(1,
            "\xa6__type\xa3"
            "abc",
            RK_ETYPE, "expected 'Tick', got abc");
    REFUSED(1, "\xa1n\x01\x02", RK_EFORMAT, "1 bytes after");
    REFUSED(1, "\xa1n\xc1", RK_EFORMAT, "invalid byte 0xc1");
}

Test(codec, wrong_ndarrays_say_what_is_wrong)
{
    REFUSED(1,
            "\xa1v" ND("\xc3", "\xa3<f2", "\x91\x01") "\xa4"
                                                      "data\xc4\x02\0\0",
            RK_ETYPE, "unknown dtype");
    REFUSED(1,
            "\xa1v" ND("\xc3", "\xa3<f4", "\x91\x02") "\xa4"
                                                      "data\xc4\x04\0\0\0\0",
            RK_EFORMAT, "the shape has 2 elements of 4 bytes, but 4 bytes");
    REFUSED(1,
            "\xa1v" ND("\xc3", "\xa3<f4", "\x91\xff") "\xa4"
                                                      "data\xc4\0",
            RK_ETYPE, "shape");
    REFUSED(1,
            "\xa1v" ND("\xc3", "\xa3<f4", "\x92\xcf\x80\0\0\0\0\0\0\0\x02") "\xa4"
                                                                            "data\xc4\0",
            RK_ETYPE, "shape");
    REFUSED(1,
            "\xa1v" ND("\xc3", "\xa3<f4", "\x92\xcf\x40\0\0\0\0\0\0\0\x04") "\xa4"
                                                                            "data\xc4\0",
            RK_ERANGE, "shape");
    REFUSED(1,
            "\xa1v" ND("\xc3", "\xa2u1", "\x91\x05") "\xa4"
                                                     "data\xc4\5\1\2\3\4\5",
            RK_ERANGE, "at most 4 elements");
    REFUSED(1,
            "\xa1u" ND("\xc3", "\xa2i1", "\x91\x01") "\xa4"
                                                     "data\xc4\1\xff",
            RK_ERANGE, "-1");
    REFUSED(1,
            "\xa2ok" ND("\xc3", "\xa1?", "\x91\x01") "\xa4"
                                                     "data\xc4\1\2",
            RK_ERANGE, "bool");
    REFUSED(1,
            "\xa1v" ND("\xc2", "\xa3<f4", "\x91\x01") "\xa4"
                                                      "data\xc4\0",
            RK_ETYPE, "__ndarray__");
    REFUSED(1, "\xa1v\x81\xa5shape\x91\x01", RK_EFORMAT, "no __ndarray__");
    REFUSED(1, "\xa1v\x81\xab__ndarray__\xc3", RK_EFORMAT, "no dtype");
    REFUSED(1,
            "\xa1v\x81\xa5order\xa1"
            "C",
            RK_EFORMAT, "'order'");
}

Test(codec, a_type_that_nobody_defined_is_an_error)
{
    rk_message *m = NULL;
    static const char bytes[] = "\x81\xa6__type\xa6Nobody", number[] = "\x81\xa6__type\x01";
    tick();
    cr_assert_eq(rk_message_unpack(&m, bytes, sizeof bytes - 1), RK_ENOENT);
    cr_assert(strstr(rk_errdetail(), "Nobody") && strstr(rk_errdetail(), "Tick"));
    cr_assert_eq(rk_message_unpack(&m, number, sizeof number - 1), RK_EFORMAT);
    cr_assert_null(m);
}

/* ---- untyped bodies and hostile bytes ---- */

Test(codec, other_values_stay_messagepack)
{
    static const char *const values[] = {"\x07", "\x93\x01\x02\x03",
                                         "\x82\xa1"
                                         "a\x01\xa6__type\xa1T",
                                         "\x80", "\xa6__type"};
    for (size_t i = 0; i < COUNT(values); i++) {
        size_t size = strlen(values[i]), again;
        void *bytes;
        rk_message *m = unpack(values[i], size);
        cr_assert_null(rk_message_type(m));
        cr_assert(rk_message_size(m) == size && !memcmp(rk_message_data(m), values[i], size));
        cr_assert_eq(rk_message_pack(m, &bytes, &again), 0);
        cr_assert(again == size && !memcmp(bytes, values[i], size));
        cr_assert_eq(rk_set_int(m, "x", 1), RK_ETYPE);
        free(bytes);
        rk__delivery_free(m);
    }
}

Test(codec, hostile_headers_are_refused_without_allocating)
{
    static const struct {
        const char *bytes;
        size_t size;
    } cases[] = {
        {"", 0},
        {"\xc1", 1},
        {"\xdd\xff\xff\xff\xff", 5}, /* an array of 4 G items */
        {"\xdf\xff\xff\xff\xff", 5}, /* a map of 4 G pairs */
        {"\xdf\x80\0\0\0\1\1", 7},   /* twice the count does not fit 32 bits */
        {"\xc6\xff\xff\xff\xff"
         "x",
         6}, /* 4 GiB of binary data */
        {"\xdb\xff\xff\xff\xff"
         "x",
         6},                            /* a 4 GiB string */
        {"\xc9\xff\xff\xff\xff\1x", 7}, /* a 4 GiB extension */
        {"\x93\x01\x02", 3},
        {"\x81\x01", 2},
        {"\xa5hi", 3},
        {"\x01\x02", 2}, /* two values */
        {"\xcb\0\0\0", 4},
        {"\xcf\0", 2},
        {"\xd9", 1},
    };
    for (size_t i = 0; i < COUNT(cases); i++) {
        rk_message *m = NULL;
        char *copy = malloc(cases[i].size + 1);
        memcpy(copy + 1, cases[i].bytes, cases[i].size);
        cr_expect_eq(rk_message_unpack(&m, copy + 1, cases[i].size), RK_EFORMAT, "case %zu", i);
        cr_expect_eq(rk_message_new_packed(&m, copy + 1, cases[i].size), RK_EFORMAT, "case %zu", i);
        cr_expect_null(m);
        free(copy);
    }
}

Test(codec, depth_has_a_limit)
{
    char bytes[RK__PACK_DEPTH + 2];
    rk_message *m = NULL;
    memset(bytes, 0x91, sizeof bytes);
    bytes[RK__PACK_DEPTH] = 0;
    cr_assert_eq(rk_message_unpack(&m, bytes, RK__PACK_DEPTH + 1), 0, "%s", rk_errdetail());
    rk__delivery_free(m);
    bytes[RK__PACK_DEPTH] = (char)0x91;
    bytes[RK__PACK_DEPTH + 1] = 0;
    m = NULL;
    cr_assert_eq(rk_message_unpack(&m, bytes, RK__PACK_DEPTH + 2), RK_ELIMIT);
    cr_assert_null(m);
    /* Inside a typed message, under a key that is skipped: the map around it counts. */
    char rest[5 + RK__PACK_DEPTH + 1] = "\xa4"
                                        "from";
    memset(rest + 5, 0x91, RK__PACK_DEPTH);
    rest[5 + RK__PACK_DEPTH] = 0;
    cr_assert_eq(try_tick(&m, 1, rest, sizeof rest), RK_ELIMIT);
    cr_assert_eq(try_tick(&m, 1, rest, 5), RK_EFORMAT);
}

/* ---- any ---- */

static rk_message *any_from(const char *bytes, size_t size, int code)
{
    const rk_type *type;
    rk_message *m = NULL;
    cr_assert_eq(rk_message_define(&type, "Any", (rk_field[]){{"v", "any[8]"}}, 1), 0);
    cr_assert_eq(rk_message_unpack(&m, bytes, size), code, "%s", rk_errdetail());
    return m;
}

#define ANY_HEAD                                                                                   \
    "\x82\xa6__type\xa3"                                                                           \
    "Any\xa1v"

Test(codec, any_is_the_value_itself)
{
    static const char form[] = ANY_HEAD "\x81\xa1k\x92\1\xc0";
    const void *bytes;
    void *packed;
    size_t size;
    rk_message *m = any_from(form, sizeof form - 1, 0);
    cr_assert(rk_get_bytes(m, "v", &bytes, &size) == 0 && size == 6);
    cr_assert_eq(memcmp(bytes, "\x81\xa1k\x92\1\xc0", 6), 0);
    cr_assert_eq(rk_message_pack(m, &packed, &size), 0);
    cr_assert_eq(size, sizeof form - 1);
    cr_assert_eq(memcmp(packed, form, size), 0);
    free(packed);
    rk__delivery_free(m);
    m = any_from(ANY_HEAD "\xc0", sizeof ANY_HEAD, 0);
    cr_assert(rk_get_bytes(m, "v", &bytes, &size) == 0 && size == 0);
    cr_assert_eq(rk_message_pack(m, &packed, &size), 0);
    cr_assert_eq(size, sizeof ANY_HEAD);
    cr_assert_eq(((char *)packed)[size - 1], '\xc0');
    free(packed);
    rk__delivery_free(m);
}

Test(codec, any_is_checked_both_ways)
{
    static const char deep[] = ANY_HEAD "\x91\x91\x91\x91\x91\x91\x91\x91\x91"
                                        "\x91\x91\x91\x91\x91\x91\x91\x91\1";
    cr_assert_null(any_from(ANY_HEAD "\xa8xxxxxxxx", sizeof ANY_HEAD + 8, RK_ERANGE));
    cr_assert(strstr(rk_errdetail(), "Any: field 'v': expected any[8]"));
    cr_assert_null(any_from(ANY_HEAD "\x92\1", sizeof ANY_HEAD + 1, RK_EFORMAT));
    cr_assert_null(any_from(deep, sizeof deep - 1, RK_ELIMIT));
    rk_message *m = any_from(ANY_HEAD "\1", sizeof ANY_HEAD, 0);
    void *packed;
    size_t size;
    /* The struct {uint32_t v_count; uint8_t v[8];}, written by somebody who does it wrong. */
    memcpy(rk_message_data(m), "\2\0\0\0\x92\1", 6);
    cr_assert_eq(rk_message_pack(m, &packed, &size), RK_EFORMAT);
    cr_assert(strstr(rk_errdetail(), "Any: field 'v': "));
    rk__delivery_free(m);
}
