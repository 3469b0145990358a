/*
 * message.c -- bodies, deliveries, envelopes.
 *
 * A delivery is touched by its owner only; handing it over is the mailbox's business. A body is
 * shared by deliveries of several threads, which enter here through three atomics:
 *
 *   refs           retain is relaxed (the caller holds a reference already); release is acq_rel, so
 *                  that whoever drops the last one sees everything others did with the body.
 *   embedded_used  the delivery inside. Freed with a release store, before that delivery's
 *                  reference is dropped; taken with an acquire exchange. A caller that finds refs
 *                  at 1 is alone: nobody else can take or free it, so plain accesses do, and its
 *                  acquire load of refs has seen the release of the thread that left last.
 *   id_state       a 128-bit id does not fit one atomic, and mixing halves of two ids could repeat
 *                  one. The first to move the state from 0 to 1 writes both halves and stores 2
 *                  with release; who reads 2 with acquire sees a whole id. Who meets 1 waits for
 *                  those two stores; rk__id_new is called before, so nothing slow is in between.
 */
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include "base/clock.h"
#include "base/error.h"
#include "base/sanitizer.h"
#include "memory/pool.h"
#include "message/codec.h"
#include "message/message.h"

enum { ID_NONE, ID_WRITING, ID_THERE };

/* ---- bodies ---- */

rk__body *rk__body_new(const rk_type *type, uint32_t size)
{
    rk__body *body = rk__pool_alloc(sizeof *body + (size_t)size);
    if (!body) {
        return NULL;
    }
    memset(body, 0, sizeof *body + (size_t)size);
    body->type = type;
    body->size = size;
    body->capacity = size;
    body->refs = 1;
    return body;
}

static void drop_parcel(rk__body *body)
{
    rk__parcel *parcel = (rk__parcel *)body->payload;
    if (parcel->data) {
        parcel->free(parcel->data);
    }
}

void rk__body_retain(rk__body *body)
{
    __atomic_fetch_add(&body->refs, 1, __ATOMIC_RELAXED);
}

void rk__body_release(rk__body *body)
{
    /* Pairs with itself in other threads: the last one out frees what the others have left. Who
     * finds the count at 1 holds the only reference, so nobody can change it and no write is
     * needed. */
    if (__atomic_load_n(&body->refs, __ATOMIC_ACQUIRE) == 1 ||
        __atomic_sub_fetch(&body->refs, 1, __ATOMIC_ACQ_REL) == 0) {
        if (body->parcel) {
            drop_parcel(body);
        }
        rk__pool_free(body, sizeof *body + (size_t)body->capacity);
    }
}

bool rk__body_id_peek(const rk__body *body, rk__id *out)
{
    /* Pairs with the release store in rk__body_id. */
    if (__atomic_load_n(&body->id_state, __ATOMIC_ACQUIRE) != ID_THERE) {
        return false;
    }
    *out = body->id;
    return true;
}

void rk__body_id_set(rk__body *body, rk__id id)
{
    body->id = id;
    __atomic_store_n(&body->id_state, rk__id_is_set(id) ? ID_THERE : ID_NONE, __ATOMIC_RELAXED);
}

rk__id rk__body_id(rk__body *body)
{
    rk__id id;
    if (rk__body_id_peek(body, &id)) {
        return id;
    }
    rk__id fresh = rk__id_new();
    uint32_t none = ID_NONE;
    if (__atomic_compare_exchange_n(&body->id_state, &none, ID_WRITING, false, __ATOMIC_RELAXED,
                                    __ATOMIC_RELAXED)) {
        body->id = fresh;
        /* Pairs with the acquire load in rk__body_id_peek. */
        __atomic_store_n(&body->id_state, ID_THERE, __ATOMIC_RELEASE);
        return fresh;
    }
    while (!rk__body_id_peek(body, &id)) {
        sched_yield();
    }
    return id;
}

/* ---- deliveries ---- */

static bool take_embedded(rk__body *body)
{
    /* Pairs with the release half of rk__body_release by whoever shared the body before. */
    if (__atomic_load_n(&body->refs, __ATOMIC_ACQUIRE) == 1) {
        bool taken = __atomic_load_n(&body->embedded_used, __ATOMIC_RELAXED);
        __atomic_store_n(&body->embedded_used, 1, __ATOMIC_RELAXED);
        return !taken;
    }
    /* Pairs with the release store in rk__delivery_free: the delivery's last user is done. */
    return __atomic_exchange_n(&body->embedded_used, 1, __ATOMIC_ACQUIRE) == 0;
}

rk_message *rk__delivery_new(rk__body *body)
{
    bool embedded = take_embedded(body);
    rk_message *m = embedded ? &body->embedded : rk__pool_alloc(sizeof *m);
    if (!m) {
        return NULL;
    }
    memset(m, 0, sizeof *m);
    m->body = body;
    m->flags = embedded ? RK__EMBEDDED : 0;
    m->priority = RK_PRIORITY_NORMAL;
    return m;
}

void rk__delivery_free(rk_message *m)
{
    if (!m) {
        return;
    }
    rk__body *body = m->body;
    if (m->flags & RK__TOPIC) {
        rk__topic_release(m->topic);
    }
    if (m->flags & RK__EMBEDDED) {
        /* Pairs with the acquire exchange in take_embedded. */
        __atomic_store_n(&body->embedded_used, 0, __ATOMIC_RELEASE);
    } else {
        rk__pool_free(m, sizeof *m);
    }
    rk__body_release(body);
}

/* takes body, also on failure. */
static int deliver(rk_message **out, rk__body *body)
{
    rk_message *m = body ? rk__delivery_new(body) : NULL;
    if (m) {
        *out = m;
        return 0;
    }
    if (body) {
        rk__body_release(body);
    }
    return rk__fail(RK_ENOMEM, "out of memory for a message");
}

int rk_message_new(rk_message **out, const rk_type *type)
{
    RK_CHECK(out && type, "rk_message_new needs a type; bytes go to rk_message_new_packed");
    return deliver(out, rk__body_new(type, type->size));
}

static int check_one_value(const void *bytes, size_t size)
{
    if (size > UINT32_MAX - sizeof(rk__body)) {
        return rk__fail(RK_ELIMIT, "MessagePack: %zu bytes are more than a message can hold", size);
    }
    rk__reader r;
    rk__reader_init(&r, bytes, size);
    int rc = rk__read_skip(&r, 0);
    if (rc == 0 && r.at != r.end) {
        rc = rk__fail(RK_EFORMAT, "MessagePack: %zu bytes after the end of the value at byte %zu",
                      (size_t)(r.end - r.at), (size_t)(r.at - r.start));
    }
    return rc;
}

int rk_message_new_packed(rk_message **out, const void *bytes, size_t size)
{
    RK_CHECK(out && (bytes || !size), "rk_message_new_packed needs bytes");
    int rc = check_one_value(bytes, size);
    if (rc < 0) {
        return rc;
    }
    rk__body *body = rk__body_new(NULL, (uint32_t)size);
    if (body) {
        memcpy(body->payload, bytes, size);
    }
    return deliver(out, body);
}

int rk_message_share(rk_message **out, rk_message *m)
{
    RK_CHECK(out && m, "rk_message_share needs a message that the caller owns");
    rk__body_retain(m->body);
    rk_message *twin = NULL;
    int rc = deliver(&twin, m->body);
    if (rc == 0) {
        twin->priority = m->priority;
        *out = twin;
    }
    return rc;
}

/* ---- envelope and body ---- */

const rk_type *rk_message_type(const rk_message *m)
{
    return m->body->type;
}

void *rk_message_data(rk_message *m)
{
    return m->body->payload;
}

size_t rk_message_size(const rk_message *m)
{
    return m->body->size;
}

rk_pid rk_message_from(const rk_message *m)
{
    return m->from;
}

int rk_message_priority(const rk_message *m)
{
    return m->priority;
}

void rk_message_set_priority(rk_message *m, int priority)
{
    RK_CHECK(priority >= 0 && priority <= 255, "a priority is from 0 to 255");
    m->priority = (uint8_t)priority;
}

void rk_message_set_ttl(rk_message *m, int64_t ttl)
{
    int64_t deadline = rk__deadline(ttl);
    m->deadline = deadline == RK__FOREVER ? 0 : deadline;
}

const char *rk_message_topic(const rk_message *m)
{
    return m->flags & RK__TOPIC ? m->topic->name : NULL;
}

void rk_message_id(rk_message *m, uint8_t id[16])
{
    rk__id_bytes(rk__body_id(m->body), id);
}

bool rk_message_correlation(const rk_message *m, uint8_t id[16])
{
    if (!rk__id_is_set(m->correlation)) {
        return false;
    }
    rk__id_bytes(m->correlation, id);
    return true;
}

/* ---- messages of the runtime ---- */

/* Bytes of text that fit a field, cut between UTF-8 characters. */
static size_t fitting(const char *text, size_t capacity)
{
    size_t size = strlen(text);
    if (size <= capacity) {
        return size;
    }
    size = capacity;
    while (size && ((unsigned char)text[size] & 0xc0) == 0x80) {
        size--;
    }
    return size;
}

static int set_text(rk_message *m, const char *name, const char *text)
{
    const rk__fielddef *f;
    int rc = rk__type_field(m->body->type, name, strlen(name), &f);
    return rc < 0 ? rc : rk__field_set_bytes(m->body->payload, f, text, fitting(text, f->capacity));
}

static int set_scalar(rk_message *m, const char *name, uint64_t bits)
{
    const rk__fielddef *f;
    int rc = rk__type_field(m->body->type, name, strlen(name), &f);
    if (rc < 0) {
        return rc;
    }
    return f->kind == RK__PID ? rk__field_set_uint(m->body->payload, f, 0, bits)
                              : rk__field_set_int(m->body->payload, f, 0, (int64_t)bits);
}

rk_message *rk__message_error(int code, const char *text)
{
    const rk_type *type = rk__type_error();
    rk_message *m = NULL;
    if (!type || rk_message_new(&m, type) < 0) {
        return NULL;
    }
    m->flags |= RK__ERROR;
    if (set_scalar(m, "code", (uint64_t)(int64_t)code) < 0 ||
        set_text(m, "text", text ? text : "") < 0) {
        rk__delivery_free(m);
        return NULL;
    }
    return m;
}

rk_message *rk__message_end(rk_pid pid, const rk__end *end, bool as_exit)
{
    const rk_type *type = as_exit ? rk__type_exit() : rk__type_down();
    rk_message *m = NULL;
    if (!type || rk_message_new(&m, type) < 0) {
        return NULL;
    }
    if (set_scalar(m, "pid", pid) < 0 || set_scalar(m, "normal", end->normal) < 0 ||
        set_text(m, "reason", end->reason ? end->reason : "") < 0 ||
        set_text(m, "traceback", end->traceback ? end->traceback : "") < 0) {
        rk__delivery_free(m);
        return NULL;
    }
    return m;
}

/* ---- what is not data ---- */

rk_message *rk__message_parcel(void *data, void (*free_data)(void *data))
{
    rk__body *body = rk__body_new(NULL, sizeof(rk__parcel));
    rk_message *m = NULL;
    if (deliver(&m, body) < 0) {
        return NULL;
    }
    *(rk__parcel *)body->payload = (rk__parcel){data, free_data};
    body->parcel = 1;
    m->flags |= RK__PARCEL;
    return m;
}

void *rk__parcel_take(rk_message *m)
{
    if (!m->body->parcel) {
        return NULL;
    }
    rk__parcel *parcel = (rk__parcel *)m->body->payload;
    void *data = parcel->data;
    parcel->data = NULL;
    return data;
}

rk__topic *rk__topic_new(const char *name)
{
    size_t size = strlen(name) + 1;
    rk__topic *topic = malloc(sizeof *topic + size);
    if (topic) {
        topic->refs = 1;
        memcpy(topic->name, name, size);
    }
    return topic;
}

void rk__topic_release(rk__topic *topic)
{
    /* Pairs with the other releases: the last one frees what all have finished with. */
    if (topic && __atomic_sub_fetch(&topic->refs, 1, __ATOMIC_ACQ_REL) == 0) {
        free(topic);
    }
}

void rk__topic_attach(rk_message *m, rk__topic *topic)
{
    __atomic_fetch_add(&topic->refs, 1, __ATOMIC_RELAXED);
    m->topic = topic;
    m->flags |= RK__TOPIC;
}
