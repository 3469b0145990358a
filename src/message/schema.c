/*
 * schema.c -- checks a schema, lays out its struct as the C compiler would, writes its canonical
 * text and packs all of it into one block.
 *
 * Any thread may enter; nothing here is shared. A nested type must be registered already, and
 * registered types never change, so a type can never come to contain itself.
 */
#include <stdlib.h>
#include <stdio.h>
#include <string.h>
#include "base/error.h"
#include "base/hash.h"
#include "message/schema.h"

/* A schema on its way to a type. `order` has the fields with a count by the name of the count. */
struct draft {
    const char *name;
    rk__fielddef *fields;
    const rk__fielddef **order;
    size_t count;
    uint32_t size, align;
    rk__strbuf canonical;
};

static bool has_count(const rk__fielddef *f)
{
    return f->array || rk__kind_is_bytes(f->kind);
}

static uint32_t field_align(const rk__fielddef *f)
{
    return f->kind == RK__NESTED ? f->nested->align : rk__kind_align(f->kind);
}

static uint64_t field_bytes(const rk__fielddef *f)
{
    return (uint64_t)f->element * f->capacity;
}

/* ---- field types ---- */

static int unknown_type(const char *type, const rk_field *field)
{
    rk__strbuf names = RK__STRBUF_INIT;
    rk__type_names(&names);
    int rc = rk__fail(RK_ETYPE,
                      "message type '%s', field '%s': unknown type '%.80s'; there are bool i8 i16 "
                      "i32 i64 u8 u16 u32 u64 f32 f64 uuid pid, arrays of them such as f32[64], "
                      "string[32], bytes[256], any, and the message types %s",
                      type, field->name, field->type, names.bytes ? names.bytes : "");
    rk__strbuf_free(&names);
    return rc;
}

/* Reads "[n]" at text, or nothing (*out is 0 then). */
static int parse_brackets(const char *type, const rk_field *field, const char *text, uint32_t *out)
{
    if (!*text) {
        *out = 0;
        return 0;
    }
    const char *at = text + 1;
    uint64_t n = 0;
    while (*at >= '0' && *at <= '9' && n <= RK__ELEMENTS_MAX) {
        n = n * 10 + (uint64_t)(*at++ - '0');
    }
    bool digits = at > text + 1;
    if (digits && (n == 0 || n > RK__ELEMENTS_MAX)) {
        return rk__fail(RK_ERANGE,
                        "message type '%s', field '%s': '%.80s' must have from 1 to %d "
                        "elements",
                        type, field->name, field->type, RK__ELEMENTS_MAX);
    }
    if (!digits || text[1] == '0' || strcmp(at, "]") != 0) {
        return rk__fail(RK_EINVAL,
                        "message type '%s', field '%s': cannot read '%.80s'; expected "
                        "one number in brackets, as in f32[64]",
                        type, field->name, field->type);
    }
    *out = (uint32_t)n;
    return 0;
}

/* What the design has, but this version not yet. */
static int refuse_special(const char *type, const rk_field *field, size_t size)
{
    if (strncmp(field->type, "buffer", 6) == 0 && (size == 6 || field->type[6] == '<')) {
        return rk__fail(RK_ETYPE,
                        "message type '%s', field '%s': buffers come with a later "
                        "version; until then send the values as an array such as f32[64]",
                        type, field->name);
    }
    return 0;
}

static int parse_nested(const char *type, const rk_field *field, size_t size, uint32_t brackets,
                        rk__fielddef *out)
{
    if (strlen(type) == size && strncmp(type, field->type, size) == 0) {
        return rk__fail(RK_ETYPE, "message type '%s', field '%s': a type cannot contain itself",
                        type, field->name);
    }
    out->nested = rk__type_find(field->type, size);
    if (!out->nested) {
        return unknown_type(type, field);
    }
    if (brackets) {
        return rk__fail(RK_ETYPE,
                        "message type '%s', field '%s': there are no arrays of message "
                        "types; expected '%s' alone, or an array of a scalar type",
                        type, field->name, out->nested->name);
    }
    out->kind = RK__NESTED;
    out->element = out->nested->size;
    out->capacity = 1;
    return 0;
}

static bool parse_kind(const char *text, size_t size, rk__kind *out)
{
    for (int kind = RK__BOOL; kind <= RK__ANY; kind++) {
        const char *name = rk__kind_name((rk__kind)kind);
        if (strlen(name) == size && strncmp(name, text, size) == 0) {
            *out = (rk__kind)kind;
            return true;
        }
    }
    return false;
}

static int parse_type(const char *type, const rk_field *field, rk__fielddef *out)
{
    uint32_t brackets = 0;
    size_t size = strcspn(field->type, "[");
    int rc = refuse_special(type, field, size);
    if (rc == 0) {
        rc = parse_brackets(type, field, field->type + size, &brackets);
    }
    if (rc < 0) {
        return rc;
    }
    if (!parse_kind(field->type, size, &out->kind)) {
        return parse_nested(type, field, size, brackets, out);
    }
    bool text = rk__kind_is_bytes(out->kind);
    if (out->kind == RK__ANY && !brackets) {
        brackets = RK__ANY_BYTES;
    }
    if (text && !brackets) {
        return rk__fail(RK_EINVAL,
                        "message type '%s', field '%s': '%s' needs its size in bytes, "
                        "as in %s[32]",
                        type, field->name, field->type, field->type);
    }
    out->array = brackets && !text;
    out->capacity = brackets ? brackets : 1;
    out->element = rk__kind_size(out->kind);
    return 0;
}

static int parse_field(const struct draft *d, const rk_field *field, rk__fielddef *out)
{
    const char *fault = rk__field_name_fault(field->name);
    if (fault) {
        return rk__fail(RK_EINVAL, "message type '%s', field '%.80s': the name %s", d->name,
                        field->name ? field->name : "", fault);
    }
    if (!field->type) {
        return rk__fail(RK_EINVAL, "message type '%s', field '%s': the type is missing", d->name,
                        field->name);
    }
    for (const rk__fielddef *other = d->fields; other < out; other++) {
        if (strcmp(other->name, field->name) == 0) {
            return rk__fail(RK_EINVAL,
                            "message type '%s', field '%s': there are two fields of "
                            "this name",
                            d->name, field->name);
        }
    }
    out->name = field->name;
    out->count_offset = UINT32_MAX;
    return parse_type(d->name, field, out);
}

/* ---- layout ---- */

static int by_layout(const void *a, const void *b)
{
    const rk__fielddef *f = a, *g = b;
    uint32_t fa = field_align(f), ga = field_align(g);
    return fa != ga ? (fa > ga ? -1 : 1) : strcmp(f->name, g->name);
}

/* Orders "f_count" members: not the same as ordering f, since '_' sorts after digits. */
static int by_count_name(const void *a, const void *b)
{
    char f[RK_NAME_MAX + 8], g[RK_NAME_MAX + 8];
    const rk__fielddef *const *p = a, *const *q = b;
    snprintf(f, sizeof f, "%s_count", (*p)->name);
    snprintf(g, sizeof g, "%s_count", (*q)->name);
    return strcmp(f, g);
}

static uint64_t place_counts(struct draft *d, uint64_t at)
{
    size_t counts = 0;
    for (size_t i = 0; i < d->count; i++) {
        if (has_count(&d->fields[i])) {
            d->order[counts++] = &d->fields[i];
        }
    }
    if (counts) {
        qsort(d->order, counts, sizeof *d->order, by_count_name);
        d->align = d->align > 4 ? d->align : 4;
    }
    for (size_t i = 0; i < counts; i++, at += 4) {
        d->fields[d->order[i] - d->fields].count_offset = (uint32_t)at;
    }
    return at;
}

/* Offsets of a struct that is too large are cut to 32 bits, and never used: 1024 fields of 1 MiB
 * stay below 2^31. Members come by falling alignment, and each has a size that is a multiple of its
 * alignment, so no padding is needed before any of them; only the end is rounded up. */
static int lay_out(struct draft *d)
{
    uint64_t at = 0;
    size_t i = 0;
    qsort(d->fields, d->count, sizeof *d->fields, by_layout);
    d->align = d->count ? field_align(&d->fields[0]) : 1;
    for (uint32_t align = 8; align; align /= 2) {
        if (align == 4) {
            at = place_counts(d, at);
        }
        for (; i < d->count && field_align(&d->fields[i]) == align; i++) {
            d->fields[i].offset = (uint32_t)at;
            at += field_bytes(&d->fields[i]);
        }
    }
    if (at > RK__STRUCT_MAX) {
        return rk__fail(RK_ERANGE,
                        "message type '%s': the struct would have %llu bytes; at most "
                        "1 MiB is possible",
                        d->name, (unsigned long long)at);
    }
    at = (at + d->align - 1) & ~(uint64_t)(d->align - 1);
    d->size = at ? (uint32_t)at : 1;
    return 0;
}

/* ---- putting it together ---- */

static unsigned nesting(const rk_type *type)
{
    unsigned deepest = 0;
    for (uint32_t i = 0; i < type->field_count; i++) {
        if (type->fields[i].kind == RK__NESTED) {
            unsigned depth = nesting(type->fields[i].nested);
            deepest = depth > deepest ? depth : deepest;
        }
    }
    return deepest + 1;
}

static int check_nesting(const struct draft *d)
{
    for (size_t i = 0; i < d->count; i++) {
        if (d->fields[i].kind == RK__NESTED && nesting(d->fields[i].nested) >= RK__NESTING_MAX) {
            return rk__fail(RK_ERANGE,
                            "message type '%s', field '%s': types are nested more than "
                            "%d deep",
                            d->name, d->fields[i].name, RK__NESTING_MAX);
        }
    }
    return 0;
}

static int write_canonical(struct draft *d)
{
    char text[96];
    rk__strbuf *s = &d->canonical;
    rk__strbuf_adds(s, d->name);
    rk__strbuf_addc(s, '{');
    for (size_t i = 0; i < d->count; i++) {
        const rk__fielddef *f = &d->fields[i];
        rk__strbuf_adds(s, f->name);
        rk__strbuf_addc(s, ':');
        rk__strbuf_adds(s, f->nested ? f->nested->canonical : rk__field_text(f, text));
        rk__strbuf_addc(s, ';');
        if (s->size > RK__STRUCT_MAX) {
            return rk__fail(RK_ERANGE,
                            "message type '%s': its schema is longer than 1 MiB of text "
                            "with all nested types",
                            d->name);
        }
    }
    rk__strbuf_addc(s, '}');
    return s->failed ? rk__fail(RK_ENOMEM, "message type '%s': out of memory", d->name) : 0;
}

static bool host_only(const struct draft *d)
{
    for (size_t i = 0; i < d->count; i++) {
        const rk__fielddef *f = &d->fields[i];
        if (f->kind == RK__ANY || (f->kind == RK__NESTED && f->nested->host_only)) {
            return true;
        }
    }
    return false;
}

static const char *store(char **at, const char *text)
{
    size_t size = strlen(text) + 1;
    char *copy = memcpy(*at, text, size);
    *at += size;
    return copy;
}

static rk_type *assemble(const struct draft *d)
{
    size_t texts = strlen(d->name) + 1 + d->canonical.size + 1;
    for (size_t i = 0; i < d->count; i++) {
        texts += strlen(d->fields[i].name) + 1;
    }
    rk_type *type = malloc(sizeof *type + d->count * sizeof *d->fields + texts);
    if (!type) {
        return NULL;
    }
    rk__fielddef *fields = (rk__fielddef *)(type + 1);
    char *at = (char *)(fields + d->count);
    for (size_t i = 0; i < d->count; i++) {
        fields[i] = d->fields[i];
        fields[i].name = store(&at, d->fields[i].name);
    }
    *type = (rk_type){.name = store(&at, d->name),
                      .canonical = store(&at, d->canonical.bytes),
                      .hash = rk__hash64(d->canonical.bytes, d->canonical.size),
                      .host_only = host_only(d),
                      .size = d->size,
                      .align = d->align,
                      .field_count = (uint32_t)d->count,
                      .fields = fields};
    return type;
}

static int check_schema(const char *name, const rk_field *fields, size_t count)
{
    const char *fault = rk__type_name_fault(name);
    if (fault) {
        return rk__fail(RK_EINVAL, "message type '%.80s': the name %s", name ? name : "", fault);
    }
    if (count && !fields) {
        return rk__fail(RK_EINVAL, "message type '%s': the list of fields is missing", name);
    }
    if (count > RK__FIELDS_MAX) {
        return rk__fail(RK_ERANGE, "message type '%s': %zu fields; at most %d are possible", name,
                        count, RK__FIELDS_MAX);
    }
    return 0;
}

static int fill(struct draft *d, const rk_field *fields)
{
    int rc = 0;
    for (size_t i = 0; rc == 0 && i < d->count; i++) {
        rc = parse_field(d, &fields[i], &d->fields[i]);
    }
    if (rc == 0) {
        rc = check_nesting(d);
    }
    if (rc == 0) {
        rc = lay_out(d);
    }
    return rc == 0 ? write_canonical(d) : rc;
}

int rk__schema_build(rk_type **out, const char *name, const rk_field *fields, size_t count)
{
    int rc = check_schema(name, fields, count);
    if (rc < 0) {
        return rc;
    }
    struct draft d = {.name = name, .count = count, .canonical = RK__STRBUF_INIT};
    d.fields = calloc(count + 1, sizeof *d.fields);
    d.order = calloc(count + 1, sizeof *d.order);
    rc = d.fields && d.order ? fill(&d, fields)
                             : rk__fail(RK_ENOMEM, "message type '%s': out of memory", name);
    if (rc == 0) {
        rk_type *type = assemble(&d);
        if (type) {
            *out = type;
        } else {
            rc = rk__fail(RK_ENOMEM, "message type '%s': out of memory", name);
        }
    }
    rk__strbuf_free(&d.canonical);
    free(d.order);
    free(d.fields);
    return rc;
}
