/*
 * header.c -- the C header of message types, for handlers and for embedders.
 *
 * Any thread may enter; types are constant and the text belongs to the caller. The text includes
 * nothing: fixed-width names and bool come from the code around it (NVRTC has no <stdint.h>).
 */
#include <stdlib.h>
#include <string.h>
#include "base/error.h"
#include "message/type.h"

/* What has been written so far: each type once, however often it is nested. */
struct written {
    const rk_type **types;
    size_t count, capacity;
};

static const char *c_name(const rk__fielddef *f)
{
    static const char *const names[] = {
        [RK__BOOL] = "bool",    [RK__I8] = "int8_t",    [RK__I16] = "int16_t",
        [RK__I32] = "int32_t",  [RK__I64] = "int64_t",  [RK__U8] = "uint8_t",
        [RK__U16] = "uint16_t", [RK__U32] = "uint32_t", [RK__U64] = "uint64_t",
        [RK__F32] = "float",    [RK__F64] = "double",   [RK__UUID] = "rk_uuid",
        [RK__PID] = "uint64_t", [RK__STRING] = "char",  [RK__BYTES] = "uint8_t",
        [RK__ANY] = "uint8_t",
    };
    return f->kind == RK__NESTED ? f->nested->name : names[f->kind];
}

static uint32_t align_of(const rk__fielddef *f)
{
    return f->kind == RK__NESTED ? f->nested->align : rk__kind_align(f->kind);
}

static int by_count_offset(const void *a, const void *b)
{
    const rk__fielddef *const *f = a, *const *g = b;
    return (*f)->count_offset < (*g)->count_offset ? -1 : 1;
}

static int write_counts(rk__strbuf *out, const rk_type *type)
{
    const rk__fielddef **order = malloc((type->field_count + 1) * sizeof *order);
    size_t counts = 0;
    if (!order) {
        return RK_ENOMEM;
    }
    for (uint32_t i = 0; i < type->field_count; i++) {
        if (type->fields[i].count_offset != UINT32_MAX) {
            order[counts++] = &type->fields[i];
        }
    }
    if (counts) {
        qsort(order, counts, sizeof *order, by_count_offset);
    }
    for (size_t i = 0; i < counts; i++) {
        rk__strbuf_addf(out, "    uint32_t %s_count;\n", order[i]->name);
    }
    free(order);
    return 0;
}

static int write_members(rk__strbuf *out, const rk_type *type)
{
    int rc = 0;
    uint32_t i = 0;
    for (uint32_t align = 8; rc == 0 && align; align /= 2) {
        if (align == 4) {
            rc = write_counts(out, type);
        }
        for (; i < type->field_count && align_of(&type->fields[i]) == align; i++) {
            const rk__fielddef *f = &type->fields[i];
            rk__strbuf_addf(out, "    %s %s", c_name(f), f->name);
            if (f->count_offset != UINT32_MAX) {
                rk__strbuf_addf(out, "[%u]", f->capacity);
            }
            rk__strbuf_adds(out, ";\n");
        }
    }
    if (!type->field_count) {
        rk__strbuf_adds(out, "    char rk_empty;\n");
    }
    return rc;
}

static void write_checks(rk__strbuf *out, const rk_type *type)
{
    const char *name = type->name;
    rk__strbuf_addf(out, "#ifdef RK_CHECK_LAYOUT\nRK_LAYOUT_ASSERT(sizeof(%s) == %u, \"%s\");\n",
                    name, type->size, name);
    for (uint32_t i = 0; i < type->field_count; i++) {
        const rk__fielddef *f = &type->fields[i];
        rk__strbuf_addf(out, "RK_LAYOUT_ASSERT(__builtin_offsetof(%s, %s) == %u, \"%s.%s\");\n",
                        name, f->name, f->offset, name, f->name);
        if (f->count_offset != UINT32_MAX) {
            rk__strbuf_addf(out,
                            "RK_LAYOUT_ASSERT(__builtin_offsetof(%s, %s_count) == %u, "
                            "\"%s.%s_count\");\n",
                            name, f->name, f->count_offset, name, f->name);
        }
    }
    rk__strbuf_adds(out, "#endif\n");
}

/* C++ has no _Static_assert, and C before C23 has no static_assert without a header. */
static void write_preamble(rk__strbuf *out)
{
    rk__strbuf_adds(out,
                    "#if defined(RK_CHECK_LAYOUT) && !defined(RK_LAYOUT_ASSERT)\n"
                    "#ifdef __cplusplus\n"
                    "#define RK_LAYOUT_ASSERT(condition, text) static_assert(condition, text)\n"
                    "#else\n"
                    "#define RK_LAYOUT_ASSERT(condition, text) _Static_assert(condition, text)\n"
                    "#endif\n"
                    "#endif\n"
                    "#ifndef RK_STRUCT_rk_uuid\n"
                    "#define RK_STRUCT_rk_uuid 1\n"
                    "typedef struct rk_uuid {\n"
                    "    uint8_t bytes[16];\n"
                    "} rk_uuid;\n"
                    "#endif\n");
}

static bool remember(struct written *w, const rk_type *type)
{
    if (w->count == w->capacity) {
        size_t capacity = w->capacity ? w->capacity * 2 : 16;
        const rk_type **types = realloc(w->types, capacity * sizeof *types);
        if (!types) {
            return false;
        }
        w->types = types;
        w->capacity = capacity;
    }
    w->types[w->count++] = type;
    return true;
}

static bool is_written(const struct written *w, const rk_type *type)
{
    for (size_t i = 0; i < w->count; i++) {
        if (w->types[i] == type) {
            return true;
        }
    }
    return false;
}

/* Nested types first; types nest at most RK__NESTING_MAX deep. */
static int write_type(rk__strbuf *out, const rk_type *type, struct written *w)
{
    int rc = 0;
    if (is_written(w, type)) {
        return 0;
    }
    for (uint32_t i = 0; rc == 0 && i < type->field_count; i++) {
        if (type->fields[i].kind == RK__NESTED) {
            rc = write_type(out, type->fields[i].nested, w);
        }
    }
    if (rc < 0 || !remember(w, type)) {
        return RK_ENOMEM;
    }
    rk__strbuf_addf(out, "\n#ifndef RK_STRUCT_%s\n#define RK_STRUCT_%s 1\ntypedef struct %s {\n",
                    type->name, type->name, type->name);
    rc = write_members(out, type);
    rk__strbuf_addf(out, "} %s;\n", type->name);
    write_checks(out, type);
    rk__strbuf_adds(out, "#endif\n");
    return rc;
}

int rk__type_header(rk__strbuf *out, const rk_type *const *types, size_t count)
{
    struct written w = {NULL, 0, 0};
    int rc = 0;
    write_preamble(out);
    for (size_t i = 0; rc == 0 && i < count; i++) {
        rc = write_type(out, types[i], &w);
    }
    free(w.types);
    if (rc < 0 || out->failed) {
        return rk__fail(RK_ENOMEM, "out of memory for the C header of %zu message types", count);
    }
    return 0;
}

int rk_type_header(char **out, const rk_type *const *types, size_t count)
{
    RK_CHECK(out && (types || !count), "rk_type_header needs types");
    rk__strbuf text = RK__STRBUF_INIT;
    int rc = rk__type_header(&text, types, count);
    if (rc < 0) {
        rk__strbuf_free(&text);
        return rc;
    }
    *out = rk__strbuf_take(&text);
    return 0;
}
