/*
 * pack.c -- typed messages to MessagePack.
 *
 * Any thread that holds a handle may enter: the body is only read, and its id, if there is one, is
 * taken with the ordering of rk__body_id_peek.
 */
#include <string.h>
#include "base/error.h"
#include "message/codec.h"
#include "message/schema.h"

static void pack_uuid(rk__strbuf *out, const uint8_t bytes[16])
{
    rk__pack_map(out, 1);
    rk__pack_str(out, "__uuid_bin__", 12);
    rk__pack_bin(out, bytes, 16);
}

#define LOAD(type, at)                                                                             \
    ({                                                                                             \
        type value_;                                                                               \
        memcpy(&value_, (at), sizeof value_);                                                      \
        value_;                                                                                    \
    })

static void pack_element(rk__strbuf *out, const rk__fielddef *f, const uint8_t *at)
{
    switch (f->kind) {
    case RK__BOOL:
        /* Read as a byte: code on a device may have left another value than 0 and 1. */
        rk__pack_bool(out, *at != 0);
        break;
    case RK__I8:
        rk__pack_int(out, (int8_t)*at);
        break;
    case RK__I16:
        rk__pack_int(out, LOAD(int16_t, at));
        break;
    case RK__I32:
        rk__pack_int(out, LOAD(int32_t, at));
        break;
    case RK__I64:
        rk__pack_int(out, LOAD(int64_t, at));
        break;
    case RK__U8:
        rk__pack_uint(out, *at);
        break;
    case RK__U16:
        rk__pack_uint(out, LOAD(uint16_t, at));
        break;
    case RK__U32:
        rk__pack_uint(out, LOAD(uint32_t, at));
        break;
    case RK__U64:
    case RK__PID:
        rk__pack_uint(out, LOAD(uint64_t, at));
        break;
    case RK__F32:
        rk__pack_float(out, LOAD(float, at));
        break;
    case RK__F64:
        rk__pack_double(out, LOAD(double, at));
        break;
    case RK__UUID:
        pack_uuid(out, at);
        break;
    case RK__STRING:
    case RK__BYTES:
    case RK__ANY:
    case RK__NESTED:
        rk_assert(!"elements of arrays are scalars");
        break;
    }
}

/* The value itself. Whoever writes the struct directly can have written anything there. */
static int pack_any(rk__strbuf *out, const rk__fielddef *f, const uint8_t *base)
{
    rk__reader r;
    uint32_t count = rk__field_count(base, f);
    if (!count) {
        rk__pack_nil(out);
        return 0;
    }
    rk__reader_init(&r, base + f->offset, count);
    int rc = rk__read_skip(&r, RK__NESTING_MAX);
    if (rc < 0 || r.at != r.end) {
        return rk__fail(RK_EFORMAT,
                        "field '%s': its %u bytes are no single MessagePack value with at most %d "
                        "containers inside each other",
                        f->name, count, RK__ANY_DEPTH);
    }
    rk__strbuf_add(out, base + f->offset, count);
    return 0;
}

static int pack_value(rk__strbuf *out, const rk__fielddef *f, const uint8_t *base)
{
    const uint8_t *at = base + f->offset;
    if (f->kind == RK__NESTED) {
        int rc = rk__struct_pack(out, f->nested, at);
        return rc < 0 ? rk__fail_prefix(rc, "field '%s'", f->name) : 0;
    }
    if (f->kind == RK__ANY) {
        return pack_any(out, f, base);
    }
    if (f->kind == RK__STRING) {
        rk__pack_str(out, (const char *)at, rk__field_count(base, f));
    } else if (f->kind == RK__BYTES) {
        rk__pack_bin(out, at, rk__field_count(base, f));
    } else if (!f->array) {
        pack_element(out, f, at);
    } else {
        uint32_t count = rk__field_count(base, f);
        rk__pack_array(out, count);
        for (uint32_t i = 0; i < count; i++) {
            pack_element(out, f, at + (size_t)i * f->element);
        }
    }
    return 0;
}

static int pack_fields(rk__strbuf *out, const rk_type *type, const uint8_t *base)
{
    int rc = 0;
    for (uint32_t i = 0; rc == 0 && i < type->field_count; i++) {
        const rk__fielddef *f = &type->fields[i];
        rk__pack_str(out, f->name, strlen(f->name));
        rc = pack_value(out, f, base);
    }
    return rc < 0 ? rk__fail_prefix(rc, "%s", type->name) : 0;
}

int rk__struct_pack(rk__strbuf *out, const rk_type *type, const void *base)
{
    rk__pack_map(out, type->field_count);
    return pack_fields(out, type, base);
}

static void pack_id(rk__strbuf *out, const char *key, size_t size, rk__id id)
{
    uint8_t bytes[16];
    rk__id_bytes(id, bytes);
    rk__pack_str(out, key, size);
    pack_uuid(out, bytes);
}

static int pack_typed(rk__strbuf *out, rk_message *m)
{
    const rk_type *type = m->body->type;
    rk__id id;
    bool has_id = rk__body_id_peek(m->body, &id);
    bool has_correlation = rk__id_is_set(m->correlation);
    bool has_priority = m->priority != RK_PRIORITY_NORMAL;
    rk__pack_map(out, 1u + has_id + has_correlation + has_priority + type->field_count);
    rk__pack_str(out, "__type", 6);
    rk__pack_str(out, type->name, strlen(type->name));
    if (has_id) {
        pack_id(out, "message_id", 10, id);
    }
    if (has_correlation) {
        pack_id(out, "correlation_id", 14, m->correlation);
    }
    if (has_priority) {
        rk__pack_str(out, "priority", 8);
        rk__pack_uint(out, m->priority);
    }
    return pack_fields(out, type, m->body->payload);
}

int rk__message_pack(rk__strbuf *out, rk_message *m)
{
    size_t before = out->size;
    if (m->body->type) {
        int rc = pack_typed(out, m);
        if (rc < 0) {
            return rc;
        }
    } else {
        rk__strbuf_add(out, m->body->payload, m->body->size);
    }
    if (out->failed) {
        return rk__fail(RK_ENOMEM, "out of memory for the MessagePack form of a message");
    }
    if (out->size - before > UINT32_MAX) {
        return rk__fail(RK_ELIMIT, "the MessagePack form of a message is larger than 4 GiB");
    }
    return 0;
}

int rk_message_pack(rk_message *m, void **bytes, size_t *size)
{
    RK_CHECK(m && bytes && size, "rk_message_pack needs a message and places for the result");
    rk__strbuf out = RK__STRBUF_INIT;
    const rk_type *type = m->body->type;
    /* Enough for scalar fields, so that small messages take one allocation. */
    rk__strbuf_reserve(&out, type ? 96 + (size_t)type->field_count * 24 : m->body->size);
    int rc = rk__message_pack(&out, m);
    if (rc < 0) {
        rk__strbuf_free(&out);
        return rc;
    }
    *size = out.size;
    *bytes = rk__strbuf_take(&out);
    return 0;
}
