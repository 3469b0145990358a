/*
 * type.c -- kinds of fields, and the registry of message types of this process.
 *
 * Any thread may enter. The registry only grows: a type is complete before it is linked with a
 * release store, and looking one up is an acquire load of its bucket and a walk, with no lock.
 * Definitions are one at a time under `lock`. Types are never freed; all of them stay reachable
 * from `first`.
 */
#include <pthread.h>
#include <stdlib.h>
#include <stdio.h>
#include <string.h>
#include "base/error.h"
#include "base/hash.h"
#include "message/schema.h"

static const struct {
    const char *name;
    uint8_t size, align;
} kinds[] = {
    [RK__BOOL] = {"bool", 1, 1},
    [RK__I8] = {"i8", 1, 1},
    [RK__I16] = {"i16", 2, 2},
    [RK__I32] = {"i32", 4, 4},
    [RK__I64] = {"i64", 8, 8},
    [RK__U8] = {"u8", 1, 1},
    [RK__U16] = {"u16", 2, 2},
    [RK__U32] = {"u32", 4, 4},
    [RK__U64] = {"u64", 8, 8},
    [RK__F32] = {"f32", 4, 4},
    [RK__F64] = {"f64", 8, 8},
    [RK__UUID] = {"uuid", 16, 1},
    [RK__PID] = {"pid", 8, 8},
    [RK__STRING] = {"string", 1, 1},
    [RK__BYTES] = {"bytes", 1, 1},
    [RK__ANY] = {"any", 1, 1},
    [RK__NESTED] = {"message type", 0, 1},
};

_Static_assert(sizeof(bool) == 1, "bool fields are one byte");
_Static_assert(_Alignof(uint64_t) == 8 && _Alignof(double) == 8, "natural alignment");

uint32_t rk__kind_size(rk__kind kind)
{
    return kinds[kind].size;
}

uint32_t rk__kind_align(rk__kind kind)
{
    return kinds[kind].align;
}

const char *rk__kind_name(rk__kind kind)
{
    return kinds[kind].name;
}

const char *rk__field_text(const rk__fielddef *field, char text[96])
{
    if (field->kind == RK__NESTED) {
        snprintf(text, 96, "%s", field->nested->name);
    } else if (field->array || rk__kind_is_bytes(field->kind)) {
        snprintf(text, 96, "%s[%u]", kinds[field->kind].name, field->capacity);
    } else {
        snprintf(text, 96, "%s", kinds[field->kind].name);
    }
    return text;
}

/* ---- registry ---- */

enum { BUCKETS = 1024 };

struct node {
    struct node *chain; /* constant once linked */
    struct node *next;  /* atomic: the type defined after this one */
    const rk_type *type;
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;  /* of definitions */
static struct node *buckets[BUCKETS];                     /* atomic heads */
static struct node *first;                                /* atomic */
static struct node **last = &first;                       /* under lock */
static uint32_t defined;                                  /* under lock */
static const rk_type *type_down, *type_exit, *type_error; /* atomic */

static struct node **bucket_of(const char *name, size_t size)
{
    return &buckets[rk__hash64(name, size) % BUCKETS];
}

/* `name` may hold any bytes, NUL too: it comes from MessagePack and Lua. */
static bool name_is(const char *own, const char *name, size_t size)
{
    return strlen(own) == size && memcmp(own, name, size) == 0;
}

static const rk_type *find_in(struct node **bucket, const char *name, size_t size)
{
    /* Pairs with the release store in insert. */
    struct node *node = __atomic_load_n(bucket, __ATOMIC_ACQUIRE);
    for (; node; node = node->chain) {
        if (name_is(node->type->name, name, size)) {
            return node->type;
        }
    }
    return NULL;
}

/* Under lock. */
static void insert(struct node **bucket, struct node *node, rk_type *type)
{
    type->id = ++defined;
    node->type = type;
    node->chain = *bucket;
    /* Pairs with the acquire load in find_in: who sees the node sees the whole type. */
    __atomic_store_n(bucket, node, __ATOMIC_RELEASE);
    /* Pairs with the acquire loads in rk__type_list, for the same reason. */
    __atomic_store_n(last, node, __ATOMIC_RELEASE);
    last = &node->next;
}

/* takes type, also on failure. */
static int publish(const rk_type **out, rk_type *type)
{
    size_t size = strlen(type->name);
    struct node **bucket = bucket_of(type->name, size);
    struct node *node = calloc(1, sizeof *node);
    if (!node) {
        int rc = rk__fail(RK_ENOMEM, "message type '%s': out of memory", type->name);
        free(type);
        return rc;
    }
    pthread_mutex_lock(&lock);
    const rk_type *old = find_in(bucket, type->name, size);
    if (!old) {
        insert(bucket, node, type);
    }
    pthread_mutex_unlock(&lock);
    if (!old) {
        *out = type;
        return 0;
    }
    int rc = 0;
    if (strcmp(old->canonical, type->canonical) == 0) {
        *out = old;
    } else {
        rc = rk__fail(RK_EEXIST,
                      "message type '%s' already exists with another schema: it is "
                      "%.1800s, and not %.1800s",
                      old->name, old->canonical, type->canonical);
    }
    free(node);
    free(type);
    return rc;
}

static int define(const rk_type **out, const char *name, const rk_field *fields, size_t count)
{
    rk_type *type;
    int rc = rk__schema_build(&type, name, fields, count);
    return rc < 0 ? rc : publish(out, type);
}

/* The runtime's own types come first, so that nobody else can take their names. Two threads may
 * both get here: a definition made twice is the same type. RK_ENOMEM. */
static int define_builtins(void)
{
    /* Pairs with the release store below; type_error is stored last. */
    if (__atomic_load_n(&type_error, __ATOMIC_ACQUIRE)) {
        return 0;
    }
    static const rk_field end[] = {{"pid", "pid"},
                                   {"reason", "string[512]"},
                                   {"traceback", "string[2048]"},
                                   {"normal", "bool"}};
    static const rk_field error[] = {{"code", "i32"}, {"text", "string[4096]"}};
    const rk_type *type;
    int rc = define(&type, "down", end, 4);
    if (rc == 0) {
        __atomic_store_n(&type_down, type, __ATOMIC_RELAXED);
        rc = define(&type, "exit", end, 4);
    }
    if (rc == 0) {
        __atomic_store_n(&type_exit, type, __ATOMIC_RELAXED);
        rc = define(&type, "error", error, 2);
    }
    if (rc == 0) {
        /* Pairs with the acquire load above, and publishes the other two with it. */
        __atomic_store_n(&type_error, type, __ATOMIC_RELEASE);
    }
    return rc;
}

const rk_type *rk__type_down(void)
{
    return define_builtins() < 0 ? NULL : __atomic_load_n(&type_down, __ATOMIC_RELAXED);
}

const rk_type *rk__type_exit(void)
{
    return define_builtins() < 0 ? NULL : __atomic_load_n(&type_exit, __ATOMIC_RELAXED);
}

const rk_type *rk__type_error(void)
{
    return define_builtins() < 0 ? NULL : __atomic_load_n(&type_error, __ATOMIC_RELAXED);
}

int rk_message_define(const rk_type **out, const char *name, const rk_field *fields, size_t count)
{
    RK_CHECK(out, "rk_message_define needs a place for the type");
    int rc = define_builtins();
    return rc < 0 ? rc : define(out, name, fields, count);
}

const rk_type *rk__type_find(const char *name, size_t size)
{
    const rk_type *type = find_in(bucket_of(name, size), name, size);
    if (type) {
        return type;
    }
    /* The builtins exist from the first time somebody asks for them. They themselves are defined
     * without coming here: they nest nothing. */
    if (name_is("down", name, size)) {
        return rk__type_down();
    }
    if (name_is("exit", name, size)) {
        return rk__type_exit();
    }
    return name_is("error", name, size) ? rk__type_error() : NULL;
}

size_t rk__type_list(const rk_type **types, size_t capacity)
{
    size_t count = 0;
    (void)define_builtins(); /* out of memory: the list is then without them */
    /* Pairs with the release store in insert, as does the load of `next`. */
    struct node *node = __atomic_load_n(&first, __ATOMIC_ACQUIRE);
    for (; node; node = __atomic_load_n(&node->next, __ATOMIC_ACQUIRE)) {
        if (count < capacity) {
            types[count] = node->type;
        }
        count++;
    }
    return count;
}

void rk__type_names(rk__strbuf *s)
{
    (void)define_builtins(); /* out of memory: the list is then without them */
    /* Pairs with the release store in insert, as does the load of `next`. */
    struct node *node = __atomic_load_n(&first, __ATOMIC_ACQUIRE);
    while (node && s->size < RK__DETAIL_MAX) {
        rk__strbuf_adds(s, node->type->name);
        node = __atomic_load_n(&node->next, __ATOMIC_ACQUIRE);
        if (node) {
            rk__strbuf_addc(s, ' ');
        }
    }
}

int rk_message_find(const rk_type **out, const char *name)
{
    RK_CHECK(out && name, "rk_message_find needs a name and a place for the type");
    const rk_type *type = rk__type_find(name, strlen(name));
    if (type) {
        *out = type;
        return 0;
    }
    rk__strbuf names = RK__STRBUF_INIT;
    rk__type_names(&names);
    int rc = rk__fail(RK_ENOENT, "no message type '%.80s'; there are %s", name,
                      names.bytes ? names.bytes : "none");
    rk__strbuf_free(&names);
    return rc;
}

/* ---- looking at a type ---- */

const char *rk_type_name(const rk_type *type)
{
    return type->name;
}

size_t rk_type_size(const rk_type *type)
{
    return type->size;
}

uint64_t rk_type_hash(const rk_type *type)
{
    return type->hash;
}

static int no_field(const rk_type *type, const char *name, size_t size)
{
    rk__strbuf names = RK__STRBUF_INIT;
    for (uint32_t i = 0; i < type->field_count; i++) {
        rk__strbuf_addf(&names, "%s%s", i ? " " : "", type->fields[i].name);
    }
    int shown = size < 80 ? (int)size : 80;
    int rc =
        rk__fail(RK_ENOENT, "message type '%s' has no field '%.*s'; %s%s", type->name, shown, name,
                 names.size ? "it has " : "it has no fields", names.bytes ? names.bytes : "");
    rk__strbuf_free(&names);
    return rc;
}

int rk__type_field(const rk_type *type, const char *name, size_t size, const rk__fielddef **out)
{
    for (uint32_t i = 0; i < type->field_count; i++) {
        if (name_is(type->fields[i].name, name, size)) {
            *out = &type->fields[i];
            return 0;
        }
    }
    return no_field(type, name, size);
}
