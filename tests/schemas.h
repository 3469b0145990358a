/*
 * schemas.h -- random message types and random values, for the tests of layout and codec.
 *
 * Everything follows from a seed, so a failing case is made again by its seed.
 */
#ifndef RK_TESTS_SCHEMAS_H
#define RK_TESTS_SCHEMAS_H

#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include "message/message.h"

typedef struct dice {
    uint64_t state;
} dice;

/* splitmix64 (Steele, Lea, Flood 2014). */
static inline uint64_t roll(dice *d)
{
    uint64_t z = (d->state += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

static inline uint32_t below(dice *d, uint32_t n)
{
    return (uint32_t)(roll(d) % n);
}

/* ---- types ---- */

enum { SCHEMA_FIELDS = 12 };

/* Writes the words of a random field type; earlier types may be nested. */
static inline void random_field_type(dice *d, char text[96], const rk_type *const *earlier,
                                     size_t count)
{
    static const char *const scalars[] = {"bool", "i8",  "i16", "i32", "i64",  "u8", "u16",
                                          "u32",  "u64", "f32", "f64", "uuid", "pid"};
    const char *scalar = scalars[below(d, 13)];
    uint32_t n = below(d, 8) ? 1 + below(d, 20) : 1 + below(d, 400);
    switch (below(d, 9)) {
    case 8:
        snprintf(text, 96, n % 2 ? "any[%u]" : "any", n);
        break;
    case 0:
        snprintf(text, 96, "string[%u]", n);
        break;
    case 1:
        snprintf(text, 96, "bytes[%u]", n);
        break;
    case 2:
    case 3:
        snprintf(text, 96, "%s[%u]", scalar, n);
        break;
    case 4:
        if (count) {
            const rk_type *nested = earlier[below(d, (uint32_t)count)];
            snprintf(text, 96, "%s", nested->size < 4096 ? nested->name : scalar);
            break;
        }
        /* fall through */
    default:
        snprintf(text, 96, "%s", scalar);
        break;
    }
}

/* Names where order by name, by length and by name with "_count" all differ. */
static inline void random_field_name(dice *d, char name[RK_NAME_MAX], uint32_t i)
{
    static const char *const stems[] = {"a", "A", "b0", "b", "zeta", "_x", "b_", "price", "Z9"};
    static const char *const tails[] = {"", "0", "_", "z", "Z"};
    snprintf(name, RK_NAME_MAX, "%s%s%u", stems[below(d, 9)], tails[below(d, 5)], i);
}

/* Defines a random type named `name`; earlier ones may be nested in it. */
static inline int random_type(dice *d, const char *name, const rk_type *const *earlier,
                              size_t count, const rk_type **out)
{
    char names[SCHEMA_FIELDS][RK_NAME_MAX], types[SCHEMA_FIELDS][96];
    rk_field fields[SCHEMA_FIELDS];
    uint32_t n = below(d, SCHEMA_FIELDS + 1);
    for (uint32_t i = 0; i < n; i++) {
        random_field_name(d, names[i], i);
        random_field_type(d, types[i], earlier, count);
        fields[i] = (rk_field){names[i], types[i]};
    }
    return rk_message_define(out, name, fields, n);
}

/* ---- values ---- */

static inline uint64_t random_bits(dice *d)
{
    static const uint64_t special[] = {0,
                                       1,
                                       0x7f,
                                       0x80,
                                       0xff,
                                       0x100,
                                       0x7fff,
                                       0x8000,
                                       0xffff,
                                       0x10000,
                                       0x7fffffff,
                                       0x80000000,
                                       0xffffffff,
                                       0x100000000,
                                       INT64_MAX,
                                       (uint64_t)INT64_MIN,
                                       UINT64_MAX,
                                       UINT64_MAX - 31,
                                       UINT64_MAX - 32,
                                       0x7fc00001,
                                       0x7fa00001,
                                       0x7f800000,
                                       0xff800000,
                                       0x7ff8000000000001,
                                       0x7ff4000000000001,
                                       0x7ff0000000000000,
                                       0xfff0000000000000,
                                       0x8000000000000000,
                                       0x0000000000000003,
                                       0x3fb999999999999a};
    return below(d, 2) ? special[below(d, sizeof special / sizeof *special)]
                       : roll(d) >> below(d, 64);
}

static inline void random_element(dice *d, const rk__fielddef *f, uint8_t *at)
{
    uint64_t bits[2] = {random_bits(d), random_bits(d)};
    if (f->kind == RK__BOOL) {
        bits[0] &= 1;
    }
    memcpy(at, bits, f->element);
}

/* Writes a MessagePack value, never nil, of at most `room` bytes (1 or more); returns its size. */
static inline uint32_t random_any(dice *d, uint8_t *at, uint32_t room, int depth)
{
    uint32_t size = 1, items = room > 1 ? below(d, room < 16 ? room : 16) : 0;
    switch (below(d, 4)) {
    case 0:
        at[0] = 0xcf;
        if (room < 9) {
            break;
        }
        for (int i = 1; i < 9; i++) {
            at[i] = (uint8_t)(roll(d) | (i == 1 ? 0x80 : 0));
        }
        return 9;
    case 1:
        at[0] = (uint8_t)(0xa0 | items);
        memset(at + 1, 'x', items);
        return 1 + items;
    case 2:
        if (depth == 16) {
            break;
        }
        at[0] = (uint8_t)(0x90 | items);
        for (uint32_t left = items; left; left--) { /* one byte is kept for each that follows */
            size += random_any(d, at + size, room - size - (left - 1), depth + 1);
        }
        return size;
    default:
        break;
    }
    at[0] = (uint8_t)below(d, 128);
    return 1;
}

static inline void random_struct(dice *d, const rk_type *type, uint8_t *base)
{
    for (uint32_t i = 0; i < type->field_count; i++) {
        const rk__fielddef *f = &type->fields[i];
        uint32_t count = 1;
        if (f->kind == RK__NESTED) {
            random_struct(d, f->nested, base + f->offset);
            continue;
        }
        if (f->kind == RK__ANY) {
            count = below(d, 4) ? random_any(d, base + f->offset, f->capacity, 0) : 0;
            memcpy(base + f->count_offset, &count, 4);
            continue;
        }
        if (f->count_offset != UINT32_MAX) {
            count = below(d, 4) ? below(d, f->capacity + 1) : f->capacity;
            memcpy(base + f->count_offset, &count, 4);
        }
        for (uint32_t k = 0; k < count; k++) {
            random_element(d, f, base + f->offset + (size_t)k * f->element);
        }
    }
}

/* The name of the first field that differs, bit for bit, or NULL. */
static inline const char *first_difference(const rk_type *type, const uint8_t *a, const uint8_t *b)
{
    for (uint32_t i = 0; i < type->field_count; i++) {
        const rk__fielddef *f = &type->fields[i];
        if (f->kind == RK__NESTED) {
            const char *inner = first_difference(f->nested, a + f->offset, b + f->offset);
            if (inner) {
                return inner;
            }
            continue;
        }
        uint32_t n = 1;
        if (f->count_offset != UINT32_MAX) {
            memcpy(&n, a + f->count_offset, 4);
            if (memcmp(a + f->count_offset, b + f->count_offset, 4) != 0) {
                return f->name;
            }
        }
        if (memcmp(a + f->offset, b + f->offset, (size_t)n * f->element) != 0) {
            return f->name;
        }
    }
    return NULL;
}

#endif
