/*
 * letters.c -- messages that were lost, kept to be looked at and sent once more.
 *
 * Threads: any, under the lock of the queue; what is thrown away is freed after the lock was given
 * up, since freeing a body may run somebody's code (parcels). Order: letters are numbered and kept
 * in the order of losing.
 */
#include "actor/letters.h"

#include <stdlib.h>
#include <string.h>
#include "base/clock.h"
#include "base/error.h"

enum { CAPACITY_MAX = 1 << 20, BYTES_MAX = 16 << 20 };

typedef struct rk__letter {
    rk_message *m;
    uint64_t number;
    rk_pid to;
    int code;
    int64_t when;
    char name[RK_NAME_MAX]; /* of `to`; "": none */
} letter;

int rk__letters_open(rk_runtime *rt, uint32_t capacity)
{
    rk__letters *q = &rt->letters;
    if (capacity > CAPACITY_MAX) {
        return rk__fail(RK_ERANGE, "dead_letters: %u messages to keep: at most %d", capacity,
                        CAPACITY_MAX);
    }
    letter *ring = capacity != 0 ? calloc(capacity, sizeof *ring) : NULL;
    if (capacity != 0 && ring == NULL) {
        return rk__fail(RK_ENOMEM, "no memory to keep %u dead letters", capacity);
    }
    pthread_mutex_lock(&q->lock);
    q->ring = ring;
    q->capacity = capacity;
    q->first = q->count = 0;
    q->bytes = 0;
    q->numbered = 0;
    pthread_mutex_unlock(&q->lock);
    return 0;
}

static letter *at(rk__letters *q, uint32_t i)
{
    return &q->ring[(q->first + i) % q->capacity];
}

static size_t cost(const rk_message *m)
{
    return sizeof *m->body + m->body->capacity;
}

/* The lock is held. Takes the i-th out; the younger ones move up. gives */
static rk_message *take_out(rk__letters *q, uint32_t i)
{
    rk_message *m = at(q, i)->m;
    for (; i > 0; i--) {
        *at(q, i) = *at(q, i - 1);
    }
    q->first = (q->first + 1) % q->capacity;
    q->count--;
    q->bytes -= cost(m);
    return m;
}

/* The lock is held. Old ones go until one of `bytes` fits; gives them as a list. */
static rk_message *make_room(rk__letters *q, size_t bytes)
{
    rk_message *gone = NULL;
    while (q->count > 0 && (q->count == q->capacity || q->bytes + bytes > BYTES_MAX)) {
        rk_message *m = take_out(q, 0);
        m->link.next = gone != NULL ? &gone->link : NULL;
        gone = m;
    }
    return gone;
}

static void free_list(rk_message *list)
{
    while (list != NULL) {
        rk_message *m = list;
        list = rk__next(m);
        rk__delivery_free(m);
    }
}

/* What it was as a delivery is over; its sender, priority and topic stay. */
static void settle(rk_message *m)
{
    m->flags &= RK__EMBEDDED | RK__TOPIC;
    if (!(m->flags & RK__TOPIC)) {
        m->token = 0;
    }
    m->deadline = 0;
}

static void name_of(rk_pid pid, char name[RK_NAME_MAX])
{
    rk__actor *a = rk__actor_find(pid);
    name[0] = '\0';
    if (a == NULL) {
        a = rk__actor_slot(pid); /* it may have ended just now; then its name is still there */
    }
    if (a != NULL) {
        pthread_mutex_lock(&a->lock);
        uint32_t now = rk__pid_generation(rk__actor_pid(a)), was = rk__pid_generation(pid);
        if (now == was || now == was + 1) {
            strcpy(name, a->name);
        }
        pthread_mutex_unlock(&a->lock);
    }
}

void rk__letters_keep(rk_runtime *rt, rk_pid to, rk_message *m, int code)
{
    rk__letters *q = &rt->letters;
    letter kept = {.m = m, .to = to, .code = code, .when = rk__now()};
    rk_message *gone = m;
    m->link.next = NULL;
    settle(m);
    name_of(to, kept.name);
    pthread_mutex_lock(&q->lock);
    q->numbered++;
    if (q->capacity > 0 && cost(m) <= BYTES_MAX) {
        gone = make_room(q, cost(m));
        kept.number = q->numbered;
        q->count++;
        *at(q, q->count - 1) = kept;
        q->bytes += cost(m);
    }
    pthread_mutex_unlock(&q->lock);
    free_list(gone);
}

static rk_message *take_all(rk__letters *q)
{
    rk_message *gone = NULL;
    while (q->count > 0) {
        rk_message *m = take_out(q, 0);
        m->link.next = gone != NULL ? &gone->link : NULL;
        gone = m;
    }
    return gone;
}

void rk__letters_close(rk_runtime *rt)
{
    rk__letters *q = &rt->letters;
    pthread_mutex_lock(&q->lock);
    rk_message *gone = take_all(q);
    letter *ring = q->ring;
    q->ring = NULL;
    q->capacity = 0;
    pthread_mutex_unlock(&q->lock);
    free(ring);
    free_list(gone);
}

/* ---- the public face ----------------------------------------------------------------------- */

void rk_dead_letters_clear(rk_runtime *rt)
{
    pthread_mutex_lock(&rt->letters.lock);
    rk_message *gone = take_all(&rt->letters);
    pthread_mutex_unlock(&rt->letters.lock);
    free_list(gone);
}

static int copy(rk_dead_letter *out, const letter *l, int64_t now)
{
    *out = (rk_dead_letter){.number = l->number,
                            .to = l->to,
                            .from = l->m->from,
                            .code = l->code,
                            .age = now - l->when};
    strcpy(out->to_name, l->name);
    int code = rk_message_share(&out->message, l->m);
    if (code == 0 && l->m->flags & RK__TOPIC) {
        rk__topic_attach(out->message, l->m->topic);
    }
    return code;
}

int rk_dead_letters(rk_runtime *rt, uint64_t after, rk_dead_letter *letters, size_t capacity)
{
    rk__letters *q = &rt->letters;
    int code = 0;
    uint32_t copied = 0, first = 0;
    int64_t now = rk__now();
    if (rk__forked()) {
        return rk__fork_error();
    }
    pthread_mutex_lock(&q->lock);
    while (first < q->count && at(q, first)->number <= after) {
        first++;
    }
    uint32_t count = q->count - first;
    for (; code == 0 && copied < count && copied < capacity; copied++) {
        code = copy(&letters[copied], at(q, first + copied), now);
    }
    pthread_mutex_unlock(&q->lock);
    if (code == 0) {
        return (int)count;
    }
    for (uint32_t i = 0; i + 1 < copied; i++) {
        rk__delivery_free(letters[i].message);
    }
    return code;
}

/* Takes a letter out by its number; 0 or RK_ENOENT. */
static int take_number(rk__letters *q, uint64_t number, letter *out)
{
    bool found = false;
    pthread_mutex_lock(&q->lock);
    for (uint32_t i = 0; i < q->count && !found; i++) {
        if (at(q, i)->number == number) {
            *out = *at(q, i);
            take_out(q, i);
            found = true;
        }
    }
    uint64_t numbered = q->numbered;
    uint32_t capacity = q->capacity;
    pthread_mutex_unlock(&q->lock);
    return found ? 0
                 : rk__fail(RK_ENOENT,
                            "dead letter %llu is not kept (any more): of %llu letters so far up to "
                            "%u of the last ones are, as the runtime's option dead_letters says",
                            (unsigned long long)number, (unsigned long long)numbered, capacity);
}

/* Puts it where it was, or frees it when newer ones have taken all room. takes l->m */
static void put_back(rk__letters *q, const letter *l)
{
    rk_message *gone = l->m;
    pthread_mutex_lock(&q->lock);
    if (q->count < q->capacity && q->bytes + cost(l->m) <= BYTES_MAX) {
        uint32_t i = q->count++;
        for (; i > 0 && at(q, i - 1)->number > l->number; i--) {
            *at(q, i) = *at(q, i - 1);
        }
        *at(q, i) = *l;
        q->bytes += cost(l->m);
        gone = NULL;
    }
    pthread_mutex_unlock(&q->lock);
    rk__delivery_free(gone);
}

/* Who gets it: who it was sent to, else who has that name now. */
static rk_pid receiver(rk_runtime *rt, const letter *l, rk_pid to)
{
    rk_pid named;
    if (to != RK_NOBODY) {
        return to;
    }
    bool renamed = rk__actor_find(l->to) == NULL && l->name[0] != '\0' &&
                   rk__name_get(rt, l->name, &named) == 0;
    return renamed ? named : l->to;
}

int rk_dead_letter_replay(rk_runtime *rt, uint64_t number, rk_pid to)
{
    letter l;
    if (rk__forked()) {
        return rk__fork_error();
    }
    int code = take_number(&rt->letters, number, &l);
    if (code < 0) {
        return code;
    }
    code = rk__post(receiver(rt, &l, to), l.m);
    if (code < 0) {
        put_back(&rt->letters, &l);
    }
    return code;
}

const char *rk_dead_letter_reason(int code)
{
    switch (code) {
    case RK_EDEAD:
        return "dead";
    case RK_EFULL:
        return "full";
    case RK_EEXPIRED:
        return "expired";
    case RK_EREJECTED:
    case RK_ETYPE:
    case RK_ENOENT:
        return "rejected";
    default:
        return "undeliverable";
    }
}
