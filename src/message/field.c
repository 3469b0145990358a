/*
 * field.c -- reads and writes of struct members by field: the checks of rk_set_* and rk_get_*, of
 * MessagePack decoding and of Lua assignments are all these.
 *
 * Entered by the owner of the message only; nothing is shared. Members are copied with memcpy, so
 * that no access depends on the type the compiler believes is there.
 */
#include <float.h>
#include <math.h>
#include <stdio.h>
#include <string.h>
#include "base/error.h"
#include "message/codec.h"
#include "message/schema.h"

static void *element(void *base, const rk__fielddef *f, uint32_t index)
{
    return (char *)base + f->offset + (size_t)index * f->element;
}

/* ---- integers ---- */

/* Range of the integer kinds as one negative and one positive bound. */
static void int_range(rk__kind kind, int64_t *low, uint64_t *high)
{
    static const struct {
        int64_t low;
        uint64_t high;
    } ranges[] = {
        [RK__BOOL] = {0, 1},
        [RK__I8] = {INT8_MIN, INT8_MAX},
        [RK__I16] = {INT16_MIN, INT16_MAX},
        [RK__I32] = {INT32_MIN, INT32_MAX},
        [RK__I64] = {INT64_MIN, INT64_MAX},
        [RK__U8] = {0, UINT8_MAX},
        [RK__U16] = {0, UINT16_MAX},
        [RK__U32] = {0, UINT32_MAX},
        [RK__U64] = {0, UINT64_MAX},
        [RK__F32] = {0, 0},
        [RK__F64] = {0, 0},
        [RK__UUID] = {0, 0},
        [RK__PID] = {0, UINT64_MAX},
    };
    *low = ranges[kind].low;
    *high = ranges[kind].high;
}

static bool is_integer(rk__kind kind)
{
    return kind <= RK__U64 || kind == RK__PID;
}

static int wrong_type(const rk__fielddef *f, const char *what)
{
    char text[96];
    return rk__fail(RK_ETYPE, "field '%s': expected %s, got %s", f->name, rk__field_text(f, text),
                    what);
}

static int out_of_range(const rk__fielddef *f, const char *value)
{
    int64_t low;
    uint64_t high;
    int_range(f->kind, &low, &high);
    return rk__fail(RK_ERANGE, "field '%s': expected %s (%lld to %llu), got %s", f->name,
                    rk__kind_name(f->kind), (long long)low, (unsigned long long)high, value);
}

/* Little endian and big endian alike: the low bytes are taken through the type of their width. */
static void store_bits(void *at, uint32_t size, uint64_t bits)
{
    uint8_t b1 = (uint8_t)bits;
    uint16_t b2 = (uint16_t)bits;
    uint32_t b4 = (uint32_t)bits;
    switch (size) {
    case 1:
        memcpy(at, &b1, 1);
        break;
    case 2:
        memcpy(at, &b2, 2);
        break;
    case 4:
        memcpy(at, &b4, 4);
        break;
    default:
        memcpy(at, &bits, 8);
        break;
    }
}

static void store_number(void *at, rk__kind kind, double value)
{
    float narrow = (float)value;
    if (kind == RK__F32) {
        memcpy(at, &narrow, sizeof narrow);
    } else {
        memcpy(at, &value, sizeof value);
    }
}

int rk__field_set_int(void *base, const rk__fielddef *f, uint32_t index, int64_t value)
{
    if (value >= 0) {
        return rk__field_set_uint(base, f, index, (uint64_t)value);
    }
    if (f->kind == RK__F32 || f->kind == RK__F64) {
        store_number(element(base, f, index), f->kind, (double)value);
        return 0;
    }
    if (!is_integer(f->kind)) {
        return wrong_type(f, "an integer");
    }
    int64_t low;
    uint64_t high;
    int_range(f->kind, &low, &high);
    if (value < low) {
        char text[32];
        snprintf(text, sizeof text, "%lld", (long long)value);
        return out_of_range(f, text);
    }
    store_bits(element(base, f, index), f->element, (uint64_t)value);
    return 0;
}

int rk__field_set_uint(void *base, const rk__fielddef *f, uint32_t index, uint64_t value)
{
    rk_assert(index < f->capacity);
    if (f->kind == RK__F32 || f->kind == RK__F64) {
        store_number(element(base, f, index), f->kind, (double)value);
        return 0;
    }
    if (!is_integer(f->kind)) {
        return wrong_type(f, "an integer");
    }
    int64_t low;
    uint64_t high;
    int_range(f->kind, &low, &high);
    if (value > high) {
        char text[32];
        snprintf(text, sizeof text, "%llu", (unsigned long long)value);
        return out_of_range(f, text);
    }
    store_bits(element(base, f, index), f->element, value);
    return 0;
}

/* ---- numbers ---- */

static int set_float(void *at, const rk__fielddef *f, double value)
{
    if (f->kind == RK__F32 && isfinite(value) && isinf((float)value)) {
        return rk__fail(RK_ERANGE, "field '%s': expected f32 (up to %g), got %g", f->name,
                        (double)FLT_MAX, value);
    }
    store_number(at, f->kind, value);
    return 0;
}

int rk__field_set_number(void *base, const rk__fielddef *f, uint32_t index, double value)
{
    char text[64];
    rk_assert(index < f->capacity);
    if (f->kind == RK__F32 || f->kind == RK__F64) {
        return set_float(element(base, f, index), f, value);
    }
    if (!is_integer(f->kind)) {
        return wrong_type(f, "a number");
    }
    snprintf(text, sizeof text, "%.17g", value);
    if (isnan(value) || (isfinite(value) && value != trunc(value))) {
        return wrong_type(f, text);
    }
    if (value >= -0x1p63 && value < 0x1p63) {
        return rk__field_set_int(base, f, index, (int64_t)value);
    }
    if (value >= 0 && value < 0x1p64) {
        return rk__field_set_uint(base, f, index, (uint64_t)value);
    }
    return out_of_range(f, text);
}

/* ---- counts, strings, bytes ---- */

uint32_t rk__field_count(const void *base, const rk__fielddef *f)
{
    if (f->count_offset == UINT32_MAX) {
        return 1;
    }
    uint32_t count;
    memcpy(&count, (const char *)base + f->count_offset, sizeof count);
    return count < f->capacity ? count : f->capacity;
}

int rk__field_set_count(void *base, const rk__fielddef *f, uint32_t count)
{
    char text[96];
    if (f->count_offset == UINT32_MAX) {
        return wrong_type(f, "a sequence");
    }
    if (count > f->capacity) {
        return rk__fail(RK_ERANGE, "field '%s': expected %s (at most %u %s), got %u", f->name,
                        rk__field_text(f, text), f->capacity, f->array ? "elements" : "bytes",
                        count);
    }
    memcpy((char *)base + f->count_offset, &count, sizeof count);
    return 0;
}

/* Moves the reader behind one value that may be in an `any` field. */
static int skip_any(rk__reader *r)
{
    /* As if it were inside the most types that can be around it. */
    int rc = rk__read_skip(r, RK__NESTING_MAX);
    return rc == RK_ELIMIT
               ? rk__fail(rc, "more than %d containers inside each other", RK__ANY_DEPTH)
               : rc;
}

_Static_assert(RK__NESTING_MAX + RK__ANY_DEPTH == RK__PACK_DEPTH, "an any fits in every field");

/* Nil is kept as nothing, so that the two are one. */
static int store_any(void *base, const rk__fielddef *f, const char *bytes, size_t size)
{
    uint32_t count = size == 1 && *bytes == '\xc0' ? 0 : (uint32_t)size;
    if (size > f->capacity) {
        char text[96];
        return rk__fail(RK_ERANGE, "expected %s (at most %u bytes of MessagePack), got %zu",
                        rk__field_text(f, text), f->capacity, size);
    }
    memcpy((char *)base + f->count_offset, &count, sizeof count);
    memcpy(element(base, f, 0), bytes, count);
    return 0;
}

int rk__field_read_any(void *base, const rk__fielddef *f, rk__reader *r)
{
    const char *start = r->at;
    int rc = skip_any(r);
    return rc < 0 ? rc : store_any(base, f, start, (size_t)(r->at - start));
}

static int set_any(void *base, const rk__fielddef *f, const void *bytes, size_t size)
{
    rk__reader r;
    rk__reader_init(&r, bytes ? bytes : "", size);
    int rc = skip_any(&r);
    if (rc == 0 && r.at != r.end) {
        rc = rk__fail(RK_EFORMAT, "expected one MessagePack value, but %zu bytes follow it",
                      (size_t)(r.end - r.at));
    }
    if (rc == 0) {
        rc = store_any(base, f, bytes, size);
    }
    return rc < 0 ? rk__fail_prefix(rc, "field '%s'", f->name) : 0;
}

int rk__field_set_bytes(void *base, const rk__fielddef *f, const void *bytes, size_t size)
{
    if (f->kind == RK__UUID && !f->array) {
        if (size != 16) {
            return rk__fail(RK_ERANGE, "field '%s': expected uuid (16 bytes), got %zu", f->name,
                            size);
        }
        memcpy(element(base, f, 0), bytes, 16);
        return 0;
    }
    if (f->kind == RK__ANY) {
        return set_any(base, f, bytes, size);
    }
    if (!rk__kind_is_bytes(f->kind)) {
        return wrong_type(f, "a string");
    }
    int rc = rk__field_set_count(base, f, size > UINT32_MAX ? UINT32_MAX : (uint32_t)size);
    if (rc == 0 && size) {
        memcpy(element(base, f, 0), bytes, size);
    }
    if (rc == 0 && size < f->capacity) {
        *(char *)element(base, f, (uint32_t)size) = '\0';
    }
    return rc;
}

/* ---- by path ---- */

/* Walks "outer.inner.x" down to the field and to the struct that holds it. */
static int find_path(const rk_message *m, const char *path, char **base, const rk__fielddef **out)
{
    RK_CHECK(m && path, "rk_set_* and rk_get_* need a message and a field name");
    const rk_type *type = m->body->type;
    if (!type) {
        return rk__fail(RK_ETYPE, "field '%.80s': the message has no type, its body is MessagePack",
                        path);
    }
    const rk__fielddef *f;
    char *at = (char *)m->body->payload;
    for (;;) {
        size_t size = strcspn(path, ".");
        int rc = rk__type_field(type, path, size, &f);
        if (rc < 0) {
            return rc;
        }
        if (!path[size]) {
            break;
        }
        if (f->kind != RK__NESTED) {
            return wrong_type(f, "a path into it, but it is no message type");
        }
        at += f->offset;
        type = f->nested;
        path += size + 1;
    }
    *base = at;
    *out = f;
    return 0;
}

/* The same for writing: nobody else may be reading the body. */
static int find_writable(rk_message *m, const char *path, char **base, const rk__fielddef **out)
{
    int rc = find_path(m, path, base, out);
    if (rc < 0) {
        return rc;
    }
    /* Pairs with the release half of rk__body_release: a reader that has left is done reading. */
    bool shared = __atomic_load_n(&m->body->refs, __ATOMIC_ACQUIRE) != 1;
    if (shared || (m->flags & RK__RECEIVED)) {
        return rk__fail(RK_ESTATE,
                        "field '%.80s': a '%s' that was %s cannot be changed; make a "
                        "new message",
                        path, m->body->type->name, shared ? "shared" : "received");
    }
    return 0;
}

/* One value, not a sequence. */
static int find_scalar(rk_message *m, const char *path, bool writing, char **base,
                       const rk__fielddef **out)
{
    int rc = writing ? find_writable(m, path, base, out) : find_path(m, path, base, out);
    if (rc == 0 && (*out)->array) {
        return wrong_type(*out, "one number; arrays go through rk_set_array and rk_get_array");
    }
    return rc;
}

int rk_set_int(rk_message *m, const char *field, int64_t value)
{
    char *base;
    const rk__fielddef *f;
    int rc = find_scalar(m, field, true, &base, &f);
    if (rc < 0) {
        return rc;
    }
    /* A pid uses all 64 bits, so the int64_t that carries one may be negative. */
    return f->kind == RK__PID ? rk__field_set_uint(base, f, 0, (uint64_t)value)
                              : rk__field_set_int(base, f, 0, value);
}

int rk_set_number(rk_message *m, const char *field, double value)
{
    char *base;
    const rk__fielddef *f;
    int rc = find_scalar(m, field, true, &base, &f);
    return rc < 0 ? rc : rk__field_set_number(base, f, 0, value);
}

int rk_set_bytes(rk_message *m, const char *field, const void *bytes, size_t size)
{
    char *base;
    const rk__fielddef *f;
    RK_CHECK(bytes || !size, "rk_set_bytes needs bytes");
    int rc = find_writable(m, field, &base, &f);
    return rc < 0 ? rc : rk__field_set_bytes(base, f, bytes, size);
}

int rk_set_array(rk_message *m, const char *field, const void *values, size_t count)
{
    char *base;
    const rk__fielddef *f;
    RK_CHECK(values || !count, "rk_set_array needs values");
    int rc = find_writable(m, field, &base, &f);
    if (rc < 0) {
        return rc;
    }
    if (!f->array) {
        return wrong_type(f, "an array");
    }
    rc = rk__field_set_count(base, f, count > UINT32_MAX ? UINT32_MAX : (uint32_t)count);
    if (rc == 0 && count) {
        memcpy(element(base, f, 0), values, count * f->element);
    }
    return rc;
}

/* ---- reading ---- */

static uint64_t load_bits(const void *at, uint32_t size)
{
    uint8_t b1;
    uint16_t b2;
    uint32_t b4;
    uint64_t b8;
    switch (size) {
    case 1:
        memcpy(&b1, at, 1);
        return b1;
    case 2:
        memcpy(&b2, at, 2);
        return b2;
    case 4:
        memcpy(&b4, at, 4);
        return b4;
    default:
        memcpy(&b8, at, 8);
        return b8;
    }
}

static int64_t load_int(const void *at, rk__kind kind)
{
    uint64_t bits = load_bits(at, rk__kind_size(kind));
    switch (kind) {
    case RK__BOOL:
        return bits != 0;
    case RK__I8:
        return (int8_t)bits;
    case RK__I16:
        return (int16_t)bits;
    case RK__I32:
        return (int32_t)bits;
    default:
        return (int64_t)bits;
    }
}

static double load_number(const void *at, rk__kind kind)
{
    float narrow;
    double wide;
    if (kind == RK__F32) {
        memcpy(&narrow, at, sizeof narrow);
        return narrow;
    }
    memcpy(&wide, at, sizeof wide);
    return wide;
}

int rk_get_int(const rk_message *m, const char *field, int64_t *value)
{
    char *base;
    const rk__fielddef *f;
    int rc = find_scalar((rk_message *)m, field, false, &base, &f);
    if (rc < 0) {
        return rc;
    }
    if (f->kind == RK__F32 || f->kind == RK__F64) {
        double number = load_number(base + f->offset, f->kind);
        if (!(number >= -0x1p63 && number < 0x1p63) || number != trunc(number)) {
            return rk__fail(RK_ERANGE, "field '%s': %g is no int64_t; read it with rk_get_number",
                            f->name, number);
        }
        *value = (int64_t)number;
        return 0;
    }
    if (!is_integer(f->kind)) {
        return wrong_type(f, "a read as an integer");
    }
    int64_t result = load_int(base + f->offset, f->kind);
    if (f->kind == RK__U64 && result < 0) {
        return rk__fail(RK_ERANGE, "field '%s': %llu is more than an int64_t holds", f->name,
                        (unsigned long long)result);
    }
    *value = result;
    return 0;
}

int rk_get_number(const rk_message *m, const char *field, double *value)
{
    char *base;
    const rk__fielddef *f;
    int rc = find_scalar((rk_message *)m, field, false, &base, &f);
    if (rc < 0) {
        return rc;
    }
    if (f->kind == RK__F32 || f->kind == RK__F64) {
        *value = load_number(base + f->offset, f->kind);
    } else if (is_integer(f->kind)) {
        int64_t result = load_int(base + f->offset, f->kind);
        *value =
            f->kind == RK__U64 || f->kind == RK__PID ? (double)(uint64_t)result : (double)result;
    } else {
        return wrong_type(f, "a read as a number");
    }
    return 0;
}

int rk_get_bytes(const rk_message *m, const char *field, const void **bytes, size_t *size)
{
    char *base;
    const rk__fielddef *f;
    int rc = find_path(m, field, &base, &f);
    if (rc < 0) {
        return rc;
    }
    if (f->array || (!rk__kind_is_bytes(f->kind) && f->kind != RK__UUID)) {
        return wrong_type(f, "a read as bytes");
    }
    *bytes = base + f->offset;
    *size = f->kind == RK__UUID ? 16 : rk__field_count(base, f);
    return 0;
}

int rk_get_array(const rk_message *m, const char *field, const void **values, size_t *count)
{
    char *base;
    const rk__fielddef *f;
    int rc = find_path(m, field, &base, &f);
    if (rc < 0) {
        return rc;
    }
    if (!f->array) {
        return wrong_type(f, "a read as an array");
    }
    *values = base + f->offset;
    *count = rk__field_count(base, f);
    return 0;
}
