/*
 * ring.h -- the limit: two pinned threads, two CK rings of 64-byte slots, nothing else. Both poll
 * without ever parking, no message is allocated, nobody can be late.
 *
 * Threads: the caller of ring_start and the echo it starts. Each ring has one producer and one
 * consumer.
 */
#ifndef RK_BENCH_RING_H
#define RK_BENCH_RING_H

#include <ck_pr.h>
#include <ck_ring.h>
#include <semaphore.h>
#include "bench.h"

enum { RING_SLOTS = 1024 };
enum ring_kind { RING_ECHO, RING_COUNT, RING_LAST, RING_REST, RING_STOP };

typedef struct ring_word {
    uint64_t number, kind, rest[6];
} ring_word;

_Static_assert(sizeof(ring_word) == 64, "one cache line");

CK_RING_PROTOTYPE(word, ring_word)

typedef struct ring_lane {
    ck_ring_t ring;
    ring_word slots[RING_SLOTS] __attribute__((aligned(64)));
} ring_lane;

static ring_lane ring_there __attribute__((aligned(64))), ring_back __attribute__((aligned(64)));
static sem_t ring_rests; /* the echo sleeps here after RING_REST, off everybody's way */

static inline void ring_put(ring_lane *l, ring_word *w)
{
    while (!ck_ring_enqueue_spsc_word(&l->ring, l->slots, w)) {
        ck_pr_stall();
    }
}

static inline void ring_take(ring_lane *l, ring_word *w)
{
    while (!ck_ring_dequeue_spsc_word(&l->ring, l->slots, w)) {
        ck_pr_stall();
    }
}

static inline void *ring_echo(void *arg)
{
    uint64_t seen = 0, wrong = 0;
    ring_word w;
    (void)arg;
    bench_pin(bench_cpu(1));
    for (ring_take(&ring_there, &w); w.kind != RING_STOP; ring_take(&ring_there, &w)) {
        if (w.kind == RING_ECHO) {
            w.number++;
            ring_put(&ring_back, &w);
            continue;
        }
        if (w.kind == RING_REST) {
            sem_wait(&ring_rests);
            continue;
        }
        wrong += w.number != seen++;
        if (w.kind == RING_LAST) {
            w = (ring_word){.number = seen, .kind = wrong};
            ring_put(&ring_back, &w);
            seen = wrong = 0;
        }
    }
    return NULL;
}

/* One checked round trip; `number` counts them. */
static inline void ring_trip(uint64_t *number)
{
    ring_word w = {.number = *number}, answer;
    ring_put(&ring_there, &w);
    ring_take(&ring_back, &answer);
    if (answer.number != ++*number) {
        bench_die("raw: got %" PRIu64 " for %" PRIu64, answer.number, *number);
    }
}

/* The echo is on its cpu when this returns. */
static inline void ring_start(pthread_t *thread)
{
    uint64_t number = 0;
    ck_ring_init(&ring_there.ring, RING_SLOTS);
    ck_ring_init(&ring_back.ring, RING_SLOTS);
    if (sem_init(&ring_rests, 0, 0) != 0 || pthread_create(thread, NULL, ring_echo, NULL) != 0) {
        bench_die("cannot start a thread");
    }
    ring_trip(&number);
    ring_put(&ring_there, &(ring_word){.kind = RING_REST});
}

static inline void ring_stop(pthread_t thread)
{
    sem_post(&ring_rests);
    ring_put(&ring_there, &(ring_word){.kind = RING_STOP});
    pthread_join(thread, NULL);
}

/* The p50 of a few milliseconds, ns: what the two cpus can do at this moment. A virtual machine's
 * cpus move, and the distance between them may change threefold from one tenth of a second to the
 * next. Between ring_start and ring_stop. */
static inline double ring_moment(void)
{
    static rk__histogram h;
    uint64_t number = 0;
    sem_post(&ring_rests);
    ring_trip(&number);
    rk__histogram_reset(&h);
    int64_t last = rk__now(), until = last + 4000000;
    while (last < until) {
        ring_trip(&number);
        int64_t now = rk__now();
        rk__histogram_add(&h, now - last);
        last = now;
    }
    ring_put(&ring_there, &(ring_word){.kind = RING_REST});
    return (double)rk__histogram_quantile(&h, 0.5);
}

#endif
