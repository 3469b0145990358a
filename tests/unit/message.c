/* message.c -- bodies, handles, envelopes, and fields by name. */
#include <criterion/criterion.h>
#include <math.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include "memory/pool.h"
#include "message/message.h"

static const rk_type *sample(void)
{
    const rk_type *inner, *type;
    static const rk_field point[] = {{"x", "f32"}, {"n", "i16"}};
    static const rk_field fields[] = {{"flag", "bool"}, {"small", "i8"},       {"wide", "u64"},
                                      {"price", "f64"}, {"ratio", "f32"},      {"id", "uuid"},
                                      {"who", "pid"},   {"text", "string[8]"}, {"raw", "bytes[4]"},
                                      {"v", "f32[4]"},  {"at", "Point"}};
    cr_assert_eq(rk_message_define(&inner, "Point", point, 2), 0);
    cr_assert_eq(rk_message_define(&type, "Sample", fields, 11), 0, "%s", rk_errdetail());
    return type;
}

static rk_message *fresh(void)
{
    rk_message *m = NULL;
    cr_assert_eq(rk_message_new(&m, sample()), 0);
    return m;
}

static int64_t live(void)
{
    rk__pool_stats stats;
    rk__pool_stats_get(&stats);
    return stats.live;
}

/* ---- bodies and handles ---- */

Test(message, a_new_message_is_zeroed_and_aligned)
{
    /* A recycled block must be zeroed as well as a fresh one. */
    rk_message *m = fresh();
    memset(rk_message_data(m), 0xee, rk_message_size(m));
    rk__delivery_free(m);
    m = fresh();
    const uint8_t *data = rk_message_data(m);
    cr_assert_eq(rk_message_size(m), rk_type_size(sample()));
    cr_assert_eq((uintptr_t)data % 16, 0);
    for (size_t i = 0; i < rk_message_size(m); i++) {
        cr_assert_eq(data[i], 0);
    }
    cr_assert_eq(rk_message_priority(m), RK_PRIORITY_NORMAL);
    cr_assert_eq(rk_message_from(m), RK_NOBODY);
    cr_assert_eq(rk_message_type(m), sample());
    rk__delivery_free(m);
}

Test(message, handles_share_one_body_and_the_last_frees_it)
{
    int64_t before = live();
    rk_message *m = fresh(), *a, *b;
    rk_message_set_priority(m, 200);
    cr_assert_eq(rk_message_share(&a, m), 0);
    cr_assert_eq(rk_message_share(&b, a), 0);
    cr_assert(a != m && b != a && b != m);
    cr_assert_eq(rk_message_data(a), rk_message_data(m));
    cr_assert_eq(rk_message_priority(b), 200);
    cr_assert_eq(m->body->refs, 3);
    rk__delivery_free(m);
    cr_assert_eq(rk_set_int(a, "small", 1), RK_ESTATE, "still shared");
    rk__delivery_free(b);
    cr_assert_eq(rk_set_int(a, "small", 1), 0, "alone again");
    rk__delivery_free(a);
    rk__delivery_free(NULL);
    cr_assert_eq(live(), before);
}

Test(message, the_delivery_inside_a_body_is_used_when_free)
{
    rk_message *m = fresh(), *twin, *third;
    cr_assert_eq(m, &m->body->embedded);
    cr_assert_eq(rk_message_share(&twin, m), 0);
    cr_assert_neq(twin, &m->body->embedded);
    rk__delivery_free(m);
    cr_assert_eq(rk_message_share(&third, twin), 0);
    cr_assert_eq(third, &twin->body->embedded, "it was given back");
    rk__delivery_free(twin);
    rk__delivery_free(third);
}

Test(message, received_messages_are_immutable)
{
    rk_message *m = fresh();
    m->flags |= RK__RECEIVED;
    cr_assert_eq(rk_set_int(m, "small", 1), RK_ESTATE);
    cr_assert(strstr(rk_errdetail(), "received"));
    rk__delivery_free(m);
}

Test(message, the_id_is_made_once_and_belongs_to_the_body)
{
    rk_message *m = fresh(), *twin, *other = fresh();
    uint8_t a[16], b[16], c[16];
    rk__id id;
    cr_assert_eq(rk_message_share(&twin, m), 0);
    cr_assert(!rk__body_id_peek(m->body, &id));
    rk_message_id(m, a);
    rk_message_id(twin, b);
    rk_message_id(other, c);
    cr_assert_eq(memcmp(a, b, 16), 0);
    cr_assert_neq(memcmp(a, c, 16), 0);
    cr_assert(rk__body_id_peek(m->body, &id) && rk__id_is_set(id));
    cr_assert(!rk_message_correlation(m, c));
    m->correlation = id;
    cr_assert(rk_message_correlation(m, c));
    cr_assert_eq(memcmp(a, c, 16), 0);
    rk__delivery_free(m);
    rk__delivery_free(twin);
    rk__delivery_free(other);
}

struct racer {
    rk__body *body;
    pthread_barrier_t *barrier;
    rk__id id;
};

static void *race(void *arg)
{
    struct racer *r = arg;
    pthread_barrier_wait(r->barrier);
    r->id = rk__body_id(r->body);
    rk_message *m = NULL;
    rk__body_retain(r->body);
    m = rk__delivery_new(r->body);
    rk__delivery_free(m);
    return NULL;
}

Test(message, racing_threads_get_one_whole_id)
{
    for (int round = 0; round < 200; round++) {
        pthread_t threads[4];
        struct racer racers[4];
        pthread_barrier_t barrier;
        rk__body *body = rk__body_new(sample(), 64);
        pthread_barrier_init(&barrier, NULL, 4);
        for (int i = 0; i < 4; i++) {
            racers[i] = (struct racer){body, &barrier, {0, 0}};
            pthread_create(&threads[i], NULL, race, &racers[i]);
        }
        for (int i = 0; i < 4; i++) {
            pthread_join(threads[i], NULL);
            cr_assert(rk__id_is_set(racers[i].id));
            cr_assert_eq(memcmp(&racers[i].id, &racers[0].id, sizeof(rk__id)), 0);
        }
        cr_assert_eq(body->refs, 1);
        cr_assert_eq(body->embedded_used, 0);
        rk__body_release(body);
        pthread_barrier_destroy(&barrier);
    }
}

/* ---- fields ---- */

Test(message, fields_read_back_what_was_set)
{
    rk_message *m = fresh();
    int64_t i = 0;
    double d = 0;
    const void *bytes;
    size_t size;
    cr_assert_eq(rk_set_int(m, "small", -128), 0);
    cr_assert_eq(rk_set_number(m, "wide", 0x1p63), 0);
    cr_assert_eq(rk_set_int(m, "price", 7), 0);
    cr_assert_eq(rk_set_number(m, "ratio", 0.1), 0);
    cr_assert_eq(rk_set_int(m, "who", -1), 0);
    cr_assert_eq(rk_set_int(m, "flag", 1), 0);
    cr_assert_eq(rk_set_bytes(m, "text", "hello", 5), 0);
    cr_assert_eq(rk_set_bytes(m, "raw", "\0\1\2\3", 4), 0);
    cr_assert_eq(rk_set_number(m, "at.x", 2.5), 0);
    cr_assert_eq(rk_set_array(m, "v", (float[]){1, 2, 3}, 3), 0);
    cr_assert(rk_get_int(m, "small", &i) == 0 && i == -128);
    cr_assert(rk_get_number(m, "wide", &d) == 0 && d == 0x1p63);
    cr_assert(rk_get_int(m, "price", &i) == 0 && i == 7);
    cr_assert(rk_get_number(m, "ratio", &d) == 0 && d == (double)0.1f);
    cr_assert(rk_get_int(m, "who", &i) == 0 && i == -1);
    cr_assert(rk_get_int(m, "flag", &i) == 0 && i == 1);
    cr_assert(rk_get_number(m, "at.x", &d) == 0 && d == 2.5);
    cr_assert(rk_get_bytes(m, "text", &bytes, &size) == 0 && size == 5);
    cr_assert_eq(memcmp(bytes, "hello", 6), 0, "shorter strings end in a NUL");
    cr_assert(rk_get_bytes(m, "raw", &bytes, &size) == 0 && size == 4);
    cr_assert(rk_get_array(m, "v", &bytes, &size) == 0 && size == 3);
    cr_assert_eq(((const float *)bytes)[2], 3);
    rk__delivery_free(m);
}

Test(message, uuid_fields_are_sixteen_bytes)
{
    rk_message *m = fresh();
    const void *bytes;
    size_t size;
    cr_assert_eq(rk_set_bytes(m, "id", "0123456789abcdef", 16), 0);
    cr_assert(rk_get_bytes(m, "id", &bytes, &size) == 0 && size == 16);
    cr_assert_eq(memcmp(bytes, "0123456789abcdef", 16), 0);
    cr_assert_eq(rk_set_bytes(m, "id", "0123", 4), RK_ERANGE);
    rk__delivery_free(m);
}

static void expect_fail(int rc, int code, const char *part)
{
    cr_expect_eq(rc, code, "got %s (%s)", rk_err_name(rc), rk_errdetail());
    cr_expect(strstr(rk_errdetail(), part), "'%s' is not in '%s'", part, rk_errdetail());
}

Test(message, wrong_values_are_refused_and_change_nothing)
{
    rk_message *m = fresh();
    double d = 5;
    int64_t i = 5;
    expect_fail(rk_set_int(m, "small", 128), RK_ERANGE, "i8 (-128 to 127), got 128");
    expect_fail(rk_set_int(m, "small", -129), RK_ERANGE, "got -129");
    expect_fail(rk_set_int(m, "wide", -1), RK_ERANGE, "u64");
    expect_fail(rk_set_int(m, "flag", 2), RK_ERANGE, "bool (0 to 1)");
    expect_fail(rk_set_number(m, "small", 1.5), RK_ETYPE, "expected i8, got 1.5");
    expect_fail(rk_set_number(m, "wide", 0x1p64), RK_ERANGE, "u64");
    expect_fail(rk_set_number(m, "small", (double)NAN), RK_ETYPE, "nan");
    expect_fail(rk_set_number(m, "small", (double)INFINITY), RK_ERANGE, "inf");
    expect_fail(rk_set_number(m, "ratio", 1e300), RK_ERANGE, "f32");
    expect_fail(rk_set_int(m, "text", 1), RK_ETYPE, "string[8]");
    expect_fail(rk_set_bytes(m, "text", "123456789", 9), RK_ERANGE, "at most 8 bytes), got 9");
    expect_fail(rk_set_bytes(m, "price", "x", 1), RK_ETYPE, "f64");
    expect_fail(rk_set_array(m, "v", (float[5]){0}, 5), RK_ERANGE, "at most 4 elements), got 5");
    expect_fail(rk_set_array(m, "price", &d, 1), RK_ETYPE, "f64");
    expect_fail(rk_set_int(m, "v", 1), RK_ETYPE, "rk_set_array");
    expect_fail(rk_set_int(m, "nothing", 1), RK_ENOENT, "price");
    expect_fail(rk_set_int(m, "at.nothing", 1), RK_ENOENT, "'Point' has no field");
    expect_fail(rk_set_int(m, "price.x", 1), RK_ETYPE, "no message type");
    expect_fail(rk_get_number(m, "text", &d), RK_ETYPE, "string[8]");
    expect_fail(rk_get_int(m, "at", &i), RK_ETYPE, "Point");
    cr_assert(d == 5 && i == 5, "out parameters are left alone on failure");
    for (size_t k = 0; k < rk_message_size(m); k++) {
        cr_assert_eq(((uint8_t *)rk_message_data(m))[k], 0);
    }
    rk__delivery_free(m);
}

Test(message, a_count_beyond_the_array_is_never_believed)
{
    rk_message *m = fresh();
    const rk__fielddef *f;
    uint32_t wild = 4000000000u;
    const void *values;
    size_t count;
    cr_assert_eq(rk__type_field(sample(), "v", 1, &f), 0);
    memcpy((char *)rk_message_data(m) + f->count_offset, &wild, 4);
    cr_assert_eq(rk_get_array(m, "v", &values, &count), 0);
    cr_assert_eq(count, 4);
    void *bytes;
    cr_assert_eq(rk_message_pack(m, &bytes, &count), 0);
    free(bytes);
    rk__delivery_free(m);
}

/* ---- any ---- */

static rk_message *with_any(void)
{
    const rk_type *inner, *type;
    rk_message *m = NULL;
    cr_assert_eq(rk_message_define(&inner, "AnyIn", (rk_field[]){{"w", "any"}}, 1), 0);
    cr_assert_eq(
        rk_message_define(&type, "AnyOut", (rk_field[]){{"in", "AnyIn"}, {"v", "any[8]"}}, 2), 0);
    cr_assert_eq(rk_message_new(&m, type), 0);
    return m;
}

Test(message, an_any_field_is_one_whole_value)
{
    const void *bytes;
    size_t size;
    rk_message *m = with_any();
    cr_assert(rk_get_bytes(m, "v", &bytes, &size) == 0 && size == 0);
    cr_assert_eq(rk_set_bytes(m, "v", "\x92\1\xa1x", 4), 0, "%s", rk_errdetail());
    cr_assert_eq(rk_set_bytes(m, "v", "\1\2", 2), RK_EFORMAT, "two values");
    cr_assert(strstr(rk_errdetail(), "field 'v': "));
    cr_assert_eq(rk_set_bytes(m, "v", "\x92\1", 2), RK_EFORMAT, "half of one");
    cr_assert_eq(rk_set_bytes(m, "v", NULL, 0), RK_EFORMAT, "none");
    cr_assert_eq(rk_set_bytes(m, "v", "\xa8xxxxxxxx", 9), RK_ERANGE);
    cr_assert(strstr(rk_errdetail(), "field 'v': expected any[8]"));
    cr_assert_eq(rk_set_int(m, "v", 1), RK_ETYPE);
    cr_assert(rk_get_bytes(m, "v", &bytes, &size) == 0 && size == 4);
    cr_assert_eq(memcmp(bytes, "\x92\1\xa1x", 4), 0, "failures left it as it was");
    cr_assert_eq(rk_set_bytes(m, "v", "\xc0", 1), 0);
    cr_assert(rk_get_bytes(m, "v", &bytes, &size) == 0 && size == 0, "nil is nothing");
    rk__delivery_free(m);
}

Test(message, an_any_field_has_a_depth)
{
    char deep[18];
    rk_message *m = with_any();
    memset(deep, 0x91, sizeof deep);
    deep[16] = 1;
    cr_assert_eq(rk_set_bytes(m, "in.w", deep, 17), 0, "%s", rk_errdetail());
    deep[16] = (char)0x91;
    deep[17] = 1;
    cr_assert_eq(rk_set_bytes(m, "in.w", deep, 18), RK_ELIMIT);
    cr_assert(strstr(rk_errdetail(), "16"));
    rk__delivery_free(m);
}

/* ---- the runtime's own messages ---- */

Test(message, errors_carry_code_and_text_cut_between_characters)
{
    char text[4200];
    int64_t code;
    const void *bytes;
    size_t size;
    memset(text, 'a', sizeof text);
    memcpy(text + 4094, "\xe2\x82\xac\xe2\x82\xac", 6);
    text[4100] = '\0';
    rk_message *m = rk__message_error(RK_EDEAD, text);
    cr_assert(m && (m->flags & RK__ERROR));
    cr_assert(rk_get_int(m, "code", &code) == 0 && code == RK_EDEAD);
    cr_assert(rk_get_bytes(m, "text", &bytes, &size) == 0 && size == 4094);
    rk__delivery_free(m);
}

Test(message, an_end_tells_who_why_where_and_how)
{
    for (int as_exit = 0; as_exit < 2; as_exit++) {
        rk__end end = {.reason = "crashed", .traceback = "here", .normal = as_exit};
        int64_t number;
        const void *bytes;
        size_t size;
        rk_message *m = rk__message_end(0xfedcba9876543210u, &end, as_exit);
        cr_assert_str_eq(rk_type_name(rk_message_type(m)), as_exit ? "exit" : "down");
        cr_assert(rk_get_int(m, "pid", &number) == 0 && (uint64_t)number == 0xfedcba9876543210u);
        cr_assert(rk_get_int(m, "normal", &number) == 0 && number == as_exit);
        cr_assert(rk_get_bytes(m, "reason", &bytes, &size) == 0 && size == 7);
        cr_assert(rk_get_bytes(m, "traceback", &bytes, &size) == 0 && size == 4);
        rk__delivery_free(m);
    }
}

static int freed;
static void count_free(void *data)
{
    freed += *(int *)data;
}

Test(message, a_parcel_is_freed_with_its_delivery_unless_taken)
{
    int one = 1;
    rk_message *m = rk__message_parcel(&one, count_free);
    cr_assert(m->flags & RK__PARCEL);
    rk__delivery_free(m);
    cr_assert_eq(freed, 1);
    m = rk__message_parcel(&one, count_free);
    cr_assert_eq(rk__parcel_take(m), &one);
    cr_assert_null(rk__parcel_take(m));
    rk__delivery_free(m);
    cr_assert_eq(freed, 1);
}

/* ---- out of memory ---- */

static int use_everything(void)
{
    rk_message *m = NULL, *twin = NULL, *copy = NULL, *error = NULL;
    void *bytes = NULL;
    size_t size;
    int rc = rk_message_new(&m, sample());
    rc = rc < 0 ? rc : rk_message_share(&twin, m);
    rc = rc < 0 ? rc : rk_message_pack(m, &bytes, &size);
    rc = rc < 0 ? rc : rk_message_unpack(&copy, bytes, size);
    if (rc == 0) {
        error = rk__message_error(RK_EDEAD, "text");
        rc = error ? 0 : RK_ENOMEM;
    }
    rk__delivery_free(error);
    rk__delivery_free(copy);
    rk__delivery_free(twin);
    rk__delivery_free(m);
    free(bytes);
    return rc;
}

Test(message, every_failed_allocation_is_an_error_and_leaks_nothing)
{
    sample();
    int64_t before = live();
    int rc = RK_ENOMEM, failures = 0;
    for (uint64_t n = 1; rc == RK_ENOMEM && n < 100; n++) {
        rk__pool_fail_after(n);
        rc = use_everything();
        rk__pool_fail_after(0);
        failures += rc == RK_ENOMEM;
        cr_assert_eq(live(), before);
    }
    cr_assert_eq(rc, 0, "%s", rk_errdetail());
    cr_assert_geq(failures, 4);
}
